"""The API session: where the access token goes, where it never goes, and what a 401 does."""

import http.client
import io
import logging
import os
import re
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
from django.core.exceptions import ImproperlyConfigured
from django.db import connection as database
from pytest_django import Settings
from requests.adapters import HTTPAdapter

from django_leadexec.clock import from_timestamp
from django_leadexec.conf import get_settings, origin
from django_leadexec.exceptions import AuthorizationRejected, LeadExecError, ProviderUnavailable
from django_leadexec.models import LeadExecConnection
from django_leadexec.secret import Secret
from django_leadexec.session import LeadExecSession

from . import provider as stand_in
from .concurrency.threads import together
from .factories import make_connection, plain
from .provider import Provider
from .provider import http as reply
from .sockets import Peer, Request, SocketServer, Talk, answering, apis_at, serving

OK = reply({"leads": []})
UNAUTHORIZED = reply({"error": "expired"}, 401)
LEADS = "https://apidata.leadexec.net/leads"
LONG = 30  # seconds that no test waits for


class Tokens:
    """A token source that gives these in turn, and keeps what it was told."""

    def __init__(self, *tokens: str | Exception) -> None:
        self.tokens = list(tokens)
        self.refused: list[str | None] = []

    def __call__(self, refused: Secret | None) -> Secret:
        self.refused.append(None if refused is None else refused.reveal())
        token = self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0]
        if isinstance(token, Exception):
            raise token
        return Secret(token)


def accepting(*tokens: str) -> Talk:
    """An API that honours these access tokens."""

    def talk(peer: Peer) -> None:
        while request := peer.request():
            honoured = request.headers.get("authorization", "").removeprefix("Bearer ") in tokens
            peer.send(OK if honoured else UNAUTHORIZED)

    return talk


def bearers(server: SocketServer) -> list[str | None]:
    return [request.headers.get("authorization") for request in server.requests]


@pytest.fixture
def mock() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        for method in (responses.GET, responses.POST):
            mock.add(method, re.compile(".*"), json={})
        yield mock


@pytest.fixture
def allow(settings: Settings) -> Callable[[SocketServer], None]:
    def allow(server: SocketServer) -> None:
        settings.DEBUG = True
        settings.LEADEXEC = settings.LEADEXEC | apis_at(server.url) | {"TIMEOUT": LONG}

    return allow


@pytest.fixture
def api(allow: Callable[[SocketServer], None]) -> Iterator[SocketServer]:
    """An API on a real socket that honours the access token "good"."""
    with serving(accepting("good")) as server:
        allow(server)
        yield server


# Where the token goes


@pytest.mark.parametrize(
    "url",
    [
        LEADS,
        "https://api.leadexec.net/",
        "https://api.leadexec.net",
        "https://API.LeadExec.NET/",
        "HTTPS://api.leadexec.net/",
        "https://api.leadexec.net:443/",
        "https://api.leadexec%2enet/",
        "https://someone:secret@api.leadexec.net/",
    ],
)
def test_the_token_goes_to_the_api(url: str, mock: responses.RequestsMock) -> None:
    with LeadExecSession(Tokens("access")) as session:
        assert session.get(url).ok
    [call] = mock.calls
    conf = get_settings()
    assert origin(str(call.request.url)) in (conf.account_api_url, conf.data_api_url)
    assert call.request.headers["Authorization"] == "Bearer access"


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.test/",
        "https://evil.test/api.leadexec.net",
        "https://evil.test/?https://api.leadexec.net",
        "https://evil.test#@api.leadexec.net/",
        "https://evil.test?@api.leadexec.net/",
        "https://evil.test\\@api.leadexec.net/",
        "https://evil.test\\.api.leadexec.net/",
        "https://api.leadexec.net@evil.test/",
        "https://api.leadexec.net:443@evil.test/",
        "https://api.leadexec.net%40evil.test/",
        "https://api.leadexec.net.evil.test/",
        "https://evil-api.leadexec.net/",
        "https://sub.api.leadexec.net/",
        "https://leadexec.net/",
        "https://apps.leadexec.net/",
        "https://api.leadexec.net./",
        "https://api.leadexec.net:8443/",
        "https://api.leadexec.net:80/",
        "http://api.leadexec.net/",
        "http://api.leadexec.net:443/",
        "ftp://api.leadexec.net/",
        "https://\u0430pi.leadexec.net/",
        "https://127.0.0.1/",
        "https://[::1]/",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_token_goes_nowhere_else(method: str, url: str, mock: responses.RequestsMock) -> None:
    tokens = Tokens("access")
    with LeadExecSession(tokens) as session, pytest.raises(LeadExecError, match="DATA_API_URL"):
        session.request(method, url)
    assert tokens.refused == []
    assert len(mock.calls) == 0


@pytest.mark.parametrize("url", ["//api.leadexec.net/", "api.leadexec.net", "https://", "/leads"])
def test_half_a_url_goes_nowhere(url: str, mock: responses.RequestsMock) -> None:
    tokens = Tokens("access")
    with LeadExecSession(tokens) as session, pytest.raises((LeadExecError, ValueError)):
        session.get(url)
    assert tokens.refused == []
    assert len(mock.calls) == 0


def test_another_origin_is_not_even_connected_to(api: SocketServer) -> None:
    with serving(answering(OK)) as evil, LeadExecSession(Tokens("good")) as session:
        for url in (evil.url, f"{api.url}@127.0.0.1:{evil.port}/", f"{evil.url}\\@{api.url}/"):
            with pytest.raises((LeadExecError, ValueError)):
                session.get(url)
        assert evil.accepted == 0


def test_a_change_of_the_setting_holds_for_sessions_that_are_there(
    api: SocketServer, settings: Settings
) -> None:
    with LeadExecSession(Tokens("good")) as session:
        assert session.get(api.url).ok
        settings.LEADEXEC = settings.LEADEXEC | apis_at("https://api.leadexec.net")
        with pytest.raises(LeadExecError):
            session.get(api.url)


def test_plain_http_is_possible_only_in_debug(api: SocketServer, settings: Settings) -> None:
    with LeadExecSession(Tokens("good")) as session:
        settings.DEBUG = False
        with pytest.raises(ImproperlyConfigured, match="DATA_API_URL"):
            session.get(api.url)
    assert api.accepted == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_returned_and_not_followed(
    status: int, allow: Callable[[SocketServer], None]
) -> None:
    with serving(answering(OK)) as elsewhere:
        for target in (f"{elsewhere.url}/trap", "/same-origin"):
            moved = reply(b"", status, f"Location: {target}\r\n")
            with serving(answering(moved)) as server:
                allow(server)
                with LeadExecSession(Tokens("good")) as session:
                    response = session.post(server.url, data=b"x", allow_redirects=True)
                assert len(server.requests) == 1
            assert response.status_code == status
            assert response.headers["Location"] == target
            assert response.history == []
        assert elsewhere.accepted == 0


def test_a_header_of_the_caller_does_not_replace_the_token(api: SocketServer) -> None:
    with LeadExecSession(Tokens("good")) as session:
        session.headers["Authorization"] = "Bearer other"
        session.get(api.url, headers={"authorization": "Basic other"})
    assert bearers(api) == ["Bearer good"]


def test_a_request_with_credentials_of_its_own_carries_no_token(api: SocketServer) -> None:
    tokens = Tokens("good")
    with LeadExecSession(tokens) as session:
        session.get(api.url, auth=("someone", "secret"))
    assert tokens.refused == []
    assert bearers(api) == ["Basic c29tZW9uZTpzZWNyZXQ="]


def test_netrc_does_not_replace_the_token(
    api: SocketServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    requests.get(api.url, timeout=LONG)
    with LeadExecSession(Tokens("good")) as session:
        session.get(api.url)
    assert bearers(api) == ["Basic c29tZW9uZTpzZWNyZXQ=", "Bearer good"]


def test_each_request_asks_for_the_token_in_force(api: SocketServer) -> None:
    tokens = Tokens("good", "good", "good")
    with LeadExecSession(tokens) as session:
        for _ in range(3):
            session.get(api.url)
    assert tokens.refused == [None, None, None]
    assert api.accepted == 1


def test_without_a_token_nothing_is_sent(api: SocketServer) -> None:
    with (
        LeadExecSession(Tokens(AuthorizationRejected("revoked"))) as session,
        pytest.raises(AuthorizationRejected),
    ):
        session.get(api.url)
    assert api.accepted == 0


# The addresses to build on


def test_a_session_names_the_two_addresses_to_build_on(settings: Settings) -> None:
    with LeadExecSession(Tokens("access")) as session:
        assert session.account_api == "https://api.leadexec.net"
        assert session.data_api == "https://apidata.leadexec.net"
        settings.DEBUG = True
        settings.LEADEXEC = settings.LEADEXEC | {
            "ACCOUNT_API_URL": "http://127.0.0.1:8000/sandbox/account-api/",
            "DATA_API_URL": "HTTP://LocalHost:80/sandbox/data-api",
        }
        assert session.account_api == "http://127.0.0.1:8000/sandbox/account-api"
        assert session.data_api == "http://localhost/sandbox/data-api"


def test_what_is_built_on_them_carries_the_token(api: SocketServer, settings: Settings) -> None:
    settings.LEADEXEC = settings.LEADEXEC | {
        "ACCOUNT_API_URL": f"{api.url}/sandbox/account-api/",
        "DATA_API_URL": f"{api.url}/sandbox/data-api/",
    }
    with LeadExecSession(Tokens("good")) as session:
        assert session.get(f"{session.account_api}/v1/leadtypes").ok
        assert session.post(f"{session.data_api}/v1/leads/query/5", json={}).ok
    assert [request.target for request in api.requests] == [
        "/sandbox/account-api/v1/leadtypes",
        "/sandbox/data-api/v1/leads/query/5",
    ]
    assert bearers(api) == ["Bearer good", "Bearer good"]


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("https://evil.test/v1/leads?page=2", "'https://evil.test/v1/leads'"),
        ("https://ann:secret@evil.test:8443/a#secret", "'https://evil.test:8443/a'"),
        ("HTTPS://EVIL.test:443", "'https://evil.test/'"),
        ("ftp://ann:secret@evil.test/a?secret", "'ftp://evil.test/a'"),
        ("https://apps.leadexec.net/authorize/refreshaccesstoken/secret?appid=a", "/***'"),
        ("https://evil.test/DisconnectApplicationToken%2Fsecret", "'https://evil.test/***'"),
        ("https://evil.test/%72efreshaccesstoken/secret", "'https://evil.test/***'"),
        (f"https://evil.test/{'a' * 300}secret", "aaa'"),
    ],
)
def test_the_error_for_another_address_names_it_and_both_that_are_allowed(
    url: str, named: str
) -> None:
    with LeadExecSession(Tokens("access")) as session, pytest.raises(LeadExecError) as caught:
        session.get(url)
    text = str(caught.value)
    assert "https://api.leadexec.net (ACCOUNT_API_URL)" in text
    assert "https://apidata.leadexec.net (DATA_API_URL)" in text
    assert "session.data_api" in text
    assert f"{named}. Build" in text
    assert "secret" not in text


def test_a_url_that_can_not_be_read_is_refused_by_the_same_error() -> None:
    with LeadExecSession(Tokens("access")) as session:
        prepared = session.prepare_request(requests.Request("GET", LEADS))
        for url in (None, "", "https://[::1/", "https://api.leadexec.net:port/", "\n"):
            prepared.url = url
            with pytest.raises(LeadExecError, match="DATA_API_URL"):
                session.send(prepared)


# 401


def test_a_401_is_tried_again_once_with_another_token(api: SocketServer) -> None:
    tokens = Tokens("stale", "good")
    with LeadExecSession(tokens) as session:
        response = session.get(f"{api.url}/leads?page=2", headers={"X-Mine": "1"})
    assert response.json() == {"leads": []}
    assert tokens.refused == [None, "stale"]
    assert bearers(api) == ["Bearer stale", "Bearer good"]
    first, second = api.requests
    assert first.target == second.target == "/leads?page=2"
    assert second.headers["x-mine"] == "1"
    assert api.accepted == 1
    assert [it.status_code for it in response.history] == [401]
    assert response.request.headers["Authorization"] == "Bearer good"


def test_a_second_401_is_returned_as_it_is(api: SocketServer) -> None:
    tokens = Tokens("stale", "also-stale", "good")
    with LeadExecSession(tokens) as session:
        response = session.get(api.url)
    assert response.status_code == 401
    assert response.json() == {"error": "expired"}
    assert tokens.refused == [None, "stale"]
    assert bearers(api) == ["Bearer stale", "Bearer also-stale"]


@pytest.mark.parametrize("status", [400, 403, 404, 429, 500, 503])
def test_another_status_is_returned_as_it_is(
    status: int, allow: Callable[[SocketServer], None]
) -> None:
    tokens = Tokens("good")
    with serving(answering(reply({}, status))) as server, LeadExecSession(tokens) as session:
        allow(server)
        assert session.get(server.url).status_code == status
        assert len(server.requests) == 1
    assert tokens.refused == [None]


def test_each_request_has_a_try_of_its_own(api: SocketServer) -> None:
    tokens = Tokens("stale", "good", "stale", "good")
    with LeadExecSession(tokens) as session:
        assert session.get(api.url).ok
        assert session.get(api.url).ok
    assert tokens.refused == [None, "stale", None, "stale"]


@pytest.mark.parametrize(
    "error", [AuthorizationRejected("no"), ProviderUnavailable("down", retry_after=5)]
)
def test_when_there_is_no_other_token_its_error_is_raised(
    error: Exception, api: SocketServer
) -> None:
    with LeadExecSession(Tokens("stale", error)) as session, pytest.raises(type(error)):
        session.get(api.url)
    assert len(api.requests) == 1


@pytest.fixture
def refusing_api(
    allow: Callable[[SocketServer], None],
) -> Iterator[tuple[SocketServer, threading.Event]]:
    """An API that honours no token, and an event for the end of a connection to it."""
    hung_up = threading.Event()

    def talk(peer: Peer) -> None:
        while peer.request():
            peer.send(UNAUTHORIZED)
        hung_up.set()

    with serving(talk) as server:
        allow(server)
        yield server, hung_up


def test_a_401_whose_refresh_fails_leaves_no_connection_open(
    refusing_api: tuple[SocketServer, threading.Event],
) -> None:
    server, hung_up = refusing_api
    tokens = Tokens("stale", ProviderUnavailable("down"))
    with LeadExecSession(tokens) as session:
        # Whoever holds the error holds its frames, so that the garbage collector closes nothing.
        with pytest.raises(ProviderUnavailable) as held:
            session.get(server.url)
        assert hung_up.wait(60)
    assert held.value.__traceback__


def test_a_401_that_can_not_be_answered_to_leaves_no_connection_open(
    refusing_api: tuple[SocketServer, threading.Event],
) -> None:
    server, hung_up = refusing_api

    def take_the_header_away(response: requests.Response, **options: Any) -> None:
        del response.request.headers["Authorization"]

    with LeadExecSession(Tokens("stale")) as session:
        request = session.prepare_request(requests.Request("GET", server.url))
        request.hooks["response"].insert(0, take_the_header_away)
        with pytest.raises(KeyError) as held:
            session.send(request)
        assert hung_up.wait(60)
    assert held.value.__traceback__


def test_a_401_to_a_streamed_request_is_tried_again(api: SocketServer) -> None:
    with LeadExecSession(Tokens("stale", "good")) as session:
        response = session.get(api.url, stream=True)
        assert b"".join(response.iter_content(3)) == b'{"leads": []}'
    assert api.accepted == 1


def opened(path: Path) -> Any:
    file = path.open("rb")
    file.seek(5)
    return file


BODIES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "bytes": lambda path: {"data": b"from-here"},
    "text": lambda path: {"data": "from-here"},
    "a form": lambda path: {"data": {"a": "from-here"}},
    "JSON": lambda path: {"json": {"a": "from-here"}},
    "an upload": lambda path: {"files": {"a": ("name", b"from-here")}},
    "a file": lambda path: {"data": opened(path)},
    "a file in memory": lambda path: {"data": io.BytesIO(b"from-here")},
}


@pytest.mark.parametrize("make", BODIES.values(), ids=BODIES)
def test_a_body_is_sent_again_whole(
    make: Callable[[Path], dict[str, Any]], api: SocketServer, tmp_path: Path
) -> None:
    path = tmp_path / "body"
    path.write_bytes(b"skip-from-here")
    options = make(path)
    with LeadExecSession(Tokens("stale", "good")) as session:
        response = session.put(api.url, **options)
    if isinstance(options.get("data"), io.IOBase):
        options["data"].close()
    assert response.ok
    first, second = api.requests
    assert first.method == second.method == "PUT"
    assert b"from-here" in first.body
    assert b"skip" not in first.body
    assert first.body == second.body
    assert first.headers["content-length"] == second.headers["content-length"]


class Pipe(io.RawIOBase):
    """A file that can't be read a second time."""

    def __init__(self) -> None:
        self.left = [b"from-", b"here"]

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self.left.pop(0) if self.left else b""


@pytest.mark.parametrize(
    "make", [lambda: iter([b"from-", b"here"]), Pipe], ids=["a generator", "a pipe"]
)
def test_a_body_that_is_used_up_is_not_tried_again(
    make: Callable[[], Any], api: SocketServer
) -> None:
    tokens = Tokens("stale", "good")
    with LeadExecSession(tokens) as session:
        response = session.post(api.url, data=make())
    assert response.status_code == 401
    assert response.json() == {"error": "expired"}
    assert [request.body for request in api.requests] == [b"from-here"]
    assert tokens.refused == [None]


def test_a_prepared_request_can_be_sent_twice(api: SocketServer) -> None:
    with LeadExecSession(Tokens("stale", "good", "good")) as session:
        prepared = session.prepare_request(requests.Request("POST", api.url, data=b"x"))
        assert session.send(prepared).ok
        assert session.send(prepared).ok
    assert [request.body for request in api.requests] == [b"x"] * 4


# Time-outs


def silent(peer: Peer) -> None:
    """Hang up on whoever waits longer than a short time-out, so that it sees none."""
    peer.request()
    peer.server.stopping.wait(LONG / 2)


@pytest.mark.parametrize("options", [{}, {"timeout": None}], ids=["no timeout", "None"])
def test_a_request_without_a_timeout_has_that_of_the_setting(
    options: dict[str, Any], allow: Callable[[SocketServer], None], settings: Settings
) -> None:
    with serving(silent) as server, LeadExecSession(Tokens("good")) as session:
        allow(server)
        settings.LEADEXEC = settings.LEADEXEC | {"TIMEOUT": 0.3}
        with pytest.raises(requests.Timeout):
            session.get(server.url, **options)
        with pytest.raises(requests.Timeout):
            session.send(session.prepare_request(requests.Request("GET", server.url)))


def test_a_request_may_have_a_timeout_of_its_own(allow: Callable[[SocketServer], None]) -> None:
    with serving(silent) as server, LeadExecSession(Tokens("good")) as session:
        allow(server)
        with pytest.raises(requests.ReadTimeout):
            session.get(server.url, timeout=(LONG, 0.3))


def test_a_timeout_holds_for_the_second_try(
    allow: Callable[[SocketServer], None], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def talk(peer: Peer) -> None:
        peer.request()
        peer.send(UNAUTHORIZED)
        silent(peer)

    send = HTTPAdapter.send
    given: list[object] = []

    def patient_at_first(adapter: HTTPAdapter, request: Any, **options: Any) -> Any:
        given.append(options["timeout"])
        if len(given) == 1:
            options["timeout"] = LONG  # for a machine that stalls
        return send(adapter, request, **options)

    monkeypatch.setattr(HTTPAdapter, "send", patient_at_first)
    with serving(talk) as server, LeadExecSession(Tokens("stale", "good")) as session:
        allow(server)
        settings.LEADEXEC = settings.LEADEXEC | {"TIMEOUT": 0.3}
        with pytest.raises(requests.Timeout):
            session.get(server.url)
        assert len(server.requests) == 2
    assert given == [0.3, 0.3]


# What is kept, and what is shown


def test_sessions_share_no_cookies(allow: Callable[[SocketServer], None]) -> None:
    with serving(answering(reply({}, 200, "Set-Cookie: who=first; Path=/\r\n"))) as server:
        allow(server)
        with (
            LeadExecSession(Tokens("good")) as first,
            LeadExecSession(Tokens("good")) as second,
        ):
            first.get(server.url)
            second.get(server.url)
            first.get(server.url)
        assert [request.headers.get("cookie") for request in server.requests] == [
            None,
            None,
            "who=first",
        ]
    assert first.cookies is not second.cookies


def test_a_session_shows_no_token(api: SocketServer) -> None:
    with LeadExecSession(Tokens("good")) as session:
        session.get(api.url)
        assert repr(session) == str(session) == "<LeadExecSession>"
        assert "good" not in repr(session.auth) + repr(vars(session))


def test_no_log_and_no_print_shows_the_token(
    allow: Callable[[SocketServer], None],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    caplog.set_level(logging.DEBUG)
    with serving(accepting("canary-fresh")) as server:
        allow(server)
        with LeadExecSession(Tokens("canary-stale", "canary-fresh")) as session:
            assert session.get(f"{server.url}/leads").ok
    printed = capsys.readouterr()
    records = repr([vars(record) for record in caplog.records])
    assert "/leads" in records
    assert "canary" not in records + printed.out + printed.err


def hang_up(peer: Peer) -> None:
    peer.request()


def half_a_body(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc")


def reset_second(peer: Peer) -> None:
    peer.request()
    peer.send(UNAUTHORIZED)
    peer.request()
    peer.reset()


FAILURES: dict[str, tuple[Talk, type[requests.RequestException]]] = {
    "refused": (lambda peer: peer.reset(), requests.ConnectionError),
    "hung up": (hang_up, requests.ConnectionError),
    "timed out": (silent, requests.ReadTimeout),
    "half a body": (half_a_body, requests.exceptions.ChunkedEncodingError),
    "lost at the second try": (reset_second, requests.ConnectionError),
}


@pytest.mark.parametrize(("talk", "kind"), FAILURES.values(), ids=FAILURES)
def test_an_error_page_with_the_locals_of_each_frame_shows_no_token(
    talk: Talk, kind: type[Exception], allow: Callable[[SocketServer], None]
) -> None:
    with serving(talk) as server, LeadExecSession(Tokens("canary", "canary-2")) as session:
        allow(server)
        with pytest.raises(kind) as caught:
            session.post(f"{server.url}/leads", data=b"x", timeout=0.5 if talk is silent else LONG)
    assert isinstance(caught.value, requests.RequestException)
    assert caught.value.request is not None
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    seen = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    theirs = [frame.locals for frame in seen.stack if frame.filename != __file__]
    assert theirs
    assert "canary" not in f"{caught.value!r} {theirs!r}"


def test_an_error_still_tells_what_went_wrong(allow: Callable[[SocketServer], None]) -> None:
    with serving(hang_up) as server, LeadExecSession(Tokens("good")) as session:
        allow(server)
        with pytest.raises(requests.ConnectionError, match=r"Connection aborted|without response"):
            session.get(server.url)


class Interrupted(Exception):
    """As Celery's SoftTimeLimitExceeded: raised by a signal, wherever the program is."""


def texts_in(value: Any) -> Iterator[str]:
    """The texts in a value, by their values: some error trackers look at no repr."""
    if isinstance(value, str):
        yield str.__str__(value)
    elif isinstance(value, bytes):
        yield value.decode("latin-1")
    elif isinstance(value, Mapping):
        yield from texts_in([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from texts_in(item)


@pytest.mark.parametrize("tries", [1, 2])
def test_an_interruption_in_the_middle_of_a_call_shows_no_token_to_whoever_takes_text_by_value(
    tries: int, allow: Callable[[SocketServer], None]
) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    def talk(peer: Peer) -> None:
        for _ in range(tries - 1):
            peer.request()
            peer.send(UNAUTHORIZED)
        peer.request()
        time.sleep(0.3)  # until the client waits for the answer
        os.kill(os.getpid(), signal.SIGALRM)
        peer.request()

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with serving(talk) as server, LeadExecSession(Tokens("canary", "canary-2")) as session:
            allow(server)
            with pytest.raises(Interrupted) as caught:
                session.get(server.url)
    finally:
        signal.signal(signal.SIGALRM, before)
    frames = [frame for frame, _line in traceback.walk_tb(caught.value.__traceback__)]
    theirs = [frame.f_locals for frame in frames if frame.f_code.co_filename != __file__]
    assert theirs
    assert not [text for text in texts_in(theirs) if "canary" in text]


class OwnError(requests.HTTPError):
    """As a site may define it, with arguments of its own."""

    def __init__(self, code: int, response: requests.Response) -> None:
        super().__init__("the API says no", code, response=response)


def raise_own_error(response: requests.Response, **options: Any) -> None:
    response.close()
    raise OwnError(7, response)


def expect_json(response: requests.Response, **options: Any) -> None:
    response.json()


def make_a_mistake(response: requests.Response, **options: Any) -> None:
    response.close()
    raise KeyError(response.status_code)


@pytest.mark.parametrize(
    ("hook", "kind"),
    [
        (raise_own_error, OwnError),
        (expect_json, requests.exceptions.JSONDecodeError),
        (make_a_mistake, KeyError),
    ],
)
def test_an_error_of_the_sites_own_hook_is_raised_as_it_is(
    hook: Any, kind: type[Exception], allow: Callable[[SocketServer], None]
) -> None:
    with (
        serving(answering(reply(b"no JSON"))) as server,
        LeadExecSession(Tokens("good")) as session,
    ):
        allow(server)
        session.hooks["response"].append(hook)
        with pytest.raises(kind) as caught:
            session.get(server.url)
    assert caught.value.__context__ is None
    if kind is OwnError:
        assert caught.value.args == ("the API says no", 7)
    if kind is KeyError:
        frames = [frame for frame, _line in traceback.walk_tb(caught.value.__traceback__)]
        assert hook.__code__ in [frame.f_code for frame in frames]


# On behalf of a stored connection


def stored(row: LeadExecConnection) -> str:
    row.refresh_from_db()
    return plain(row.access_token)


@pytest.mark.django_db(transaction=True)
class TestStoredConnection:
    @pytest.fixture
    def row(self, provider: Provider) -> LeadExecConnection:
        return make_connection("mine", refreshed_at=from_timestamp(time.time() - 61))

    @pytest.fixture
    def serve(self, settings: Settings, row: LeadExecConnection) -> Iterator[Any]:
        started: list[Any] = []

        def serve(talk: Talk) -> SocketServer:
            manager = serving(talk)
            started.append(manager)
            server = manager.__enter__()
            settings.LEADEXEC = settings.LEADEXEC | apis_at(server.url)
            return server

        yield serve
        for manager in started:
            manager.__exit__(None, None, None)

    def test_a_token_that_lives_is_sent_without_asking_the_provider(
        self, row: LeadExecConnection, serve: Any, provider: Provider
    ) -> None:
        server = serve(accepting("stored-access-for-mine"))
        with row.session() as session:
            assert session.get(server.url).ok
        assert not provider.refreshes

    def test_a_token_that_has_ended_is_refreshed_first(
        self, row: LeadExecConnection, serve: Any, provider: Provider
    ) -> None:
        LeadExecConnection.objects.update(expires_at=from_timestamp(time.time() - 1))
        server = serve(accepting("access-1-for-mine"))
        with row.session() as session:
            assert session.get(server.url).ok
            assert session.get(server.url).ok
        assert provider.refreshes["mine"] == 1
        assert bearers(server) == ["Bearer access-1-for-mine"] * 2

    def test_a_401_refreshes_once_and_tries_once_more(
        self, row: LeadExecConnection, serve: Any, provider: Provider
    ) -> None:
        server = serve(accepting("access-1-for-mine"))
        with row.session() as session:
            assert session.post(server.url, json={"a": 1}).ok
            assert session.get(server.url).ok
        assert provider.refreshes["mine"] == 1
        assert (
            bearers(server) == ["Bearer stored-access-for-mine"] + ["Bearer access-1-for-mine"] * 2
        )
        assert stored(row) == "access-1-for-mine"

    def test_a_second_401_is_returned_after_one_refresh(
        self, row: LeadExecConnection, serve: Any, provider: Provider
    ) -> None:
        server = serve(accepting())
        with row.session() as session:
            assert session.get(server.url).status_code == 401
        assert provider.refreshes["mine"] == 1
        assert bearers(server) == ["Bearer stored-access-for-mine", "Bearer access-1-for-mine"]

    def test_an_api_that_refuses_everything_makes_no_refresh_for_each_page(
        self, row: LeadExecConnection, serve: Any, provider: Provider
    ) -> None:
        server = serve(accepting())
        for _page in range(50):
            with row.session() as session:
                assert session.get(server.url).status_code == 401
        assert provider.refreshes["mine"] == 1
        assert len(server.requests) == 51
        # A minute later one page tries again, and all see that it is of no use.
        LeadExecConnection.objects.write(refreshed_at=from_timestamp(time.time() - 61))
        for _page in range(50):
            with row.session() as session:
                assert session.get(server.url).status_code == 401
        assert provider.refreshes["mine"] == 2

    def test_nor_do_pages_at_the_same_moment(
        self, row: LeadExecConnection, serve: Any, provider: Provider
    ) -> None:
        server = serve(accepting())

        def visit() -> int:
            with row.session() as session:
                return session.get(server.url).status_code

        assert together(*[visit] * 8) == [401] * 8
        assert provider.refreshes["mine"] == 1

    def test_a_token_that_is_refused_in_its_first_minute_is_refreshed_once_that_is_over(
        self, row: LeadExecConnection, serve: Any, provider: Provider
    ) -> None:
        server = serve(accepting("access-1-for-mine"))
        LeadExecConnection.objects.write(refreshed_at=from_timestamp(time.time() - 5))
        with row.session() as session:
            assert session.get(server.url).status_code == 401
            assert not provider.refreshes
            LeadExecConnection.objects.write(refreshed_at=from_timestamp(time.time() - 61))
            assert session.get(server.url).ok

    def test_a_newer_stored_token_is_used_without_a_refresh(
        self, row: LeadExecConnection, serve: Any, provider: Provider
    ) -> None:
        def talk(peer: Peer) -> None:
            requests_of_peer: list[Request] = []
            while request := peer.request():
                requests_of_peer.append(request)
                if len(requests_of_peer) == 1:
                    # Another process refreshes while this request is under way.
                    LeadExecConnection.objects.write(access_token="newer")
                    database.close()
                    peer.send(UNAUTHORIZED)
                else:
                    peer.send(OK)

        server = serve(talk)
        with row.session() as session:
            assert session.get(server.url).ok
        assert not provider.refreshes
        assert bearers(server) == ["Bearer stored-access-for-mine", "Bearer newer"]
        assert stored(row) == "newer"

    def test_a_connection_revoked_meanwhile_sends_nothing(
        self, row: LeadExecConnection, serve: Any, provider: Provider
    ) -> None:
        server = serve(accepting("stored-access-for-mine"))
        with row.session() as session:
            assert session.get(server.url).ok
            row.revoke()
            with pytest.raises(AuthorizationRejected):
                session.get(server.url)
        assert len(server.requests) == 1

    def test_a_provider_out_of_reach_is_told_apart_from_a_no(
        self, row: LeadExecConnection, serve: Any, provider: Provider
    ) -> None:
        server = serve(accepting())
        provider.answers["mine"] = stand_in.throttling(30)
        with row.session() as session, pytest.raises(ProviderUnavailable) as caught:
            session.get(server.url)
        assert caught.value.retry_after == 30
        assert stored(row) == "stored-access-for-mine"
        assert row.status == LeadExecConnection.Status.ACTIVE

    def test_a_no_of_the_provider_rejects(
        self, row: LeadExecConnection, serve: Any, provider: Provider
    ) -> None:
        server = serve(accepting())
        provider.answers["mine"] = stand_in.refused
        with row.session() as session, pytest.raises(AuthorizationRejected):
            session.get(server.url)
        row.refresh_from_db()
        assert row.status == LeadExecConnection.Status.REJECTED

    def test_each_session_is_a_new_one(self, row: LeadExecConnection) -> None:
        first, second = row.session(), row.session()
        assert first is not second
        assert first.cookies is not second.cookies
        assert first.get_adapter("https://x") is not second.get_adapter("https://x")
