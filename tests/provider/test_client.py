"""The two calls: what the client asks, what it makes of the answers, and who shares a client."""

import gzip
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import responses
from pytest_django import Settings

from django_leadexec.conf import get_settings
from django_leadexec.provider.client import MAX_BODY, Client, client_for, get_client
from django_leadexec.provider.replies import (
    Fresh,
    RefreshOutcome,
    Revoked,
    RevokeOutcome,
    Unavailable,
)
from django_leadexec.secret import Secret

from ..processes import start_module
from ..sockets import Peer, answering, serving
from .certificates import Certificate, over_tls, secure
from .stand_in import Provider, http
from .wire_answers import LONG

BASE = "https://apps.leadexec.net"
ANY = re.compile(".*")
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
    assert outcome == Fresh(Secret("access"), end.timestamp())


@pytest.mark.parametrize("content_type", ["text/html", "text/plain; charset=latin-1", ""])
def test_the_content_type_does_not_matter(wire: Wire, content_type: str) -> None:
    outcome = wire.refresh({**YES, "note": "é"}, content_type=content_type)
    assert isinstance(outcome, Fresh)


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


# Who shares a client


def test_one_client_serves_a_configuration(provider: Provider, settings: Settings) -> None:
    first = get_client()
    assert first is get_client()
    assert first is client_for(get_settings())
    assert (first.base_url, first.timeout) == (provider.url, get_settings().timeout)
    settings.LEADEXEC = settings.LEADEXEC | {"TIMEOUT": 3}
    assert get_client() is not first
    assert get_client().timeout == 3


def test_a_client_shows_nothing_but_its_class(provider: Provider) -> None:
    assert repr(get_client()).startswith("<django_leadexec.provider.client.Client object")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_makes_its_own_connections(settings: Settings) -> None:
    with serving(answering(http(YES))) as server:
        settings.DEBUG = True
        settings.LEADEXEC = settings.LEADEXEC | {"BASE_URL": server.url, "TIMEOUT": LONG}
        parents = get_client()
        parents.refresh("token", "app")
        assert server.accepted == 1
        receiver, sender = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover - measured in the parent only
            try:
                outcome = get_client().refresh("token", "app")
                ok = isinstance(outcome, Fresh) and get_client() is not parents
                os.write(sender, b"own" if ok else repr(outcome).encode())
            finally:
                os._exit(0)
        os.close(sender)
        with os.fdopen(receiver, "rb") as pipe:
            assert pipe.read() == b"own"
        os.waitpid(child, 0)
        assert server.accepted == 2
        # And the parent's connection is still good.
        assert isinstance(parents.refresh("token", "app"), Fresh)
        assert server.accepted == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize("is_secure", [False, True], ids=["http", "https"])
@pytest.mark.slow
def test_processes_that_were_forked_without_python_get_their_own_answers(
    is_secure: bool, trusted: Certificate
) -> None:
    def talk(peer: Peer) -> None:
        while request := peer.request():
            token = request.target.split("/")[-1].split("?")[0]
            peer.send(http({"valid": True, "authToken": f"access-for-{token}"}))

    with serving(over_tls(trusted, talk) if is_secure else talk) as server:
        url = secure(server.url) if is_secure else server.url
        process = start_module(None, "tests.provider.forks", LEADEXEC_TEST_PROVIDER=url)
        out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    answers = json.loads(out)
    assert answers == {token: f"access-for-{token}" for token in answers}
    assert {token.partition("-")[0] for token in answers} == {"before", "child", "parent", "after"}
    # The parent's own connection has served it throughout, and the child's the child.
    assert server.accepted == 2
