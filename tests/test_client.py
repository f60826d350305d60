"""How the provider's replies are read: each reading that the protocol leaves open, one by one."""

import gzip
import json
import logging
import pickle
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import responses
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from django_leadexec.client import (
    MAX_ACCESS_TOKEN,
    MAX_BODY,
    Client,
    Fresh,
    RefreshOutcome,
    Refused,
    Reply,
    Revoked,
    RevokeOutcome,
    Unavailable,
    is_token,
    read_expiry,
    read_refresh_reply,
    read_revoke_reply,
)

BASE = "https://apps.leadexec.net"
ANY = re.compile(".*")
SENT_AT = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
HALF_PAST = SENT_AT + 1_800
IN_AN_HOUR = SENT_AT + 3_600
DAY = 86_400
YES = {"valid": True, "authToken": "access"}


@dataclass
class Wire:
    """The client over a mocked adapter: what it sent, and what came of the answer."""

    mock: responses.RequestsMock
    client: Client

    def refresh(
        self,
        body: object,
        status: int = 200,
        *,
        token: str = "token",
        app_id: str = "app",
        **options: Any,
    ) -> RefreshOutcome:
        self._answer(body, status, **options)
        return self.client.refresh(token, app_id)

    def revoke(self, body: object, status: int = 200, *, then: object = None) -> RevokeOutcome:
        """Disconnect; ``then`` is what the refresh call after it gets: a body or (body, status)."""
        self._answer(body, status)
        if then is not None:
            self._answer(*(then if isinstance(then, tuple) else (then,)))
        return self.client.revoke("token", "app")

    def _answer(self, body: object, status: int = 200, **options: Any) -> None:
        data = body if isinstance(body, str | bytes | Exception) else json.dumps(body)
        self.mock.get(ANY, body=data, status=status, **options)

    @property
    def urls(self) -> list[str]:
        return [str(call.request.url) for call in self.mock.calls]


@pytest.fixture
def wire() -> Iterator[Wire]:
    with responses.RequestsMock() as mock:
        yield Wire(mock, Client(BASE, 2))


def read(body: object, status: int = 200, token: str = "token") -> RefreshOutcome:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_refresh_reply(Reply(status, data), token, SENT_AT)


def unusable(status: int = 200) -> Unavailable:
    return Unavailable(f"HTTP {status} with no usable reply")


# The request


def test_a_refresh_names_token_and_application_in_the_url(wire: Wire) -> None:
    wire.refresh(YES, token="abc123", app_id="my-app")
    assert wire.urls == [f"{BASE}/authorize/refreshaccesstoken/abc123?appid=my-app"]


def test_a_revocation_names_only_the_token(wire: Wire) -> None:
    wire.revoke({"success": True})
    assert wire.urls == [f"{BASE}/authorize/disconnectapplicationtoken/token"]


@pytest.mark.parametrize(
    ("token", "encoded"),
    [
        ("a/b", "a%2Fb"),
        ("a%2Fb", "a%252Fb"),
        ("100%", "100%25"),
        ("a?b=c&d", "a%3Fb%3Dc%26d"),
        ("a#b", "a%23b"),
        ("../../etc", "..%2F..%2Fetc"),
        ("...", "..."),
        (";:@=+$,!*'()", "%3B%3A%40%3D%2B%24%2C%21%2A%27%28%29"),
        ('"<>[]{}|^`\\', "%22%3C%3E%5B%5D%7B%7D%7C%5E%60%5C"),
        ("az-AZ_09.~", "az-AZ_09.~"),
    ],
)
def test_a_token_is_percent_encoded_into_the_path(wire: Wire, token: str, encoded: str) -> None:
    wire.refresh(YES, token=token)
    assert wire.urls == [f"{BASE}/authorize/refreshaccesstoken/{encoded}?appid=app"]


@pytest.mark.parametrize(
    ("app_id", "encoded"),
    [
        ("a&valid=true", "a%26valid%3Dtrue"),
        ("a b#c/d?e", "a+b%23c%2Fd%3Fe"),
        ("größe", "gr%C3%B6%C3%9Fe"),
        ("50%", "50%25"),
    ],
)
def test_an_application_id_is_encoded_into_the_query(wire: Wire, app_id: str, encoded: str) -> None:
    wire.refresh(YES, app_id=app_id)
    assert wire.urls == [f"{BASE}/authorize/refreshaccesstoken/token?appid={encoded}"]


def test_a_base_url_with_a_path_is_kept(wire: Wire) -> None:
    wire.client = Client("http://127.0.0.1:8000/sandbox", 2)
    wire.refresh(YES)
    assert wire.urls == [
        "http://127.0.0.1:8000/sandbox/authorize/refreshaccesstoken/token?appid=app"
    ]


@pytest.mark.parametrize(
    "token", ["a", "!", "~", "a/b", "100%", "a?b#c", "...", ".a", "x" * 2_048, '"\\<>']
)
def test_visible_ascii_is_a_token(token: str) -> None:
    assert is_token(token)


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "a b",
        "a\n",
        "\ta",
        "a\x00",
        "a\x7f",
        ".",
        "..",
        "x" * 2_049,
        "tökén",
        "token\u200b",
        "\N{FULLWIDTH LATIN SMALL LETTER A}",
        "\ud800",
        b"token",
        None,
        1,
        True,
        ["token"],
    ],
)
def test_anything_else_is_no_token(value: object) -> None:
    assert not is_token(value)


# The answer to a refresh call: yes


def test_a_yes_brings_a_fresh_token_and_its_end(wire: Wire) -> None:
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=30)
    outcome = wire.refresh(
        {
            "valid": True,
            "refreshToken": "token",
            "authToken": "access",
            "expireDate": end.isoformat(),
            "errorMessage": None,
        }
    )
    assert outcome == Fresh("access", end.timestamp())


@pytest.mark.parametrize("valid", [True, "true", "True", "TRUE", " true "], ids=repr)
def test_valid_may_be_a_boolean_or_a_word(valid: object) -> None:
    assert read({"valid": valid, "authToken": "access"}) == Fresh("access", IN_AN_HOUR)


@pytest.mark.parametrize(
    "body",
    [
        {"Valid": True, "AuthToken": "access", "ExpireDate": "2025-01-01T00:30:00Z"},
        {"VALID": True, "AUTHTOKEN": "access", "EXPIREDATE": "2025-01-01T00:30:00Z"},
        {"valid": True, "authtoken": "access", "expiredate": "2025-01-01T00:30:00Z"},
    ],
)
def test_keys_may_be_in_another_case(body: object) -> None:
    assert read(body) == Fresh("access", HALF_PAST)


@pytest.mark.parametrize(
    "access_token",
    [
        None,
        "",
        " ",
        1,
        ["access"],
        {"token": "access"},
        "two words",
        "line\r\nbreak",
        "tökén",
        "\ud800",
        "x" * (MAX_ACCESS_TOKEN + 1),
    ],
)
def test_a_yes_without_a_usable_access_token_is_no_success(access_token: object) -> None:
    assert read({"valid": True, "authToken": access_token}) == unusable()


def test_a_yes_without_the_key_of_the_access_token_is_no_success() -> None:
    assert read({"valid": True, "refreshToken": "token"}) == unusable()


def test_a_long_access_token_is_taken() -> None:
    long = "x" * MAX_ACCESS_TOKEN
    assert read({"valid": True, "authToken": long}) == Fresh(long, IN_AN_HOUR)


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_yes_with_an_error_status_is_no_success(status: int) -> None:
    assert read(YES, status) == unusable(status)


def test_a_byte_order_mark_is_skipped() -> None:
    body = b"\xef\xbb\xbf" + json.dumps(YES).encode()
    assert read(body) == Fresh("access", IN_AN_HOUR)


@pytest.mark.parametrize("content_type", ["text/html", "text/plain; charset=latin-1", ""])
def test_the_content_type_does_not_matter(wire: Wire, content_type: str) -> None:
    outcome = wire.refresh({**YES, "note": "é"}, content_type=content_type)
    assert isinstance(outcome, Fresh)


# Its end


@pytest.mark.parametrize(
    "text",
    [
        "2025-01-01T00:30:00Z",
        "2025-01-01T00:30:00",
        "2025-01-01 00:30:00",
        "2025-01-01T00:30Z",
        "2025-01-01T00:30:00.000Z",
        "2025-01-01T00:30:00.000000",
        "2025-01-01T00:30:00.0000000",
        "2025-01-01T00:30:00.0000000Z",
        "2025-01-01T00:30:00+00:00",
        "2025-01-01T02:30:00+02:00",
        "2024-12-31T17:30:00.0000000-07:00",
        " 2025-01-01T00:30:00Z\n",
        "/Date(1735691400000)/",
        "/Date(1735691400000+0000)/",
        "/Date(1735691400000+0200)/",
        "/Date(1735691400000-0700)/",
        "1/1/2025 12:30:00 AM",
        "01/01/2025 12:30:00 AM",
        "1/1/2025 12:30:00 am",
    ],
)
def test_an_end_is_read_as_utc(text: str) -> None:
    assert read_expiry(text, SENT_AT) == HALF_PAST


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2025-01-01T00:30:00.25Z", 1_800.25),
        ("2025-01-01T00:30:00.1234567Z", 1_800.123456),
        ("2025-01-01T00:30:00.123456789", 1_800.123456),
        ("/Date(1735691400250)/", 1_800.25),
        ("1/1/2025 12:00:01 PM", 43_201),
        ("1/1/2025 1:05:09 PM", 47_109),
        ("1/2/2025 12:00:00 AM", DAY),
    ],
)
def test_fractions_and_afternoons_are_read(text: str, seconds: float) -> None:
    assert read_expiry(text, SENT_AT) == pytest.approx(SENT_AT + seconds, abs=1e-6)


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the system can't change its time zone")
@pytest.mark.parametrize("text", ["2025-01-01T00:30:00", "1/1/2025 12:30:00 AM"])
def test_the_servers_own_time_zone_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        assert read_expiry(text, SENT_AT) == HALF_PAST
    time.tzset()


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "soon",
        0,
        1_735_691_400,
        1_735_691_400_000,
        True,
        [],
        {},
        "2025-13-01T00:30:00Z",
        "2025-01-01T00:30:00Z trailing",
        "31/12/2025 12:30:00 AM",
        "1/1/2025 13:30:00 PM",
        "1/1/2025",
        "/Date(x)/",
        "/Date()/",
        "Date(1735691400000)",
        "/Date(99999999999999999999)/",
        "\\/Date(1735691400000)\\/",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "NaN",
        "\ud800",
        "2025-01-01T00:30:00." + "0" * 100_000,
    ],
)
def test_an_unknown_format_means_an_hour_from_the_request(value: object) -> None:
    assert read_expiry(value, SENT_AT) == IN_AN_HOUR


@pytest.mark.parametrize(
    "text",
    [
        "2025-01-01T00:00:00Z",
        "2024-12-31T23:59:59Z",
        "1970-01-01T00:00:00Z",
        "/Date(-1735691400000)/",
        "12/31/2024 11:59:59 PM",
        "2025-01-02T00:00:00.000001Z",
        "2025-01-03T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "/Date(999999999999999)/",
    ],
)
def test_a_past_or_far_end_means_an_hour_from_the_request(text: str) -> None:
    assert read_expiry(text, SENT_AT) == IN_AN_HOUR


def test_a_day_is_not_too_far() -> None:
    assert read_expiry("2025-01-02T00:00:00Z", SENT_AT) == SENT_AT + DAY


def test_the_hour_counts_from_when_the_request_was_sent(wire: Wire) -> None:
    arrivals = []

    def late(request: object) -> tuple[int, dict[str, str], str]:
        arrivals.append(time.time())
        time.sleep(0.05)
        return 200, {}, json.dumps(YES)

    wire.mock.add_callback(responses.GET, ANY, late)
    outcome = wire.client.refresh("token", "app")
    assert isinstance(outcome, Fresh)
    assert outcome.expires_at <= arrivals[0] + 3_600


# No


@pytest.mark.parametrize("valid", [False, "false", "False", "FALSE", " false "], ids=repr)
def test_a_no_with_200_refuses(valid: object) -> None:
    assert read({"valid": valid}) == Refused("the provider gave no reason")


def test_a_no_in_another_case_refuses() -> None:
    assert read({"VALID": "False", "ErrorMessage": "Expired"}) == Refused("Expired")


def test_a_no_with_an_access_token_refuses() -> None:
    assert isinstance(read({"valid": False, "authToken": "access"}), Refused)


@pytest.mark.parametrize("status", [400, 401, 403])
@pytest.mark.parametrize("key", ["refreshToken", "authToken", "expireDate", "ERRORMESSAGE"])
def test_a_no_with_an_error_status_refuses_beside_a_documented_key(status: int, key: str) -> None:
    assert read({"valid": False, key: None}, status) == Refused("the provider gave no reason")


@pytest.mark.parametrize("status", [400, 401, 403])
@pytest.mark.parametrize("extra", [{}, {"message": "Forbidden"}, {"error": 1}])
def test_a_bare_no_with_an_error_status_says_nothing(status: int, extra: dict[str, Any]) -> None:
    # A gateway in front of the provider may send it.
    assert read({"valid": False, **extra}, status) == unusable(status)


@pytest.mark.parametrize("status", [201, 202, 204, 206, 302, 402, 404, 405, 410, 422, 500, 503])
def test_a_no_with_another_status_says_nothing(status: int) -> None:
    body = {"valid": False, "refreshToken": "token", "errorMessage": "no"}
    assert read(body, status) == Unavailable(f"HTTP {status}")


@pytest.mark.parametrize(
    "valid", [None, 0, 1, "", "no", "0", "null", [], [False], {}, 0.0], ids=repr
)
def test_an_ambiguous_valid_says_nothing(valid: object) -> None:
    assert read({**YES, "valid": valid, "errorMessage": "no"}) == unusable()


@pytest.mark.parametrize(
    "body",
    [
        b'{"valid": true, "valid": false, "authToken": "access"}',
        b'{"valid": false, "Valid": true, "authToken": "access"}',
        b'{"valid": true, "authToken": "one", "AuthToken": "two"}',
        b'{"valid": false, "errorMessage": "a", "ErrorMessage": "b"}',
    ],
)
def test_a_key_with_two_values_says_nothing(body: bytes) -> None:
    assert read(body) == unusable()


def test_a_key_that_is_repeated_with_one_value_does_no_harm() -> None:
    body = b'{"valid": true, "Valid": true, "authToken": "access"}'
    assert read(body) == Fresh("access", IN_AN_HOUR)


NOT_ONE_OBJECT = {
    "nothing": b"",
    "a blank": b" ",
    "HTML": b"<html><body>Down for maintenance</body></html>",
    "half an object": b'{"valid": false',
    "half a string": b'{"valid": false, "errorMessage": "x',
    "Python": b"{'valid': false}",
    "a form": b"valid=false",
    "false": b"false",
    "null": b"null",
    "a number": b"0",
    "a string": b'"valid"',
    "a list of an object": b'[{"valid": false}]',
    "an empty list": b"[]",
    "an empty object": b"{}",
    "two objects": b'{"valid": false} {"valid": false}',
    "JSONP": b'callback({"valid": false});',
    "an object in an object": b'{"data": {"valid": false}}',
    "many lists begun": b'{"valid": ' + b"[" * 30_000,
    "many objects begun": b'{"valid": ' * 6_000,
    "a list bomb": b"[" * 30_000 + b"]" * 30_000,
    "an endless number": b'{"valid": false, "n": ' + b"9" * 60_000 + b"}",
    "not a number": b'{"valid": false, "n": NaN}',
    "UTF-16": '{"valid": false}'.encode("utf-16"),
    "UTF-32": '{"valid": false}'.encode("utf-32"),
    "Latin-1": '{"valid": false, "errorMessage": "ungültig"}'.encode("latin-1"),
    "a gzip head": b'\x1f\x8b{"valid": false}',
    "gzip": gzip.compress(b'{"valid": false}'),
    "a stray byte": b'\xff{"valid": false}',
}


@pytest.mark.parametrize("body", NOT_ONE_OBJECT.values(), ids=NOT_ONE_OBJECT)
@pytest.mark.parametrize("status", [200, 400, 401, 403])
def test_a_body_that_is_not_one_whole_object_says_nothing(body: bytes, status: int) -> None:
    assert read(body, status) == unusable(status)


# What the provider says of why


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("Revoked by user.", "Revoked by user."),
        ("  two\r\n\tlines ", "two lines"),
        ("bell\x07 and \x1b[31mred", "… and …"),
        ("right\u202eto left", "… left"),
        ("Rückruf ✓", "Rückruf …"),
        ("half \ud800 a pair", "half … a pair"),
        ("Application 4711-abc is unknown!", "Application … is unknown!"),
        ('the "user" (or: the application\'s owner) said so.', None),
        ("see https://example.org/why?id=5 or code=AB_17", "see … or …"),
        ("hidden by a Sec\u200bret", "hidden by a …"),
        ("one 1 2 3 more", "one … more"),
        ("x" * 10_000, "the provider gave no reason"),
        ("word " * 10_000, "word " * 40),
        ("17 0x2A", "the provider gave no reason"),
        ("", "the provider gave no reason"),
        ("\x00\x07", "the provider gave no reason"),
        (None, "the provider gave no reason"),
        (17, "the provider gave no reason"),
        (["a"], "the provider gave no reason"),
    ],
)
def test_the_reason_is_told_in_its_words_alone(message: object, reason: str | None) -> None:
    outcome = read({"valid": False, "errorMessage": message}, token="0/canary%")
    assert outcome == Refused(str(message) if reason is None else reason)


@pytest.mark.parametrize(
    "quoting",
    [
        "token Secretive is not valid",
        "SECRETIVE",
        "cut short: Secretiv",
        "its end: earerOfWords",
        "access: BearerOfW",
        "hidden by a Sec\u200bretive",
        "word " * 100 + "Secretive",
    ],
)
def test_a_reason_with_a_token_that_is_a_word_is_withheld(quoting: str) -> None:
    no = {"valid": False, "errorMessage": quoting, "authToken": "BearerOfWords"}
    outcome = read(no, token="Secretive")
    assert outcome == Refused("the provider's reason is withheld, as it quotes the token")


# The echo of the refresh token


@pytest.mark.parametrize(
    "echo",
    ["Token", "TOKEN", " Token ", "token\n", "", " ", None, 5, False, ["other"]],
    ids=repr,
)
def test_an_echo_that_is_trimmed_recased_or_empty_does_nothing(
    echo: object, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = read({**YES, "refreshToken": echo}, token="Token")
    assert outcome == Fresh("access", IN_AN_HOUR)
    assert not caplog.records


def test_an_absent_echo_does_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert read(YES) == Fresh("access", IN_AN_HOUR)
    assert not caplog.records


def test_another_token_as_echo_is_warned_of_without_values(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outcome = read({**YES, "refreshToken": "canary-other"}, token="canary-mine")
    assert outcome == Fresh("access", IN_AN_HOUR)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.name == "django_leadexec.client"
    assert "another refresh token" in record.getMessage()
    assert "canary" not in repr(vars(record))


# Neither


@pytest.mark.parametrize("status", [404, 429, 500, 502, 503, 504, 301, 302, 307, 418])
@pytest.mark.parametrize("body", ["", "<h1>Sorry</h1>", '{"valid": false, "errorMessage": "x"}'])
def test_trouble_says_nothing_of_the_token(wire: Wire, status: int, body: str) -> None:
    assert wire.refresh(body, status) == Unavailable(f"HTTP {status}")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("30", 30), ("0", 0), ("2.5", 2.5), (" 7 ", 7), ("-5", 0), ("999999999", DAY)],
)
@pytest.mark.parametrize("status", [429, 503, 404, 302])
def test_retry_after_in_seconds_is_passed_on(
    wire: Wire, value: str, seconds: float, status: int
) -> None:
    outcome = wire.refresh("", status, headers={"Retry-After": value})
    assert outcome == Unavailable(f"HTTP {status}", seconds)


@pytest.mark.parametrize("zone", ["GMT", "+0000", "-0000", ""])
def test_retry_after_as_a_date_is_passed_on(wire: Wire, zone: str) -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(minutes=5), usegmt=True)
    outcome = wire.refresh("", 429, headers={"Retry-After": moment.replace("GMT", zone).strip()})
    assert isinstance(outcome, Unavailable)
    assert outcome.retry_after == pytest.approx(300, abs=10)


@pytest.mark.parametrize(
    ("moment", "seconds"),
    [("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("Wed, 21 Oct 2099 07:28:00 GMT", DAY)],
)
def test_retry_after_stays_between_now_and_a_day(wire: Wire, moment: str, seconds: float) -> None:
    outcome = wire.refresh("", 429, headers={"Retry-After": moment})
    assert outcome == Unavailable("HTTP 429", seconds)


@pytest.mark.parametrize(
    "value",
    ["", " ", "soon", "nan", "inf", "-inf", "1e999", "0x10", "12 s", "Wed, 99 Xyz 2099", "é", ",;"],
    ids=repr,
)
def test_a_retry_after_that_makes_no_sense_is_ignored(wire: Wire, value: str) -> None:
    outcome = wire.refresh("", 429, headers={"Retry-After": value})
    assert outcome == Unavailable("HTTP 429")


def test_retry_after_is_passed_on_with_an_unusable_reply(wire: Wire) -> None:
    outcome = wire.refresh("<html>", 200, headers={"Retry-After": "9"})
    assert outcome == Unavailable("HTTP 200 with no usable reply", 9)


def test_a_body_may_be_as_long_as_the_limit_and_no_longer(wire: Wire) -> None:
    body = json.dumps(YES).ljust(MAX_BODY)
    assert isinstance(wire.refresh(body), Fresh)
    wire.mock.reset()
    assert wire.refresh(body + " ") == Unavailable("HTTP 200 with an oversized body")


def test_a_body_labelled_as_compressed_is_not_unpacked(wire: Wire) -> None:
    bomb = gzip.compress(json.dumps(YES).encode())
    assert wire.refresh(bomb, headers={"Content-Encoding": "gzip"}) == unusable()


def test_a_plain_body_labelled_as_compressed_is_read(wire: Wire) -> None:
    assert isinstance(wire.refresh(YES, headers={"Content-Encoding": "gzip"}), Fresh)


# The answer to a disconnect call

NO = {"valid": False, "errorMessage": "unknown token"}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"success": True},
        {"valid": True},
        {"Success": "true"},
        {"message": "Disconnected"},
        '{"success": true}',
        'callback({"success": true})',
        'callback({"success": true});',
        ' callback ( {"success": true} ) ; \r\n',
        '/**/callback({"success": true});',
        '/**/ callback({"success": true});',
        'jQuery.callbacks.x_1({"success": true});',
        'window["cb"]({});'.replace('"', ""),
        "$({});",
        'cb({"message": "a (b); c)"});',
        '\ufeff{"success": true}',
    ],
)
@pytest.mark.parametrize("status", [200, 201, 202])
def test_an_object_that_does_not_say_no_confirms(wire: Wire, body: object, status: int) -> None:
    data = body.encode() if isinstance(body, str) else body
    assert wire.revoke(data, status) == Revoked()
    assert len(wire.urls) == 1


UNCLEAR = [
    {"valid": False},
    {"success": False},
    {"SUCCESS": "False"},
    {"success": True, "valid": False},
    'callback({"success": false});',
    "",
    "OK",
    "<html>Down for maintenance</html>",
    "true",
    "[]",
    "null",
    '{"success": true',
    'callback({"success": true}',
    'callback({"success": true}); alert(1)',
    'a({"success": true}) b({})',
    '{"success": true, "Success": false}',
    "callback([1]);",
]


@pytest.mark.parametrize("body", UNCLEAR)
def test_for_any_other_answer_a_refused_refresh_confirms(wire: Wire, body: object) -> None:
    assert wire.revoke(body, then=NO) == Revoked()
    assert wire.urls == [
        f"{BASE}/authorize/disconnectapplicationtoken/token",
        f"{BASE}/authorize/refreshaccesstoken/token?appid=app",
    ]


@pytest.mark.parametrize("body", UNCLEAR)
def test_for_any_other_answer_a_granted_refresh_denies(wire: Wire, body: object) -> None:
    outcome = wire.revoke(body, then=YES)
    assert outcome == Unavailable("the provider still honours the token")


@pytest.mark.parametrize(
    ("then", "outcome"),
    [
        ("<html>", Unavailable("HTTP 200 with no usable reply")),
        (("", 503), Unavailable("HTTP 503")),
        (({"valid": False}, 403), Unavailable("HTTP 403 with no usable reply")),
    ],
)
def test_for_any_other_answer_an_unanswered_refresh_leaves_it_open(
    wire: Wire, then: object, outcome: Unavailable
) -> None:
    assert wire.revoke("<html>Down</html>", then=then) == outcome


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_no_with_an_error_status_leaves_it_to_the_refresh(wire: Wire, status: int) -> None:
    assert wire.revoke({"success": False}, status, then=NO) == Revoked()


@pytest.mark.parametrize("status", [400, 401, 403])
@pytest.mark.parametrize("body", ["", "<html>", {}, {"success": True}, {"message": "Forbidden"}])
def test_an_error_status_without_a_no_does_not_confirm(
    wire: Wire, status: int, body: object
) -> None:
    assert wire.revoke(body, status) == Unavailable(f"HTTP {status}")
    assert len(wire.urls) == 1


@pytest.mark.parametrize("status", [302, 404, 410, 429, 500, 503])
@pytest.mark.parametrize("body", ["", {"success": True}, {"success": False}, {"valid": False}])
def test_trouble_does_not_confirm(wire: Wire, status: int, body: object) -> None:
    assert wire.revoke(body, status) == Unavailable(f"HTTP {status}")
    assert len(wire.urls) == 1


def test_a_throttled_revocation_passes_retry_after_on(wire: Wire) -> None:
    wire.mock.get(ANY, status=429, headers={"Retry-After": "60"})
    assert wire.client.revoke("token", "app") == Unavailable("HTTP 429", 60)


@pytest.mark.parametrize(
    "body",
    [
        b" " * MAX_BODY,
        b"a()" + b" " * (MAX_BODY - 4) + b"x",
        b"/**/" + b" " * (MAX_BODY - 4),
        b"a" * MAX_BODY,
        b"a(" + b")" * (MAX_BODY - 3) + b"x",
        b"a(" + b") " * (MAX_BODY // 2 - 3) + b"x",
    ],
    ids=["blanks", "blanks at the end", "a comment", "a name", "brackets", "spaced brackets"],
)
def test_no_body_takes_long_to_read(body: bytes) -> None:
    started = time.process_time()
    assert read_revoke_reply(Reply(200, body)) == Refused("unclear")
    assert time.process_time() - started < 5


# Outcomes


def test_outcomes_show_no_access_token_and_no_body() -> None:
    assert "canary" not in repr(Fresh("canary", 0)) + str(Fresh("canary", 0))
    assert "canary" not in repr(Reply(200, b"canary")) + str(Reply(200, b"canary"))


def test_outcomes_survive_a_queue() -> None:
    for outcome in (Fresh("access", 1), Refused("no"), Unavailable("down", 5), Revoked()):
        assert pickle.loads(pickle.dumps(outcome)) == outcome  # noqa: S301 - our own


# Whatever comes

KEYS = st.sampled_from(
    ["valid", "Valid", "VALID", "success", "authToken", "refreshToken", "expireDate"]
) | st.sampled_from(["errorMessage", "message"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from(["true", "False", "access", "2025-01-01T00:30:00Z", "/Date(1735691400000)/"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=6)
BODIES = (
    st.binary(max_size=200)
    | OBJECTS.map(lambda data: json.dumps(data).encode())
    | OBJECTS.map(lambda data: f"cb({json.dumps(data)});".encode())
    | VALUES.map(lambda data: json.dumps(data).encode())
)
STATUSES = st.sampled_from([200, 204, 302, 400, 401, 403, 404, 429, 500]) | st.integers(100, 999)
fuzz = settings(
    deadline=None, database=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow]
)


def says_no(body: bytes) -> bool:
    data = json.loads(body.decode("utf-8-sig"))
    return any(
        key.lower() == "valid" and (value is False or str(value).strip().lower() == "false")
        for key, value in data.items()
    )


@fuzz
@given(BODIES, STATUSES)
def test_no_reply_to_a_refresh_breaks_the_reader_or_is_overrated(body: bytes, status: int) -> None:
    outcome = read_refresh_reply(Reply(status, body), "token", SENT_AT)
    if isinstance(outcome, Fresh):
        assert status == 200
        assert re.fullmatch(r"[!-~]{1,16384}", outcome.access_token)
        assert SENT_AT < outcome.expires_at <= SENT_AT + DAY
    elif isinstance(outcome, Refused):
        assert status in (200, 400, 401, 403)
        assert says_no(body)
        assert outcome.reason.isprintable()
        assert len(outcome.reason) <= 200
    else:
        assert isinstance(outcome, Unavailable)


@fuzz
@given(BODIES, STATUSES)
def test_no_reply_to_a_revocation_breaks_the_reader_or_is_overrated(
    body: bytes, status: int
) -> None:
    outcome = read_revoke_reply(Reply(status, body))
    if isinstance(outcome, Revoked):
        assert 200 <= status < 300
        assert b"{" in body
    elif isinstance(outcome, Refused):
        assert 200 <= status < 300 or status in (400, 401, 403)
    else:
        assert isinstance(outcome, Unavailable)
        assert not 200 <= status < 300


@fuzz
@given(VALUES | st.text() | st.datetimes().map(str) | st.from_regex(r"/Date\(-?\d{1,20}\)/"))
def test_no_date_breaks_the_reader_or_lies_outside_a_day(value: object) -> None:
    assert SENT_AT < read_expiry(value, SENT_AT) <= SENT_AT + DAY
