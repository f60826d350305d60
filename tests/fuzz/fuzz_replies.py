"""Coverage-guided fuzzing of what the provider may answer; no part of the test run.

    pip install atheris
    python -m tests.fuzz.fuzz_replies body -max_total_time=600 -max_len=4096
    python -m tests.fuzz.fuzz_replies wire -max_total_time=600 -max_len=8192

``body`` feeds the readers of replies, ``wire`` all that comes over the socket. Options after the
first word are libFuzzer's own. It begins with replies that are well formed: by chance alone it
would never get past their first words.
"""

import json
import logging
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["django_leadexec", "http", "json"]):
    from django_leadexec.provider import transport
    from django_leadexec.provider.client import Client
    from django_leadexec.provider.replies import (
        Fresh,
        Refused,
        Reply,
        Revoked,
        Unavailable,
        read_expiry,
        read_refresh_reply,
        read_retry_after,
        read_revoke_reply,
    )

# Its warning about another echo would be all there is to see.
logging.disable()
SENT_AT = 1_735_689_600.0
STATUSES = (200, 200, 200, 201, 204, 302, 400, 401, 403, 404, 429, 500)


def seeds_of_bodies() -> list[bytes]:
    bodies = [
        {"valid": True, "authToken": "abc", "expireDate": "2025-01-01T00:30:00"},
        {"valid": "True", "authToken": "abc", "expireDate": "/Date(1735691400000)/"},
        {
            "valid": True,
            "refreshToken": "x",
            "authToken": "abc",
            "expireDate": "1/1/2025 1:00:00 AM",
        },
        {"valid": False, "errorMessage": "The refresh token is not valid."},
        {"valid": "false", "refreshToken": "x", "errorMessage": "bad: the-refresh-token"},
        {"success": True},
        {"success": False},
        [],
    ]
    wraps = ("%s", "cb(%s);", "/**/ a.b(%s)", "\ufeff%s")
    return [
        bytes([number]) + (wrap % json.dumps(body)).encode()
        for number, status in enumerate(STATUSES)
        if status in (200, 403, 500)
        for body in bodies
        for wrap in wraps
    ]


def seeds_of_wires() -> list[bytes]:
    text = seeds_of_bodies()[0][1:]
    length = b"Content-Length: %d\r\n\r\n%s" % (len(text), text)
    chunk = b"%x\r\n%s\r\n0\r\n" % (len(text), text)
    return [
        b"HTTP/1.0 200 OK\r\n\r\n" + text,
        b"HTTP/1.1 200 OK\r\n" + length,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n" + length,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n"
        + chunk
        + b"X: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n" + length,
        b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\n" + length,
        b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n",
    ]


def body(data: bytes) -> None:
    """Whatever the body says, the outcome is one of three, and never more than it says."""
    status = STATUSES[data[0] % len(STATUSES)] if data else 200
    reply = Reply(status, data[1:])
    outcome = read_refresh_reply(reply, "the-refresh-token", SENT_AT)
    if isinstance(outcome, Fresh):
        assert status == 200
        assert outcome.access_token.reveal().isascii()
        assert outcome.access_token.reveal().isprintable()
        assert SENT_AT < outcome.expires_at <= SENT_AT + 86_400
    elif isinstance(outcome, Refused):
        assert status in (200, 400, 401, 403)
        assert b"alse" in data.lower() or b"\\u" in data.lower()
        assert "the-refresh-token" not in outcome.reason
        assert outcome.reason.isprintable()
    revoked = read_revoke_reply(reply, "the-refresh-token")
    if isinstance(revoked, Revoked):
        assert 200 <= status < 300
        assert b"{" in data
    text = data[1:].decode("latin-1")
    assert SENT_AT < read_expiry(text, SENT_AT) <= SENT_AT + 86_400
    read_retry_after(text)


def wire(data: bytes) -> None:
    """Whatever comes over the socket is an outcome, in time, and never an exception."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        try:
            theirs.sendall(data)
        except BlockingIOError:
            ours.close()
            return
        theirs.shutdown(socket.SHUT_WR)
        connection: Any = transport._POOLS["http"].ConnectionCls
        connection._new_conn = lambda self: ours
        caller = Client("http://provider.test", 30)
        outcome = caller.refresh("the-refresh-token", "app")
        caller._session.close()
        ours.close()
        assert isinstance(outcome, Fresh | Refused | Unavailable)
        assert outcome != Unavailable("timed out")


TARGETS = {"body": (body, seeds_of_bodies), "wire": (wire, seeds_of_wires)}

if __name__ == "__main__":
    target, seeds = TARGETS[sys.argv.pop(1)]
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds()):
            (Path(folder) / str(number)).write_bytes(seed)
        # libFuzzer puts what it finds into the first folder, which may be one that was named.
        atheris.Setup([*sys.argv, folder], target)
        atheris.Fuzz()
