"""Whatever goes wrong, the client shows no refresh token: in no log, no print and no outcome."""

import base64
import http.client
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest
import requests
import urllib3
from requests.adapters import HTTPAdapter

from django_leadexec.provider import transport
from django_leadexec.provider.client import Client
from django_leadexec.provider.replies import Fresh, Refused, Unavailable

from ..concurrency.threads import begin, together
from ..sockets import Talk, answering, serving
from .stand_in import http as reply
from .wire_answers import BROKEN, LONG, SHORT, SLOW, endless_body, say

CANARY = "CanaryToken"
TOKEN = f"{CANARY}/100%?{CANARY}#{CANARY}={CANARY}"


def leaks(text: str) -> bool:
    """Whether the token, or a part of it, is in the text: plain, percent-encoded or in base64."""
    shapes = [
        base64.b64encode(b" " * offset + CANARY.encode())[4:-4].decode() for offset in range(3)
    ]
    return CANARY.lower() in text.lower() or any(shape in text for shape in shapes)


@dataclass
class Surroundings:
    """All that a call could have left behind. ``noted``: by tools that wrap urllib3's and
    http.client's methods, as error trackers do for their breadcrumbs, and tracers for spans."""

    caplog: pytest.LogCaptureFixture
    capsys: pytest.CaptureFixture[str]
    noted: list[str] = field(default_factory=list)

    def note(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.noted.append(f"{method.__name__} {args!r} {kwargs!r}")
            return method(*args, **kwargs)

        return wrapped

    def text(self) -> str:
        records = [
            f"{record.getMessage()} {vars(record)!r} {record.exc_text}"
            for record in self.caplog.records
        ]
        printed = self.capsys.readouterr()
        return "\n".join([*records, self.caplog.text, printed.out, printed.err, *self.noted])


@pytest.fixture
def surroundings(
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Surroundings:
    """Every logger at DEBUG, http.client told to print what it sends, and tools that take notes."""
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    caplog.set_level(logging.DEBUG)
    for name in list(logging.root.manager.loggerDict):
        caplog.set_level(logging.DEBUG, logger=name)
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
        monkeypatch.setattr(logging.getLogger(name), "disabled", False)
    found = Surroundings(caplog, capsys)
    for owner, name in (
        (http.client.HTTPConnection, "putrequest"),
        (urllib3.connection.HTTPConnection, "request"),
        (urllib3.HTTPConnectionPool, "urlopen"),
        (HTTPAdapter, "get_connection_with_tls_context"),
    ):
        monkeypatch.setattr(owner, name, found.note(getattr(owner, name)))
    return found


QUOTING = reply({"valid": False, "errorMessage": f"no such token: {TOKEN}", "refreshToken": TOKEN})
ODD = {
    "a yes": answering(reply({"valid": True, "authToken": "access", "refreshToken": TOKEN})),
    "another's echo": answering(
        reply({"valid": True, "authToken": "access", "refreshToken": f"{TOKEN}x"})
    ),
    "an access token that can't be": answering(reply({"valid": True, "authToken": f"{TOKEN} "})),
    "a no that quotes the token": answering(QUOTING),
    "an error page that quotes it": answering(reply(f"<p>{TOKEN}</p>".encode(), 500)),
    "a redirect that quotes it": answering(reply(b"", 302, f"Location: /login?next={TOKEN}\r\n")),
    "a Retry-After that quotes it": answering(reply(b"", 429, f"Retry-After: {TOKEN}\r\n")),
    "a status line that quotes it": say(f"HTTP/1.1 {TOKEN}\r\n\r\n".encode()),
    "a reason that quotes it": say(f"HTTP/1.1 503 {TOKEN}\r\n\r\n".encode()),
    "a header that can't be parsed": say(f"HTTP/1.1 200 OK\r\n{TOKEN}\r\n\r\n".encode()),
    "two framings": say(
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "an endless body": endless_body,
}


EVERYTHING = SLOW | BROKEN | ODD


@pytest.fixture(params=["refresh", "revoke"])
def call(request: pytest.FixtureRequest) -> Callable[[str], object]:
    def ask(url: str) -> object:
        outcome: object = getattr(Client(url, SHORT), request.param)(TOKEN, "app")
        return outcome

    return ask


@pytest.mark.slow
@pytest.mark.parametrize("talk", EVERYTHING.values(), ids=EVERYTHING)
def test_no_answer_makes_the_client_show_the_token(
    talk: Talk, call: Callable[[str], object], surroundings: Surroundings
) -> None:
    with serving(talk) as server:
        outcome = call(server.url)
    assert not leaks(f"{outcome!r} {outcome} {vars(outcome)!r}")
    assert not leaks(surroundings.text())


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9",
        "https://127.0.0.1:9",
        "http://provider.invalid",
        "http://*",
        "gopher://provider.test",
    ],
)
def test_no_connection_trouble_makes_the_client_show_the_token(
    url: str, call: Callable[[str], object], surroundings: Surroundings
) -> None:
    outcome = call(url)
    assert isinstance(outcome, Unavailable)
    assert not leaks(repr(outcome))
    assert not leaks(surroundings.text())


@pytest.mark.parametrize("proxied", [False, True])
def test_what_notes_requests_sees_the_call_and_the_provider_alone_the_token(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch, proxied: bool
) -> None:
    with serving(answering(reply({"valid": True, "authToken": "access"}))) as server:
        url = server.url
        if proxied:
            monkeypatch.setenv("HTTP_PROXY", server.url)
            url = "http://provider.test/***/"
        client = Client(f"{url.rstrip('/')}", LONG)
        for token in (TOKEN, "authorize", "***", "~", "x" * 2_048):
            assert isinstance(client.refresh(token, "a/*?p"), Fresh)
        sent = [request.target for request in server.requests]
    before = "http://provider.test/***" if proxied else ""
    assert sent == [
        f"{before}/authorize/refreshaccesstoken/{quote(token, safe='')}?appid=a%2F%2A%3Fp"
        for token in (TOKEN, "authorize", "***", "~", "x" * 2_048)
    ]
    noted = "\n".join(surroundings.noted)
    assert {line.partition(" ")[0] for line in surroundings.noted} >= {"putrequest", "urlopen"}
    assert noted.count("/refreshaccesstoken/***?") >= len(sent)
    assert not leaks(noted)
    assert "x" * 99 not in noted


def test_a_request_that_went_another_way_than_ours_is_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As if a later urllib3 no longer built on http.client: what was asked about was the mask.
    with serving(answering(reply({"valid": False, "errorMessage": "no"}))) as server:
        monkeypatch.setattr(
            transport, "_encode_request", lambda connection, request: request.encode("ascii")
        )
        monkeypatch.setattr(
            transport, "_POOLS", {"http": transport._quiet(urllib3.HTTPConnectionPool)}
        )
        assert isinstance(Client(server.url, LONG).refresh(TOKEN, "app"), Unavailable)


def test_no_proxy_trouble_makes_the_client_show_the_token(
    call: Callable[[str], object],
    surroundings: Surroundings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for proxy in ("http://127.0.0.1:9", "nonsense", "socks5://127.0.0.1:9"):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        outcome = call("http://provider.test")
        assert isinstance(outcome, Unavailable)
        assert not leaks(repr(outcome))
    assert not leaks(surroundings.text())


def test_a_dropped_connection_is_replaced_without_a_word(surroundings: Surroundings) -> None:
    with serving(say(QUOTING)) as server:
        client = Client(server.url, LONG)
        client.refresh(TOKEN, "app")
        server.wait_until_hung_up()
        client.refresh(TOKEN, "app")
        assert server.accepted == 2
    assert not leaks(surroundings.text())


def test_a_full_pool_is_emptied_without_a_word(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_leadexec.provider.client.POOL_SIZE", 1)
    barrier = threading.Barrier(3, timeout=LONG)

    def answer_together(peer: object) -> None:
        barrier.wait()
        answering(QUOTING)(peer)  # type: ignore[arg-type]

    with serving(answer_together) as server:
        client = Client(server.url, LONG)
        outcomes = together(*[partial(client.refresh, TOKEN, "app")] * 3)
        assert not any(isinstance(outcome, Exception) for outcome in outcomes)
        assert server.accepted == 3
    assert not leaks(surroundings.text())


def test_the_test_sees_what_others_log_and_print(surroundings: Surroundings) -> None:
    with serving(answering(QUOTING)) as server:
        requests.get(f"{server.url}/{CANARY}", timeout=LONG)
    text = surroundings.text()
    assert f'"GET /{CANARY} HTTP/1.1" 200' in text
    assert f"send: b'GET /{CANARY} HTTP/1.1" in text


@pytest.mark.parametrize(
    "text",
    [
        TOKEN,
        f"GET /authorize/{CANARY}%2F100%25",
        base64.b64encode(TOKEN.encode()).decode(),
        base64.b64encode(f"x{TOKEN}".encode()).decode(),
        base64.urlsafe_b64encode(f"xy{TOKEN}".encode()).decode(),
    ],
)
def test_the_test_knows_the_token_when_it_sees_it(text: str) -> None:
    assert leaks(text)


def test_other_requests_are_still_logged_while_a_call_is_under_way(
    surroundings: Surroundings,
) -> None:
    arrived, leave = threading.Event(), threading.Event()

    def wait(peer: object) -> None:
        arrived.set()
        leave.wait(LONG)
        answering(QUOTING)(peer)  # type: ignore[arg-type]

    with serving(wait) as provider, serving(answering(QUOTING)) as other:
        call = begin(partial(Client(provider.url, LONG).refresh, TOKEN, "app"))
        assert arrived.wait(LONG)
        requests.get(f"{other.url}/ordinary", timeout=LONG)
        leave.set()
        call.returned()
    text = surroundings.text()
    assert '"GET /ordinary HTTP/1.1" 200' in text
    assert not leaks(text)


def test_an_error_raised_after_a_failed_call_chains_to_nothing() -> None:
    def ask() -> None:
        outcome = Client("http://127.0.0.1:9", 1).refresh(TOKEN, "app")
        raise RuntimeError(outcome)

    with pytest.raises(RuntimeError) as caught:
        ask()
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_reason_that_quotes_the_token_does_not_show_it() -> None:
    with serving(answering(QUOTING)) as server:
        outcome = Client(server.url, LONG).refresh(TOKEN, "app")
    assert isinstance(outcome, Refused)
    assert not leaks(outcome.reason)
