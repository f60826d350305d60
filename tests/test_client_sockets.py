"""The client on real sockets: deadlines, connections, proxies, certificates and forks."""

import datetime
import ipaddress
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pytest_django import Settings

from django_leadexec.client import Client, Fresh, Unavailable, client_for, get_client
from django_leadexec.conf import get_settings

from .processes import wait_until
from .provider import Provider, http
from .sockets import Peer, Talk, answering, serving

SHORT = 0.3  # a TIMEOUT that a test can wait for
LONG = 30  # and one that no test waits for
YES = http({"valid": True, "authToken": "access"})
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
BODY = json.dumps({"valid": True, "authToken": "access"}).encode()
TIMED_OUT = Unavailable("timed out")
FAILED = Unavailable("connection failed")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def say(*parts: bytes) -> Talk:
    """Answer one request with these bytes, and hang up."""

    def talk(peer: Peer) -> None:
        peer.request()
        for part in parts:
            peer.send(part)

    return talk


def say_nothing(peer: Peer) -> None:
    """Hang up on whoever has waited longer than SHORT, so that it sees no time-out."""
    peer.request()
    peer.server.stopping.wait(LONG / 2)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses connections: as long as it is bound, nobody else can listen there."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def drip(fast: bytes, slow: bytes) -> Talk:
    """Answer with ``fast`` at once and ``slow`` byte by byte; each pause is far below TIMEOUT."""

    def talk(peer: Peer) -> None:
        peer.request()
        peer.send(fast)
        peer.drip(slow)

    return talk


def after_a_yes(talk: Talk) -> Talk:
    def first_yes(peer: Peer) -> None:
        peer.request()
        peer.send(YES)
        talk(peer)

    return first_yes


def reset_after(data: bytes) -> Talk:
    def talk(peer: Peer) -> None:
        peer.request()
        peer.send(data)
        time.sleep(0.1)  # else the reset may overtake what was sent
        peer.reset()

    return talk


def endless_body(peer: Peer) -> None:
    peer.request()
    peer.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    while not peer.server.stopping.is_set():
        peer.send(chunked(b" " * 10_000))


def endless_headers(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\n")
    while not peer.server.stopping.is_set():
        peer.send(b"X-More: " + b"x" * 1_000 + b"\r\n")


def endless_interim_replies(peer: Peer) -> None:
    peer.request()
    while not peer.server.stopping.is_set():
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")


# Deadlines

SLOW = {
    "no answer": say_nothing,
    "a slow head": drip(b"", YES),
    "slow headers": drip(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x" * 200 + b"\r\n\r\n" + BODY),
    "a slow body": drip(HEAD + b"Content-Length: 200\r\n\r\n", BODY.ljust(200)),
    "slow chunks": drip(
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n", chunked(BODY.ljust(200)) + chunked(b"")
    ),
    "a slow body without an end": drip(HEAD + b"\r\n", BODY.ljust(200)),
    "endless interim replies": endless_interim_replies,
}


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
    clock = SimpleNamespace(time=time.time, monotonic=lambda: 10.0 * len(waits))
    monkeypatch.setattr("django_leadexec.client.time", clock)

    class TakesTenSeconds(socket.socket):
        def connect(self, address: object) -> None:
            waits.append(self.gettimeout())
            raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "socket", TakesTenSeconds)
    assert Client("http://many.test", 30).refresh("token", "app") == TIMED_OUT
    assert waits == [30, 20, 10]


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


WHOLE = b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
BROKEN = {
    "hung up at once": lambda peer: peer.close(),
    "hung up after the request": say(b""),
    "reset after the request": reset_after(b""),
    "half a status line": say(b"HTTP/1.1 20"),
    "reset in the headers": reset_after(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "reset in the body": reset_after(HEAD + b"Content-Length: 500\r\n\r\n" + BODY),
    "half the chunks": say(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(BODY)),
    "reset in the chunks": reset_after(
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(BODY)
    ),
    "no chunk": say(HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n" + BODY),
    "not HTTP": say(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "a bad status": say(b"HTTP/1.1 abc OK\r\n" + WHOLE),
    "endless headers": endless_headers,
    "a long header": say(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n" + WHOLE),
    "two lengths": say(b"HTTP/1.1 200 OK\r\nContent-Length: 3, 4\r\n\r\n" + BODY),
}


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
    tokens = [outcome.access_token for outcome in outcomes if isinstance(outcome, Fresh)]
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
        assert outcome.access_token == "access-for-second"
        assert server.accepted == 2


def test_a_connection_the_provider_has_closed_is_replaced() -> None:
    with serving(say(http({"valid": False}))) as server:
        client = Client(server.url, LONG)
        client.refresh("one", "app")
        server.wait_until_hung_up()
        assert not isinstance(client.refresh("two", "app"), Unavailable)
        assert server.accepted == 2


def test_one_client_serves_a_configuration(provider: Provider, settings: Settings) -> None:
    first = get_client()
    assert first is get_client()
    assert first is client_for(get_settings())
    assert (first.base_url, first.timeout) == (provider.url, get_settings().timeout)
    settings.LEADEXEC = settings.LEADEXEC | {"TIMEOUT": 3}
    assert get_client() is not first
    assert get_client().timeout == 3


def test_a_client_shows_nothing_but_its_class(provider: Provider) -> None:
    assert repr(get_client()).startswith("<django_leadexec.client.Client object")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_makes_its_own_connections(settings: Settings) -> None:
    with serving(answering(YES)) as server:
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


# Certificates and proxies


@dataclass
class Certificate:
    path: str
    context: ssl.SSLContext


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate of its own for 127.0.0.1 and provider.test."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "provider.test")])
    now = datetime.datetime.now(datetime.UTC)
    names = [
        x509.DNSName("provider.test"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path_factory.mktemp("tls") / "provider.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return Certificate(str(pem), context)


@pytest.fixture
def trusted(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> Certificate:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate.path)
    return certificate


def over_tls(certificate: Certificate, talk: Talk) -> Talk:
    def secured(peer: Peer) -> None:
        peer.start_tls(certificate.context)
        talk(peer)

    return secured


def secure(url: str) -> str:
    return url.replace("http:", "https:")


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

    from django_leadexec.client import QuietAdapter

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
