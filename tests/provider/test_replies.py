"""How the provider's replies are read: each reading that the protocol leaves open, one by one."""

import gzip
import json
import logging
import pickle
import re
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from django_leadexec.provider.client import MAX_BODY
from django_leadexec.provider.replies import (
    MAX_ACCESS_TOKEN,
    Fresh,
    RefreshOutcome,
    Refused,
    Reply,
    Revoked,
    Unavailable,
    is_token,
    read_expiry,
    read_refresh_reply,
    read_revoke_reply,
)
from django_leadexec.secret import Secret

SENT_AT = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
HALF_PAST = SENT_AT + 1_800
IN_AN_HOUR = SENT_AT + 3_600
DAY = 86_400
YES = {"valid": True, "authToken": "access"}


def read(body: object, status: int = 200, token: str = "token") -> RefreshOutcome:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_refresh_reply(Reply(status, data), token, SENT_AT)


def unusable(status: int = 200) -> Unavailable:
    return Unavailable(f"HTTP {status} with no usable reply")


# What can be a token


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


@pytest.mark.parametrize("valid", [True, "true", "True", "TRUE", " true "], ids=repr)
def test_valid_may_be_a_boolean_or_a_word(valid: object) -> None:
    assert read({"valid": valid, "authToken": "access"}) == Fresh(Secret("access"), IN_AN_HOUR)


@pytest.mark.parametrize(
    "body",
    [
        {"Valid": True, "AuthToken": "access", "ExpireDate": "2025-01-01T00:30:00Z"},
        {"VALID": True, "AUTHTOKEN": "access", "EXPIREDATE": "2025-01-01T00:30:00Z"},
        {"valid": True, "authtoken": "access", "expiredate": "2025-01-01T00:30:00Z"},
    ],
)
def test_keys_may_be_in_another_case(body: object) -> None:
    assert read(body) == Fresh(Secret("access"), HALF_PAST)


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
    assert read({"valid": True, "authToken": long}) == Fresh(Secret(long), IN_AN_HOUR)


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_yes_with_an_error_status_is_no_success(status: int) -> None:
    assert read(YES, status) == unusable(status)


def test_a_byte_order_mark_is_skipped() -> None:
    body = b"\xef\xbb\xbf" + json.dumps(YES).encode()
    assert read(body) == Fresh(Secret("access"), IN_AN_HOUR)


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
    assert read(body) == Fresh(Secret("access"), IN_AN_HOUR)


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
    assert outcome == Fresh(Secret("access"), IN_AN_HOUR)
    assert not caplog.records


def test_an_absent_echo_does_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert read(YES) == Fresh(Secret("access"), IN_AN_HOUR)
    assert not caplog.records


def test_another_token_as_echo_is_warned_of_without_values(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outcome = read({**YES, "refreshToken": "canary-other"}, token="canary-mine")
    assert outcome == Fresh(Secret("access"), IN_AN_HOUR, Secret("canary-other"))
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.name == "django_leadexec.provider.replies"
    assert "another refresh token" in record.getMessage()
    assert "canary" not in repr(vars(record))


# The answer to a disconnect call


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
    assert read_revoke_reply(Reply(200, body), "t") == Refused("unclear")
    assert time.process_time() - started < 5


# Outcomes


def test_outcomes_show_no_access_token_and_no_body() -> None:
    assert "canary" not in repr(Fresh(Secret("canary"), 0)) + str(Fresh(Secret("canary"), 0))
    assert "canary" not in repr(Reply(200, b"canary")) + str(Reply(200, b"canary"))


def test_outcomes_survive_a_queue_but_for_the_one_with_a_token() -> None:
    for outcome in (Refused("no"), Unavailable("down", 5), Revoked()):
        assert pickle.loads(pickle.dumps(outcome)) == outcome  # noqa: S301 - our own
    with pytest.raises(TypeError, match="secret"):
        pickle.dumps(Fresh(Secret("access"), 1))


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
@pytest.mark.slow
def test_no_reply_to_a_refresh_breaks_the_reader_or_is_overrated(body: bytes, status: int) -> None:
    outcome = read_refresh_reply(Reply(status, body), "token", SENT_AT)
    if isinstance(outcome, Fresh):
        assert status == 200
        assert re.fullmatch(r"[!-~]{1,16384}", outcome.access_token.reveal())
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
    outcome = read_revoke_reply(Reply(status, body), "t")
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
