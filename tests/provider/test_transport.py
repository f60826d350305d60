"""The client on real sockets: deadlines, connections, proxies and certificates."""

import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from django_leadexec.provider.client import Client
from django_leadexec.provider.replies import Fresh, Unavailable

from ..concurrency.threads import join
from ..processes import start_module, wait_until
from ..sockets import Peer, Talk, answering, serving
from .certificates import Certificate, over_tls, secure
from .one_call import DEADLINE
from .stand_in import http
from .wire_answers import (
    BODY,
    BROKEN,
    HEAD,
    LONG,
    SHORT,
    SLOW,
    YES,
    after_a_yes,
    chunked,
    drip,
    endless_body,
    say,
    say_nothing,
)

TIMED_OUT = Unavailable("timed out")
FAILED = Unavailable("connection failed")


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses connections: as long as it is bound, nobody else can listen there."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


# Deadlines


@pytest.mark.parametrize("talk", SLOW.values(), ids=SLOW)
def test_a_slow_answer_times_out_as_a_whole(talk: Talk) -> None:
    # Each of the dripped answers is good, and would be taken by whoever waits for its end.
    with serving(talk) as server:
        assert Client(server.url, SHORT).refresh("token", "app") == TIMED_OUT


@pytest.mark.parametrize("talk", SLOW.values(), ids=SLOW)
def test_a_slow_answer_to_a_revocation_times_out_as_a_whole(talk: Talk) -> None:
    with serving(after_a_yes(talk)) as server:
        client = Client(server.url, LONG)
        # On a connection that stands, the request goes out however long the machine stalls.
        client.refresh("token", "app")
        assert client.revoke("token", "app", deadline=SHORT) == TIMED_OUT
        wait_until(lambda: len(server.requests) >= 2)
        assert len(server.requests) == 2


def test_a_deadline_shortens_the_timeout() -> None:
    with serving(say_nothing) as server:
        assert Client(server.url, LONG).refresh("token", "app", deadline=SHORT) == TIMED_OUT
        assert Client(server.url, LONG).revoke("token", "app", deadline=SHORT) == TIMED_OUT


def test_a_deadline_does_not_lengthen_the_timeout() -> None:
    with serving(say_nothing) as server:
        assert Client(server.url, SHORT).refresh("token", "app", deadline=LONG) == TIMED_OUT


def test_a_slow_call_does_not_shorten_the_next() -> None:
    with serving(drip(b"", YES)) as slow, serving(answering(YES)) as quick:
        assert Client(slow.url, SHORT).refresh("token", "app") == TIMED_OUT
        assert isinstance(Client(quick.url, LONG).refresh("token", "app"), Fresh)


def resolve_to(
    monkeypatch: pytest.MonkeyPatch, host: str, addresses: list[tuple[str, int]]
) -> None:
    resolve: Any = socket.getaddrinfo

    def resolved(name: str, *args: object, **options: object) -> object:
        if name != host:
            return resolve(name, *args, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)


def test_all_addresses_of_a_host_share_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "many.test", [("192.0.2.1", 80)] * 10)
    waits: list[float | None] = []
    monkeypatch.setattr("django_leadexec.provider.call.monotonic", lambda: 10.0 * len(waits))

    class TakesTenSeconds(socket.socket):
        def connect(self, address: object) -> None:
            waits.append(self.gettimeout())
            raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "socket", TakesTenSeconds)
    assert Client("http://many.test", 30).refresh("token", "app") == TIMED_OUT
    assert waits == [30, 20, 10]


def test_a_connection_that_took_all_the_time_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("django_leadexec.provider.call.monotonic", lambda: now[0])

    class TakesAllTheTime(socket.socket):
        def connect(self, address: Any) -> None:
            super().connect(address)
            now[0] += LONG

    monkeypatch.setattr(socket, "socket", TakesAllTheTime)
    with serving(answering(YES)) as server:
        assert Client(server.url, LONG).refresh("token", "app") == TIMED_OUT
        wait_until(lambda: server.accepted)
        server.wait_until_hung_up()
        assert server.requests == []


def test_the_next_address_of_a_host_is_tried(
    closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(answering(YES)) as server:
        addresses = [("127.0.0.1", closed_port), ("127.0.0.1", server.port)]
        resolve_to(monkeypatch, "two.test", addresses)
        assert isinstance(Client("http://two.test", LONG).refresh("token", "app"), Fresh)


# Broken connections


def test_a_refused_connection_says_nothing(closed_port: int) -> None:
    client = Client(f"http://127.0.0.1:{closed_port}", LONG)
    assert client.refresh("token", "app") == FAILED
    assert client.revoke("token", "app") == FAILED


def test_an_unknown_host_says_nothing() -> None:
    assert Client("http://provider.invalid", LONG).refresh("token", "app") == FAILED


@pytest.mark.parametrize("host", ["a" * 70 + ".test", "a..test", "*"])
def test_an_impossible_host_says_nothing(host: str) -> None:
    assert Client(f"http://{host}", LONG).refresh("token", "app") == FAILED


@pytest.mark.parametrize("talk", BROKEN.values(), ids=BROKEN)
def test_a_broken_answer_says_nothing(talk: Talk) -> None:
    with serving(talk) as server:
        assert Client(server.url, LONG).refresh("token", "app") == FAILED


@pytest.mark.parametrize("talk", BROKEN.values(), ids=BROKEN)
def test_a_broken_answer_does_not_confirm_a_revocation(talk: Talk) -> None:
    with serving(talk) as server:
        assert Client(server.url, LONG).revoke("token", "app") == FAILED
        assert len(server.requests) <= 1


@pytest.mark.parametrize(
    "body", [BODY, b'{"valid": false, "errorMessage": "x"}', b"{}"], ids=["yes", "no", "{}"]
)
def test_a_body_that_ends_too_early_is_not_believed(body: bytes) -> None:
    answer = HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body) + 1, body)
    with serving(say(answer)) as server:
        outcome = Unavailable("HTTP 200 with half a body")
        assert Client(server.url, LONG).refresh("token", "app") == outcome
        assert Client(server.url, LONG).revoke("token", "app") == outcome


def test_half_the_headers_are_no_usable_reply() -> None:
    with serving(say(b"HTTP/1.1 200 OK\r\nContent-Le")) as server:
        outcome = Unavailable("HTTP 200 with no usable reply")
        assert Client(server.url, LONG).refresh("token", "app") == outcome
        assert Client(server.url, LONG).revoke("token", "app") == outcome


def test_an_endless_body_is_given_up() -> None:
    with serving(endless_body) as server:
        outcome = Client(server.url, LONG).refresh("token", "app")
    assert outcome == Unavailable("HTTP 200 with an oversized body")


def test_a_body_without_a_length_is_read_to_its_end() -> None:
    with serving(say(HEAD + b"\r\n" + BODY)) as server:
        assert isinstance(Client(server.url, LONG).refresh("token", "app"), Fresh)


def test_an_answer_in_chunks_is_read() -> None:
    parts = [chunked(BODY[:5]), chunked(BODY[5:]), chunked(b"")]
    with serving(say(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *parts)) as server:
        assert isinstance(Client(server.url, LONG).refresh("token", "app"), Fresh)


# What goes over the wire


def test_the_request_is_a_plain_get_with_the_token_encoded() -> None:
    with serving(answering(YES)) as server:
        Client(server.url, LONG).refresh("../a/b%2F?c#d", "my app&x")
        [request] = server.requests
    assert request.method == "GET"
    assert request.target == (
        "/authorize/refreshaccesstoken/..%2Fa%2Fb%252F%3Fc%23d?appid=my+app%26x"
    )
    assert request.body == b""
    assert request.headers["host"] == f"127.0.0.1:{server.port}"
    assert request.headers["accept"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["user-agent"].startswith("django-leadexec/")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("call", ["refresh", "revoke"])
def test_a_redirect_is_not_followed(status: int, call: str) -> None:
    with serving(answering(YES)) as elsewhere:
        moved = http(b"", status, f"Location: {elsewhere.url}/trap\r\n")
        with serving(answering(moved)) as server:
            outcome = getattr(Client(server.url, LONG), call)("token", "app")
            assert len(server.requests) == 1
        assert elsewhere.accepted == 0
    assert outcome == Unavailable(f"HTTP {status}")


def test_netrc_is_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with serving(answering(YES)) as server:
        Client(server.url, LONG).refresh("token", "app")
        assert "authorization" not in server.requests[0].headers


def test_no_cookie_is_kept_for_the_next_call() -> None:
    with serving(answering(http({"valid": False}, 200, "Set-Cookie: a=b; Path=/\r\n"))) as server:
        client = Client(server.url, LONG)
        client.refresh("one", "app")
        client.refresh("two", "app")
        assert [request.headers.get("cookie") for request in server.requests] == [None, None]


# Connections

ANSWERS = {
    "yes": YES,
    "in chunks": HEAD
    + b"Transfer-Encoding: chunked\r\n\r\n"
    + chunked(BODY)
    + chunked(b"")[:-2]
    + b"\r\n",
    "no": http({"valid": False}),
    "nothing": http(b"", 429),
    "HTML": http(b"<h1>Hello</h1>"),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_calls_in_turn_share_one_connection(answer: bytes) -> None:
    with serving(answering(answer)) as server:
        client = Client(server.url, LONG)
        for number in range(5):
            client.refresh(f"token-{number}", "app")
        assert len(server.requests) == 5
        assert server.accepted == 1


def test_after_a_servers_error_the_next_call_has_a_connection_of_its_own() -> None:
    # The answer may still come, late; see tests/security/test_mad_provider.py.
    with serving(answering(http(b"<h1>Down</h1>", 503))) as server:
        client = Client(server.url, LONG)
        for number in range(3):
            client.refresh(f"token-{number}", "app")
        assert server.accepted == len(server.requests) == 3


def test_calls_at_a_time_share_as_many_connections_as_there_are_threads() -> None:
    with serving(answering(YES)) as server:
        client = Client(server.url, LONG)
        with ThreadPoolExecutor(4) as threads:
            outcomes = list(threads.map(lambda it: client.refresh(str(it), "app"), range(60)))
        assert all(isinstance(outcome, Fresh) for outcome in outcomes)
        assert len(server.requests) == 60
        assert server.accepted <= 4


def test_an_answer_goes_to_the_call_that_asked() -> None:
    def talk(peer: Peer) -> None:
        while request := peer.request():
            token = request.target.split("/")[-1].split("?")[0]
            peer.send(http({"valid": True, "authToken": f"access-for-{token}"}))

    with serving(talk) as server:
        client = Client(server.url, LONG)
        with ThreadPoolExecutor(8) as threads:
            outcomes = list(threads.map(lambda it: client.refresh(f"t{it}", "app"), range(80)))
    tokens = [outcome.access_token.reveal() for outcome in outcomes if isinstance(outcome, Fresh)]
    assert tokens == [f"access-for-t{number}" for number in range(80)]


def test_a_connection_that_was_given_up_is_not_used_again() -> None:
    # Else the next call would read the late answer to this one: another user's token.
    given_up = threading.Event()

    def talk(peer: Peer) -> None:
        while request := peer.request():
            if "/first?" in request.target:
                given_up.wait(LONG)
            name = request.target.split("/")[-1].split("?")[0]
            peer.send(http({"valid": True, "authToken": f"access-for-{name}"}))

    with serving(talk) as server:
        client = Client(server.url, LONG)
        # Else a machine that stalls could let the time pass before there is a connection.
        client.refresh("none", "app")
        assert client.refresh("first", "app", deadline=SHORT) == TIMED_OUT
        given_up.set()
        outcome = client.refresh("second", "app")
        assert isinstance(outcome, Fresh)
        assert outcome.access_token.reveal() == "access-for-second"
        assert server.accepted == 2


def test_a_connection_the_provider_has_closed_is_replaced() -> None:
    with serving(say(http({"valid": False}))) as server:
        client = Client(server.url, LONG)
        client.refresh("one", "app")
        server.wait_until_hung_up()
        assert not isinstance(client.refresh("two", "app"), Unavailable)
        assert server.accepted == 2


# Certificates and proxies


def test_a_certificate_nobody_vouches_for_is_refused(certificate: Certificate) -> None:
    with serving(over_tls(certificate, answering(YES))) as server:
        outcome = Client(secure(server.url), LONG).refresh("token", "app")
        assert outcome == Unavailable("TLS failed")
        assert server.requests == []


def test_a_ca_bundle_of_the_environment_is_honoured(trusted: Certificate) -> None:
    with serving(over_tls(trusted, answering(YES))) as server:
        client = Client(secure(server.url), LONG)
        assert isinstance(client.refresh("token", "app"), Fresh)
        assert isinstance(client.refresh("token", "app"), Fresh)
        assert server.accepted == 1


def test_a_ca_bundle_that_is_missing_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/bundle.pem")
    assert Client("https://127.0.0.1:9", LONG).refresh("token", "app") == FAILED


def test_plain_text_where_tls_is_wanted_says_nothing() -> None:
    with serving(lambda peer: peer.send(YES)) as server:
        assert Client(secure(server.url), LONG).refresh("token", "app") == Unavailable("TLS failed")


def test_a_slow_tls_handshake_times_out_as_a_whole() -> None:
    hello = b"\x16\x03\x03\x40\x00" + b"\x02\x00\x3f\xfc\x03\x03" + b"x" * 200
    with serving(lambda peer: peer.drip(hello)) as server:
        assert Client(secure(server.url), SHORT).refresh("token", "app") == TIMED_OUT


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system stops no process")
def test_a_process_that_was_stopped_while_connecting_sends_nothing_after_its_deadline(
    trusted: Certificate,
) -> None:
    def stop_during_the_handshake(peer: Peer) -> None:
        peer.sock.recv(1, socket.MSG_PEEK)  # the first message of the handshake is here
        caller.send_signal(signal.SIGSTOP)
        resume = threading.Timer(DEADLINE + 0.2, caller.send_signal, [signal.SIGCONT])
        resume.start()
        with suppress(OSError):
            # What the caller waits for arrives while it is stopped.
            peer.start_tls(trusted.context)
            peer.request()
        join(resume)

    with serving(stop_during_the_handshake) as server:
        caller = start_module(None, "tests.provider.one_call", secure(server.url))
        out, err = caller.communicate(timeout=60)
    assert out.strip() == str(TIMED_OUT), err
    assert server.accepted == 1
    assert server.requests == []


@pytest.mark.slow
@pytest.mark.parametrize("talk", SLOW.values(), ids=SLOW)
def test_a_slow_answer_over_tls_times_out_as_a_whole(talk: Talk, trusted: Certificate) -> None:
    with serving(over_tls(trusted, talk)) as server:
        assert Client(secure(server.url), 2 * SHORT).refresh("token", "app") == TIMED_OUT


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy_of_the_environment_is_honoured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(answering(YES)) as proxy:
        monkeypatch.setenv(name, proxy.url)
        client = Client("http://provider.test", LONG)
        assert isinstance(client.refresh("a/b", "app"), Fresh)
        assert isinstance(client.refresh("a/b", "app"), Fresh)
        url = "http://provider.test/authorize/refreshaccesstoken/a%2Fb?appid=app"
        assert [request.target for request in proxy.requests] == [url, url]
        assert proxy.accepted == 1


def test_a_host_in_no_proxy_is_called_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(answering(YES)) as proxy, serving(answering(YES)) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert isinstance(Client(server.url, LONG).refresh("token", "app"), Fresh)
        assert proxy.accepted == 0


def through_tunnel(certificate: Certificate, talk: Talk) -> Talk:
    def tunnel(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        peer.start_tls(certificate.context)
        talk(peer)

    return tunnel


def test_https_goes_through_a_proxy_that_sees_no_token(
    monkeypatch: pytest.MonkeyPatch, trusted: Certificate
) -> None:
    with serving(through_tunnel(trusted, answering(YES))) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert isinstance(Client("https://provider.test", LONG).refresh("token", "app"), Fresh)
        seen, inside = proxy.requests
    assert (seen.method, seen.target) == ("CONNECT", "provider.test:443")
    assert "token" not in repr(seen)
    assert inside.target == "/authorize/refreshaccesstoken/token?appid=app"


def test_a_slow_answer_through_a_proxy_times_out_as_a_whole(
    monkeypatch: pytest.MonkeyPatch, trusted: Certificate
) -> None:
    talk = drip(HEAD + b"Content-Length: 200\r\n\r\n", BODY.ljust(200))
    with serving(through_tunnel(trusted, talk)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert Client("https://provider.test", 2 * SHORT).refresh("token", "app") == TIMED_OUT


PROXY_TROUBLE = {
    "refuses": (answering(http(b"", 502)), FAILED),
    "wants a password": (answering(http(b"", 407, "Proxy-Authenticate: Basic\r\n")), FAILED),
    "hangs up": (say(b""), FAILED),
    "says nothing": (say_nothing, TIMED_OUT),
    "is slow": (
        drip(b"", b"HTTP/1.1 200 Connection established\r\n" + b"X: y\r\n" * 50),
        TIMED_OUT,
    ),
}


@pytest.mark.parametrize(("talk", "outcome"), PROXY_TROUBLE.values(), ids=PROXY_TROUBLE)
def test_a_proxy_in_trouble_says_nothing(
    talk: Talk, outcome: Unavailable, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(talk) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        seconds = SHORT if outcome == TIMED_OUT else LONG
        assert Client("https://provider.test", seconds).refresh("token", "app") == outcome


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "nonsense", "http://", "ftp://x:1"])
def test_a_proxy_that_can_not_be_used_says_nothing(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    outcome = Client("http://provider.test", LONG).refresh("token", "app")
    assert isinstance(outcome, Unavailable)


def test_a_socks_proxy_keeps_its_own_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    # A stand-in for urllib3's SOCKSProxyManager, whose library is not installed everywhere.
    from requests import adapters
    from urllib3 import HTTPConnectionPool, PoolManager
    from urllib3.connection import HTTPConnection

    from django_leadexec.provider.transport import QuietAdapter

    class SocksConnection(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return socket.create_connection(self.socks)

        socks: tuple[str, int]

    class SocksPool(HTTPConnectionPool):
        ConnectionCls = SocksConnection

    def socks_manager(proxy: str, **options: object) -> PoolManager:
        manager = PoolManager()
        manager.pool_classes_by_scheme = {"http": SocksPool}
        return manager

    monkeypatch.setattr(adapters, "SOCKSProxyManager", socks_manager)
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy.test:1080")
    with serving(answering(YES)) as proxy:
        SocksConnection.socks = ("127.0.0.1", proxy.port)
        client = Client("http://provider.test", LONG)
        assert isinstance(client.refresh("token", "app"), Fresh)
        assert isinstance(client.refresh("token", "app"), Fresh)
        assert proxy.accepted == 1
    adapter = QuietAdapter()
    manager = adapter.proxy_manager_for("socks5://proxy.test:1080")
    pools = manager.pool_classes_by_scheme
    assert adapter.proxy_manager_for("socks5://proxy.test:1080") is manager
    assert manager.pool_classes_by_scheme is pools
    connection = manager.pool_classes_by_scheme["http"].ConnectionCls
    assert issubclass(connection, SocksConnection)
    assert connection.debuglevel == 0
