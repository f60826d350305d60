"""A stand-in for the provider on a real socket: quick, in memory, and as bad as it is told to be.

It runs in a thread of its own: ``with Provider() as provider``.
"""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

from ..concurrency.threads import PATIENCE, begin

Answer = Callable[["Provider", str], bytes]


@dataclass
class Provider:
    """``answers`` maps a refresh token to what is said about it; ``default`` is for the others."""

    latency: float = 0.0
    lifetime: float = 3600.0
    default: Answer | None = None
    answers: dict[str, Answer] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)
    calls: Counter[str] = field(default_factory=Counter)
    refreshes: Counter[str] = field(default_factory=Counter)
    # Tokens for which a second refresh arrived while one was under way.
    overlaps: set[str] = field(default_factory=set)
    under_way: set[str] = field(default_factory=set)
    # Set to hold every answer back until it is cleared.
    held: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def __enter__(self) -> "Provider":
        self.url = ""
        ready = threading.Event()
        self._thread = begin(lambda: self._serve(ready))
        assert ready.wait(PATIENCE), "the stand-in has not started"
        if not self.url:
            self._thread.returned()
        return self

    def __exit__(self, *error: object) -> None:
        self.held.clear()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.returned()

    def _serve(self, ready: threading.Event) -> None:
        try:
            asyncio.run(self.serve(lambda url: ready.set()), debug=False)
        finally:
            ready.set()

    async def serve(self, started: Callable[[str], object], port: int = 0) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._talk, "127.0.0.1", port, backlog=1024)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started(self.url)
        await self._stop.wait()
        server.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self._answer(head.split(b" ", 2)[1].decode(), writer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, target: str, writer: asyncio.StreamWriter) -> None:
        path, _, _ = target.partition("?")
        _, action, token = path.rsplit("/", 2)
        token = unquote(token)
        is_refresh = action == "refreshaccesstoken"
        self.calls[action] += 1
        if is_refresh:
            self.refreshes[token] += 1
            if token in self.under_way:
                self.overlaps.add(token)
            self.under_way.add(token)
        if self.latency:
            await asyncio.sleep(self.latency)
        while self.held.is_set():  # noqa: ASYNC110 - another thread clears it
            await asyncio.sleep(0.01)
        if is_refresh:
            self.under_way.discard(token)
            answer = self.answers.get(token) or self.default or fresh
        else:
            answer = self.answers.get(f"disconnect {token}") or disconnected
        reply = answer(self, token)
        if reply:
            writer.write(reply)
            await writer.drain()
            if b"\r\nConnection: close\r\n" in reply:
                writer.close()
        else:
            writer.transport.abort()


def http(
    body: object, status: int = 200, headers: str = "", content_type: str = "application/json"
) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return (
        f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\n{headers}"
        f"Content-Length: {len(data)}\r\n\r\n"
    ).encode() + data


def fresh(provider: Provider, token: str) -> bytes:
    """An access token, unless the refresh token has been revoked."""
    if token in provider.revoked:
        return refused(provider, token)
    expires = datetime.now(UTC) + timedelta(seconds=provider.lifetime)
    access_token = f"access-{provider.refreshes[token]}-for-{token}"
    return http(
        {
            "valid": True,
            "refreshToken": token,
            "authToken": access_token,
            "expireDate": expires.isoformat(),
            "errorMessage": None,
        }
    )


def refused(provider: Provider, token: str) -> bytes:
    return http({"valid": False, "refreshToken": token, "errorMessage": "not valid"})


def fresh_until(count: int) -> Answer:
    """Access tokens, until ``count`` were asked for; then every answer is held back."""

    def answer(provider: Provider, token: str) -> bytes:
        if provider.calls["refreshaccesstoken"] >= count:
            provider.held.set()
        return fresh(provider, token)

    return answer


def disconnected(provider: Provider, token: str) -> bytes:
    provider.revoked.add(token)
    return http({"success": True})


def unavailable(provider: Provider, token: str) -> bytes:
    return http(b"<h1>Down</h1>", 503, content_type="text/html")


def throttling(seconds: int) -> Answer:
    return lambda provider, token: http({}, 429, f"Retry-After: {seconds}\r\n")


def reset(provider: Provider, token: str) -> bytes:
    return b""
