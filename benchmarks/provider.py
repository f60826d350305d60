"""A stand-in for the provider that costs next to nothing: one thread, canned replies.

``python -m benchmarks.provider LATENCY LIFETIME`` (seconds) prints its address and serves until its
input ends. It answers the provider's refresh call, an OAuth 2 token endpoint (for the peers),
``/stats``, and ``/down`` and ``/up``, which begin and end an outage.
"""

import json
import selectors
import socket
import sys
import time
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime, timedelta

JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"

DOWN = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


class StandIn:
    def __init__(self, latency: float, lifetime: float) -> None:
        self.latency = latency
        self.lifetime = timedelta(seconds=lifetime)
        self.is_down = False
        self.calls = 0
        self.selector = selectors.DefaultSelector()
        self.partial: dict[socket.socket, bytes] = {}
        # The latency is the same for all, so whoever asked first is answered first.
        self.waiting: deque[tuple[float, socket.socket, bytes]] = deque()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def serve(self) -> None:
        """Answer until standard input ends: with the benchmark, however that ends."""
        self.selector.register(sys.stdin, selectors.EVENT_READ)
        while True:
            for key, _ in self.selector.select(self._pause()):
                source = key.fileobj
                if source is self.listener:
                    self._accept()
                elif isinstance(source, socket.socket):
                    self._read(source)
                else:
                    return
            now = time.monotonic()
            while self.waiting and self.waiting[0][0] <= now:
                _, client, reply = self.waiting.popleft()
                self._send(client, reply)

    def _pause(self) -> float | None:
        return max(self.waiting[0][0] - time.monotonic(), 0) if self.waiting else None

    def _accept(self) -> None:
        client, _ = self.listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.selector.register(client, selectors.EVENT_READ)

    def _read(self, client: socket.socket) -> None:
        try:
            data = client.recv(65536)
        except OSError:
            data = b""
        if not data:
            self.partial.pop(client, None)
            self.selector.unregister(client)
            client.close()
            return
        if client in self.partial:
            data = self.partial.pop(client) + data
        if not _is_whole(data):
            self.partial[client] = data
            return
        path = data[data.index(b" ") + 1 : data.index(b" HTTP/")]
        if path in (b"/stats", b"/down", b"/up"):
            self.is_down = path == b"/down" or (self.is_down and path == b"/stats")
            self._send(client, _reply({"calls": self.calls, "cpu": time.process_time()}))
            return
        self.calls += 1
        reply = self._answer(path)
        if self.latency:
            self.waiting.append((time.monotonic() + self.latency, client, reply))
        else:
            self._send(client, reply)

    def _send(self, client: socket.socket, reply: bytes) -> None:
        with suppress(OSError):  # who asked may be gone
            client.sendall(reply)

    def _answer(self, path: bytes) -> bytes:
        # Each token is another one, as the peers write nothing if it is the one they have.
        if self.is_down:
            return DOWN
        access_token = b"access-token-of-a-likely-length-%020d" % self.calls
        if path == b"/token":
            body = b'{"access_token":"%b","token_type":"Bearer","expires_in":3600}' % access_token
        else:
            token = path[path.rindex(b"/") + 1 :].partition(b"?")[0]
            body = (
                b'{"valid":true,"refreshToken":"%b","authToken":"%b","expireDate":"%b",'
                b'"errorMessage":null}' % (token, access_token, self._expires())
            )
        return JSON % (len(body), body)

    def _expires(self) -> bytes:
        return (datetime.now(UTC) + self.lifetime).isoformat(timespec="milliseconds").encode()


def _reply(data: object) -> bytes:
    body = json.dumps(data).encode()
    return JSON % (len(body), body)


def _is_whole(request: bytes) -> bool:
    head, separator, body = request.partition(b"\r\n\r\n")
    if not separator:
        return False
    _, _, length = head.lower().partition(b"\r\ncontent-length:")
    return not length or len(body) >= int(length.split(b"\r\n", 1)[0])


if __name__ == "__main__":
    stand_in = StandIn(*map(float, sys.argv[1:]))
    sys.stdout.write(json.dumps({"url": stand_in.url}) + "\n")
    sys.stdout.flush()
    stand_in.serve()
