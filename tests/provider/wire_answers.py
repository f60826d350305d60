"""What a provider on a real socket may do with one connection: slow answers, and broken ones."""

import json
import time

from ..sockets import Peer, Talk
from .stand_in import http

SHORT = 0.3  # a TIMEOUT that a test can wait for
LONG = 30  # and one that no test waits for
YES = http({"valid": True, "authToken": "access"})
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
BODY = json.dumps({"valid": True, "authToken": "access"}).encode()


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
