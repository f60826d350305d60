"""A provider gone mad: docs/faults.md has a line for each fault, and names its test.

How single replies are read is in tests/provider/test_replies.py, and deadlines, proxies and
certificates are in tests/provider/test_transport.py. Here is what else can come over a socket, and
what each fault does to the rows, to the visitor and to the operator.
"""

import gc
import gzip
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from django.test import Client as Browser
from django.urls import reverse
from pytest_django import Settings

from django_leadexec.conf import get_settings
from django_leadexec.exceptions import AuthorizationRejected, ProviderUnavailable
from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.provider.client import Client, client_for
from django_leadexec.provider.replies import Fresh, Refused, Unavailable
from django_leadexec.refresh import (
    Options,
    Refresher,
    Report,
    circuit_breaker,
)
from django_leadexec.refresh import (
    refresher as refresher_module,
)

from .. import provider as stand_in
from ..bounded_watch import stopping_in_time
from ..factories import make_connection, make_due_connections, make_user, plain
from ..processes import wait_until
from ..provider import Provider, http
from ..sockets import Peer, SocketServer, Talk, answering, apis_at, serving
from ..visitor import callback_body

SHORT = 0.4  # a TIMEOUT that a test can wait for
LONG = 30  # and one that no test waits for
YES = {"valid": True, "authToken": "access"}
BODY = json.dumps(YES).encode()
WHOLE = b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
FAILED = Unavailable("connection failed")


def say(*parts: bytes) -> Talk:
    """Answer one request with these bytes, and hang up."""

    def talk(peer: Peer) -> None:
        peer.request()
        for part in parts:
            peer.send(part)

    return talk


def access_for(token: str) -> bytes:
    return http({"valid": True, "refreshToken": token, "authToken": f"access-for-{token}"})


def token_of(target: str) -> str:
    return target.split("/")[-1].split("?")[0]


# Answers in the wrong place. What follows is the worst that can happen: that the answer to one
# call is read by the next, on the same connection, and one user gets another's access token.

PREMATURE = {
    "early hints": b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n",
    "still processing": b"HTTP/1.1 102 Processing\r\n\r\n",
    "an unknown 1xx": b"HTTP/1.1 199 Hm\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
    "a gateway that gives up": b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\n\r\n",
    "an error without a body": b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n",
}


def answers_twice(first: bytes, pause: float = 0.15) -> Talk:
    """Sends something at once, and the answer a little later."""

    def talk(peer: Peer) -> None:
        while request := peer.request():
            peer.send(first)
            if peer.server.stopping.wait(pause):
                return
            peer.send(access_for(token_of(request.target)))

    return talk


@pytest.mark.parametrize("first", PREMATURE.values(), ids=PREMATURE)
def test_no_call_reads_the_late_answer_to_the_one_before(first: bytes) -> None:
    with serving(answers_twice(first)) as server:
        client = Client(server.url, LONG)
        for number in range(6):
            outcome = client.refresh(f"token-{number}", "app")
            if isinstance(outcome, Fresh):
                assert outcome.access_token.reveal() == f"access-for-token-{number}"
            else:
                assert isinstance(outcome, Unavailable)


@pytest.mark.parametrize("name", ["early hints", "still processing", "an unknown 1xx"])
@pytest.mark.parametrize("count", [1, 3])
def test_interim_answers_are_waited_through(name: str, count: int) -> None:
    with serving(answers_twice(PREMATURE[name] * count, 0.05)) as server:
        client = Client(server.url, LONG)
        outcomes = [client.refresh(f"t{number}", "app") for number in range(3)]
        assert server.accepted == 1
    tokens = [outcome.access_token.reveal() for outcome in outcomes if isinstance(outcome, Fresh)]
    assert tokens == ["access-for-t0", "access-for-t1", "access-for-t2"]


@pytest.mark.parametrize("name", ["early hints", "still processing"])
def test_endless_interim_answers_time_out(name: str) -> None:
    def talk(peer: Peer) -> None:
        peer.request()
        while not peer.server.stopping.is_set():
            peer.send(PREMATURE[name])

    with serving(talk) as server:
        assert Client(server.url, SHORT).refresh("token", "app") == Unavailable("timed out")


def test_what_comes_after_an_answer_is_not_read_as_the_next_one() -> None:
    def talk(peer: Peer) -> None:
        while request := peer.request():
            peer.send(access_for(token_of(request.target)) + access_for("evil"))

    with serving(talk) as server:
        client = Client(server.url, LONG)
        for number in range(5):
            outcome = client.refresh(f"t{number}", "app")
            assert isinstance(outcome, Fresh)
            assert outcome.access_token.reveal() == f"access-for-t{number}"


# Garbage

CHUNK = b"%x\r\n%s\r\n" % (len(BODY), BODY)
GARBAGE: dict[str, Talk] = {
    "a body without a head": say(BODY),
    "HTML without a head": say(b"<html><h1>It works!</h1></html>"),
    "HTTP/0.9": say(b"HTTP/0.9 200 OK\r\n", BODY),
    "HTTP/2": say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(range(256))),
    "HTTP/3.0": say(b"HTTP/3.0 200 OK\r\n" + WHOLE),
    "ICY": say(b"ICY 200 OK\r\n" + WHOLE),
    "noise": say(bytes(range(256)) * 50),
    "NULs": say(b"\0" * 5_000),
    "blank lines": say(b"\r\n" * 5_000),
    "a status of two digits": say(b"HTTP/1.1 20 OK\r\n" + WHOLE),
    "a status of four digits": say(b"HTTP/1.1 2000 OK\r\n" + WHOLE),
    "a negative status": say(b"HTTP/1.1 -200 OK\r\n" + WHOLE),
    "a long status line": say(b"HTTP/1.1 200 " + b"O" * 100_000 + b"\r\n" + WHOLE),
    "too many headers": say(OK + b"X: y\r\n" * 500 + WHOLE),
    "a chunk of a negative size": say(CHUNKED, b"-5\r\n" + BODY),
    "a chunk of no size": say(CHUNKED, b"\r\n" + BODY),
    "a chunk with a long extension": say(CHUNKED, b"5;" + b"x" * 100_000 + b"\r\nabcde\r\n"),
    "a chunk that is shorter than it says": say(CHUNKED, b"ffff\r\n" + BODY),
    "a chunk that is longer than it says": say(CHUNKED, b"5\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk of any size": say(CHUNKED, b"f" * 16 + b"\r\n" + BODY),
    "a chunked body with no last chunk": say(CHUNKED, CHUNK),
}


def endless_trailers(peer: Peer) -> None:
    peer.request()
    peer.send(CHUNKED + CHUNK + b"0\r\n")
    while not peer.server.stopping.is_set():
        peer.send(b"X-More: y\r\n" * 100)


def half_closes(data: bytes, closed: threading.Event | None = None) -> Talk:
    """Ends its own direction after ``data``, sets ``closed``, and goes on listening."""

    def talk(peer: Peer) -> None:
        peer.request()
        peer.send(data)
        peer.sock.shutdown(socket.SHUT_WR)
        if closed:
            closed.set()
        peer.server.stopping.wait()

    return talk


GARBAGE["half-closed before the answer"] = half_closes(b"")
GARBAGE["half-closed in the chunks"] = half_closes(CHUNKED + CHUNK)


@pytest.mark.parametrize("talk", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("call", ["refresh", "revoke"])
def test_garbage_says_nothing(talk: Talk, call: str) -> None:
    with serving(talk) as server:
        assert isinstance(getattr(Client(server.url, LONG), call)("token", "app"), Unavailable)
        # What can be read as an empty 200 leaves a revocation to a refresh call.
        assert len(server.requests) <= (2 if call == "revoke" else 1)


def test_endless_trailers_are_not_waited_for() -> None:
    with serving(endless_trailers) as server:
        # Were they waited for, there would be no outcome.
        outcome = Client(server.url, SHORT).refresh("token", "app")
        assert isinstance(outcome, Unavailable)


def test_an_answer_before_a_half_closed_socket_is_taken_and_the_connection_replaced() -> None:
    closed = threading.Event()
    with serving(half_closes(access_for("t"), closed)) as server:
        client = Client(server.url, LONG)
        assert isinstance(client.refresh("t", "app"), Fresh)
        assert closed.wait(60)
        assert isinstance(client.refresh("t", "app"), Fresh)
        assert server.accepted == 2


LENGTHS = {
    "negative": b"-1",
    "no number": b"abc",
    "hexadecimal": b"0x10",
    "astronomic": b"9" * 30,
    "beyond what an int may have": b"9" * 5_000,
    "empty": b"",
    "with a sign": b"+%d" % len(BODY),
    "of two kinds": b"5, 6",
}


@pytest.mark.parametrize("length", LENGTHS.values(), ids=LENGTHS)
def test_a_length_that_makes_no_sense_breaks_nothing(length: bytes) -> None:
    with serving(say(OK + b"Content-Length: " + length + b"\r\n\r\n" + BODY)) as server:
        outcome = Client(server.url, LONG).refresh("token", "app")
    assert isinstance(outcome, Unavailable | Fresh)
    if isinstance(outcome, Fresh):
        assert outcome.access_token.reveal() == "access"


def test_a_gzip_bomb_is_never_unpacked() -> None:
    bomb = gzip.compress(b" " * 30_000_000 + BODY)
    heads = [b"Content-Encoding: gzip\r\n", b"Content-Encoding: gzip, gzip\r\n", b""]
    for head in heads:
        answer = OK + head + b"Content-Length: %d\r\n\r\n%s" % (len(bomb), bomb)
        with serving(say(answer)) as server:
            outcome = Client(server.url, LONG).refresh("token", "app")
        assert outcome == Unavailable("HTTP 200 with no usable reply")


@pytest.mark.parametrize(
    "target",
    ["http://evil.test/", "https://evil.test/", "//evil.test/", "file:///etc/passwd", "/", "", "?"],
)
def test_a_redirect_is_not_followed_wherever_it_leads(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Even with a body that would be a yes.
    moved = http(YES, 302, f"Location: {target}\r\n")
    with serving(answering(moved)) as server:
        client = Client(server.url, LONG)
        monkeypatch.setattr(socket, "getaddrinfo", partial(only_local, socket.getaddrinfo))
        assert client.refresh("token", "app") == Unavailable("HTTP 302")
        assert client.revoke("token", "app") == Unavailable("HTTP 302")
        assert len(server.requests) == 2


def only_local(resolve: Callable[..., Any], host: str, *args: Any, **options: Any) -> Any:
    assert host == "127.0.0.1", "a redirect has been followed"
    return resolve(host, *args, **options)


# The network


def test_a_connection_closed_in_the_moment_of_a_call_is_no_failure_of_the_provider() -> None:
    """The provider closes kept connections whenever it likes; its FIN may cross our request."""

    def talk(peer: Peer) -> None:
        # One answer each; the second request on a connection is received, and hung up on.
        if request := peer.request():
            peer.send(access_for(token_of(request.target)))
            peer.request()

    with serving(talk) as server:
        client = Client(server.url, LONG)
        outcomes = [client.refresh(f"t{number}", "app") for number in range(4)]
        assert [type(outcome) for outcome in outcomes] == [Fresh] * 4
        assert server.accepted == 4


def test_a_kept_connection_that_is_reset_is_no_failure_of_the_provider() -> None:
    def talk(peer: Peer) -> None:
        if request := peer.request():
            peer.send(access_for(token_of(request.target)))
            peer.request()
            peer.reset()

    with serving(talk) as server:
        client = Client(server.url, LONG)
        assert all(isinstance(client.refresh(f"t{n}", "app"), Fresh) for n in range(4))


def test_a_new_connection_that_is_hung_up_on_is_tried_only_once() -> None:
    with serving(say(b"")) as server:
        assert Client(server.url, LONG).refresh("token", "app") == FAILED
        assert server.accepted == len(server.requests) == 1


def test_a_provider_that_only_hangs_up_after_a_while_is_tried_twice_at_most() -> None:
    answered: list[str] = []

    def talk(peer: Peer) -> None:
        while request := peer.request():
            if answered:
                return
            answered.append(request.target)
            peer.send(access_for("t"))

    with serving(talk) as server:
        client = Client(server.url, LONG)
        assert isinstance(client.refresh("t", "app"), Fresh)
        assert client.refresh("t", "app") == FAILED
        assert len(server.requests) == 3


def test_a_kept_connection_that_times_out_is_not_tried_again() -> None:
    def talk(peer: Peer) -> None:
        peer.request()
        peer.send(access_for("t"))
        peer.request()
        peer.server.stopping.wait()

    with serving(talk) as server:
        client = Client(server.url, LONG)
        assert isinstance(client.refresh("t", "app"), Fresh)
        assert client.refresh("t", "app", deadline=SHORT) == Unavailable("timed out")
        wait_until(lambda: len(server.requests) >= 2)
        assert len(server.requests) == 2


def test_a_name_that_is_looked_up_for_too_long_is_not_called_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # By then the lease may have ended, and another process may be calling.
    resolve = socket.getaddrinfo

    def slowly(*args: Any, **options: Any) -> Any:
        time.sleep(2 * SHORT)
        return resolve(*args, **options)

    with serving(answering(access_for("t"))) as server:
        monkeypatch.setattr(socket, "getaddrinfo", slowly)
        assert Client(server.url, SHORT).refresh("t", "app") == Unavailable("timed out")
        assert server.accepted == 0


@pytest.mark.parametrize("error", [socket.gaierror(-3, "try again"), OSError(101, "unreachable")])
def test_a_name_service_that_is_gone_says_nothing(
    error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert Client("https://apps.leadexec.net", LONG).refresh("t", "app") == FAILED


# Certificates


def make_certificate(folder: Path, *, name: str = "127.0.0.1", days: int = 1) -> Path:
    """A certificate that vouches for itself; with ``days`` below 0 it has ended."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=9))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / f"{name}{days}.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    pem.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return pem


def over_tls(pem: Path, talk: Talk) -> Talk:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)

    def secured(peer: Peer) -> None:
        peer.start_tls(context)
        talk(peer)

    return secured


@pytest.mark.parametrize(
    ("name", "days"), [("evil.test", 1), ("localhost", -1)], ids=["another's", "ended"]
)
def test_a_trusted_certificate_that_does_not_fit_is_refused(
    name: str, days: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = make_certificate(tmp_path, name=name, days=days)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pem))
    with serving(over_tls(pem, answering(access_for("t")))) as server:
        outcome = Client(f"https://localhost:{server.port}", LONG).refresh("t", "app")
        assert outcome == Unavailable("TLS failed")
        assert server.requests == []


@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
@pytest.mark.parametrize("data", [b"", b"\x16\x03\x03\x00\x05", b"\x15\x03\x03\x00\x02\x02\x28"])
def test_a_handshake_that_breaks_off_says_nothing(data: bytes) -> None:
    def talk(peer: Peer) -> None:
        peer.send(data)
        peer.reset()

    with serving(talk) as server:
        outcome = Client(f"https://localhost:{server.port}", LONG).refresh("t", "app")
    assert isinstance(outcome, Unavailable)
    # Until 3.13 Python does not close the socket of such a handshake. No later test is to blame.
    gc.collect()


# What each fault does to the rows, the visitor and the operator

HTML = b"<html><body>Down for maintenance</body></html>"
PAST, FUTURE = "1999-12-31T23:59:59Z", "2999-12-31T23:59:59Z"


def never(peer: Peer) -> None:
    peer.request()
    peer.server.stopping.wait()


def trickle(peer: Peer) -> None:
    peer.request()
    peer.drip(access_for("t") * 2)


def reset(peer: Peer) -> None:
    peer.request()
    peer.reset()


FAULTS: dict[str, Talk] = {
    "silence": never,
    "bytes that trickle": trickle,
    "a reset": reset,
    "a connection hung up": say(b""),
    "half a body": say(OK + b"Content-Length: 999\r\n\r\n" + BODY),
    "garbage": say(bytes(range(256))),
    "a redirect": answering(http(YES, 302, "Location: http://evil.test/\r\n")),
    "HTML": answering(http(HTML, content_type="text/html")),
    "a wrong charset": answering(http(json.dumps(YES).encode("utf-16"))),
    "404": answering(http(HTML, 404)),
    "429": answering(http({}, 429, "Retry-After: 90\r\n")),
    "500": answering(http(HTML, 500)),
    "503": answering(http({"valid": False, "errorMessage": "busy"}, 503)),
    "a bare no with 403": answering(http({"valid": False}, 403)),
    "a bare no with 401": answering(http({"valid": False}, 401)),
    "a yes without a token": answering(http({"valid": True})),
    "a key with two values": answering(http(b'{"valid": false, "Valid": true, "authToken": "x"}')),
    "wrong types": answering(
        http({"valid": 0, "authToken": 7, "refreshToken": [], "expireDate": {}, "errorMessage": 1})
    ),
    "a list": answering(http([YES])),
    "null": answering(http(b"null")),
    "an oversized body": answering(http(b" " * 100_000 + BODY)),
    "a JSON bomb": answering(http(b"[" * 30_000 + b"]" * 30_000)),
}


class Clock:
    """The client's, which stands still until the server has read a request.

    Else a machine that stalls could let a short TIMEOUT pass before there is any call.
    """

    def __init__(self, server: SocketServer) -> None:
        self._server, self._began = server, time.monotonic()

    def __call__(self) -> float:
        return time.monotonic() if self._server.requests else self._began


@dataclass
class Site:
    """The site, its one connection, and the provider it talks to."""

    row: LeadExecConnection
    server: SocketServer

    def reload(self) -> LeadExecConnection:
        return LeadExecConnection.objects.get(pk=self.row.pk)


@pytest.fixture
def tell(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Site]]:
    """Make a site with one connection, whose access token has ended, and give it a provider."""
    opened: list[SocketServer] = []

    def tell(talk: Talk, token: str = "mine", **fields: Any) -> Site:
        server = SocketServer(talk)
        server.start()
        opened.append(server)
        is_slow = talk in (never, trickle)
        if is_slow:
            monkeypatch.setattr("django_leadexec.provider.call.monotonic", Clock(server))
        settings.DEBUG = True
        settings.LEADEXEC = settings.LEADEXEC | {
            "BASE_URL": server.url,
            **apis_at(server.url),
            "TIMEOUT": SHORT if is_slow else LONG,
        }
        return Site(make_connection(token, **{"expires_in": -1, **fields}), server)

    yield tell
    for server in opened:
        server.stop()


def run(**changes: object) -> Report:
    return Refresher(Options.for_all("default", **changes)).run()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("talk", FAULTS.values(), ids=FAULTS)
class TestEachFault:
    """Not one of them is taken for a no, costs a token, or shows a visitor a traceback."""

    def test_in_a_page_it_is_unavailable_and_asked_once(
        self, talk: Talk, tell: Callable[..., Site]
    ) -> None:
        site = tell(talk)
        with pytest.raises(ProviderUnavailable):
            site.row.get_access_token()
        row = site.reload()
        assert (row.status, plain(row.refresh_token), row.version) == (
            "active",
            "mine",
            site.row.version,
        )
        assert row.last_error.startswith("Not refreshed: ")
        # The next page is told at once, without a call.
        with pytest.raises(ProviderUnavailable):
            site.row.get_access_token()
        wait_until(lambda: site.server.requests)
        assert len(site.server.requests) == 1

    def test_a_token_that_lives_goes_on_to_be_used(
        self, talk: Talk, tell: Callable[..., Site]
    ) -> None:
        site = tell(talk, expires_in=3600)
        assert site.row.get_access_token() == "stored-access-for-mine"
        assert site.server.accepted == 0

    def test_in_a_run_it_is_a_failure_and_put_off(
        self, talk: Talk, tell: Callable[..., Site]
    ) -> None:
        site = tell(talk)
        report = run()
        assert (report.refreshed, report.rejected, report.failed) == (0, 0, 1)
        row = site.reload()
        assert (row.status, plain(row.refresh_token), row.attempts) == ("active", "mine", 1)
        assert row.refresh_after is not None
        assert row.refresh_after > datetime.now(UTC)

    def test_at_the_callback_it_is_a_502_that_links_nothing(
        self, talk: Talk, tell: Callable[..., Site], client: Browser
    ) -> None:
        site = tell(talk)
        client.force_login(make_user(), backend="django.contrib.auth.backends.ModelBackend")
        response = client.post(
            reverse("leadexec:callback"),
            callback_body(client, "new"),
            content_type="application/json",
        )
        assert response.status_code == 502
        assert response.json()["error"]["code"] == "unavailable"
        assert list(LeadExecConnection.objects.all()) == [site.row]

    def test_a_revocation_it_meets_waits_in_the_outbox(
        self, talk: Talk, tell: Callable[..., Site]
    ) -> None:
        site = tell(talk)
        confirmed = site.row.revoke()
        row = site.reload()
        assert (row.status, plain(row.refresh_token), plain(row.access_token)) == (
            "revoked",
            "",
            "",
        )
        # An object that doesn't say no is the only yes there is to a disconnect call.
        assert confirmed == (talk in (FAULTS["a yes without a token"], FAULTS["wrong types"]))
        for entry in PendingRevocation.objects.all():
            assert plain(entry.refresh_token) == "mine"
            assert entry.last_error.startswith("Not revoked: ")
        assert PendingRevocation.objects.exists() != confirmed


@pytest.mark.django_db(transaction=True)
class TestWhatTheProviderSays:
    @pytest.mark.parametrize("moment", [PAST, FUTURE, "soon", 17, None, "/Date(0)/"])
    def test_an_impossible_end_means_an_hour(
        self, moment: object, tell: Callable[..., Site]
    ) -> None:
        site = tell(answering(http({**YES, "expireDate": moment})))
        assert site.row.get_access_token() == "access"
        expires_at = site.reload().expires_at
        assert expires_at is not None
        assert 3_500 < (expires_at - datetime.now(UTC)).total_seconds() <= 3_600

    def test_an_end_in_a_moment_is_not_asked_about_without_end(
        self, tell: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = datetime.now(UTC)
        # So that half of its life can't be over by the second run.
        monkeypatch.setattr(time, "time", now.timestamp)
        soon = (now + timedelta(seconds=4)).isoformat()
        site = tell(answering(http({**YES, "expireDate": soon})))
        assert run().refreshed == 1
        assert run().refreshed == 0
        assert len(site.server.requests) == 1

    def test_anothers_token_as_echo_is_warned_of_and_stored_nowhere(
        self, tell: Callable[..., Site], caplog: pytest.LogCaptureFixture
    ) -> None:
        site = tell(answering(http({**YES, "refreshToken": "theirs"})))
        assert site.row.get_access_token() == "access"
        assert plain(site.reload().refresh_token) == "mine"
        assert not LeadExecConnection.objects.holding("theirs").exists()
        [record] = [it for it in caplog.records if it.name == "django_leadexec.provider.replies"]
        assert record.levelno == logging.WARNING
        assert "theirs" not in record.getMessage()

    def test_a_no_rejects_and_a_later_yes_brings_it_back(
        self, tell: Callable[..., Site], settings: Settings
    ) -> None:
        site = tell(answering(http({"valid": False}), access_for("mine")))
        with pytest.raises(AuthorizationRejected):
            site.row.get_access_token()
        assert site.reload().status == "rejected"
        LeadExecConnection.objects.update(refresh_after=datetime.now(UTC))
        assert run().refreshed == 1
        assert site.row.get_access_token() == "access-for-mine"

    def test_a_page_of_a_site_of_one_believes_a_no_and_says_so(
        self, provider: Provider, client: Browser
    ) -> None:
        row = make_connection("mine", expires_in=-1)
        provider.default = stand_in.refused
        client.force_login(row.user, backend="django.contrib.auth.backends.ModelBackend")
        for _ in range(3):
            with pytest.raises(AuthorizationRejected):
                row.get_access_token()
        assert provider.refreshes["mine"] == 1
        assert "Please reconnect" in client.get("/page/").content.decode()


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_breaker, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(refresher_module, "MIN_SLEEP", 0.05)
    monkeypatch.setattr(refresher_module, "MAX_SLEEP", 0.1)


def statuses() -> dict[str, int]:
    kept = LeadExecConnection.objects.values_list("status", flat=True)
    return {status: list(kept).count(status) for status in set(kept)}


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("short_pauses")
class TestRefusalsForAll:
    @pytest.mark.parametrize("count", [1, 8, 19])
    def test_a_small_site_believes_them_and_gets_everybody_back(
        self, count: int, provider: Provider
    ) -> None:
        make_due_connections(count)
        provider.default = stand_in.refused
        report = run()
        assert (report.rejected, report.everybody_refused) == (count, False)
        assert statuses() == {"rejected": count}
        provider.default = stand_in.fresh
        LeadExecConnection.objects.update(refresh_after=datetime.now(UTC))
        assert run().refreshed == count
        assert statuses() == {"active": count}

    @pytest.mark.parametrize("count", [20, 41, 10_000])
    def test_a_larger_site_believes_none_of_them(self, count: int, provider: Provider) -> None:
        make_due_connections(count)
        provider.default = stand_in.refused
        report = run()
        assert report.everybody_refused
        assert report.rejected == 0
        assert statuses() == {"active": count}
        assert sum(provider.refreshes.values()) <= 40

    def test_those_of_another_application_are_no_witnesses(self, provider: Provider) -> None:
        make_connection("honoured-last", app_id="another")
        make_due_connections(20)
        provider.default = stand_in.refused
        assert run().everybody_refused
        assert not provider.refreshes["honoured-last"]

    def test_a_watch_believes_none_of_them_and_recovers_by_itself(
        self, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pause_after = Refresher._pause_after
        # Not by a short PATIENCE: the claims' leases have no more to spare than that.
        monkeypatch.setattr(
            Refresher, "_pause_after", lambda self, report: min(pause_after(self, report), 0.1)
        )
        make_due_connections(60)
        provider.default = stand_in.refused
        refresher = Refresher(Options.for_all("default", watching=True))
        reports: list[Report] = []

        def seen(report: Report) -> None:
            reports.append(report)
            recovers = sum(it.everybody_refused for it in reports) == 2
            if recovers and provider.default is stand_in.refused:
                provider.default = stand_in.fresh
                LeadExecConnection.objects.update(refresh_after=datetime.now(UTC))
            if sum(it.refreshed for it in reports) >= 60:
                refresher.stop.set()

        with stopping_in_time(refresher):
            refresher.watch(seen, every=0.001)
        assert sum(it.rejected for it in reports) == 0
        assert sum(it.refreshed for it in reports) == 60
        assert statuses() == {"active": 60}

    def test_twenty_dead_rows_before_ten_thousand_good_ones_stop_nobody(
        self, provider: Provider
    ) -> None:
        for row in make_due_connections(20, "dead"):
            provider.answers[plain(row.refresh_token)] = stand_in.refused
        LeadExecConnection.objects.update(refresh_after="2020-01-01T00:00Z")
        make_due_connections(10_000, "good")
        report = run(workers=8, batch_size=500)
        assert (report.refreshed, report.rejected) == (10_000, 20)
        assert not report.everybody_refused
        assert set(provider.refreshes.values()) == {1}


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("short_pauses")
class TestThrottlingStorms:
    def test_pages_make_one_call_each_row_and_then_wait(self, provider: Provider) -> None:
        rows = make_due_connections(10)
        provider.default = stand_in.throttling(600)
        for _ in range(5):
            for row in rows:
                with pytest.raises(ProviderUnavailable) as caught:
                    row.get_access_token()
                assert caught.value.retry_after is not None
                assert caught.value.retry_after > 500
        assert sum(provider.refreshes.values()) == 10
        assert statuses() == {"active": 10}

    def test_a_run_of_ten_thousand_stops_at_once(self, provider: Provider) -> None:
        make_due_connections(10_000)
        provider.default = stand_in.throttling(3_600)
        report = run(workers=16)
        assert report.outage
        assert sum(provider.refreshes.values()) <= 2 * 16
        assert report.left == 10_000 - report.failed
        assert statuses() == {"active": 10_000}

    @pytest.mark.parametrize("seconds", [0, 10**12])
    def test_a_retry_after_without_measure_is_bounded(
        self, seconds: int, provider: Provider
    ) -> None:
        row = make_connection("t", expires_in=-1)
        provider.default = stand_in.throttling(seconds)
        before = datetime.now(UTC)
        with pytest.raises(ProviderUnavailable):
            row.get_access_token()
        row.refresh_from_db()
        assert row.refresh_after is not None
        assert before + timedelta(seconds=10) < row.refresh_after
        assert row.refresh_after <= datetime.now(UTC) + timedelta(days=1)


@pytest.mark.django_db(transaction=True)
def test_a_watch_outlives_a_provider_that_goes_and_comes_back(
    provider: Provider, short_pauses: None
) -> None:
    make_due_connections(30)
    provider.default = stand_in.reset
    refresher = Refresher(Options.for_all("default", watching=True, workers=4))
    reports: list[Report] = []

    def seen(report: Report) -> None:
        reports.append(report)
        if sum(it.refreshed for it in reports) >= 30:
            refresher.stop.set()
        LeadExecConnection.objects.exclude(attempts=0).update(refresh_after=datetime.now(UTC))

    def comes_back() -> None:
        wait_until(lambda: sum(provider.refreshes.values()) >= 22)
        provider.default = stand_in.fresh

    threading.Thread(target=comes_back, daemon=True).start()
    with stopping_in_time(refresher):
        refresher.watch(seen, every=0.001)
    assert sum(it.refreshed for it in reports) == 30
    assert statuses() == {"active": 30}


@pytest.mark.django_db(transaction=True)
def test_no_row_gets_the_answer_that_was_meant_for_another(
    settings: Settings, short_pauses: None
) -> None:
    with serving(answers_twice(PREMATURE["early hints"], 0.02)) as server:
        settings.DEBUG = True
        settings.LEADEXEC = settings.LEADEXEC | {"BASE_URL": server.url, "TIMEOUT": 5}
        rows = make_due_connections(40)
        run(workers=4)
        for row in rows:
            row.refresh_from_db()
            assert plain(row.access_token) in ("", f"access-for-{plain(row.refresh_token)}")
        assert not isinstance(client_for(get_settings()).refresh("x", "a"), Refused)
