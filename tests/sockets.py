"""A server on a real socket that says, byte for byte, what a test makes it say."""

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Peer:
    """One accepted connection, seen from the server."""

    def __init__(self, server: "SocketServer", sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        self._file = sock.makefile("rb")

    def request(self) -> Request | None:
        """The next request, whole; None when the client has hung up."""
        method, _, rest = self._file.readline().decode("latin-1").partition(" ")
        if not method:
            return None
        headers = {}
        while line := self._file.readline().decode("latin-1").strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = self._file.read(int(headers.get("content-length", 0)))
        if headers.get("transfer-encoding") == "chunked":
            while size := int(self._file.readline(), 16):
                body += self._file.read(size)
                self._file.readline()
            self._file.readline()
        request = Request(method, rest.split(" ")[0], headers, body)
        self.server.requests.append(request)
        return request

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def drip(self, data: bytes, pause: float = 0.05) -> None:
        """Send one byte at a time."""
        for value in data:
            self.send(bytes([value]))
            if self.server.stopping.wait(pause):
                return

    def reset(self) -> None:
        """End the connection with a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def start_tls(self, context: ssl.SSLContext) -> None:
        self._file.close()
        self.sock = context.wrap_socket(self.sock, server_side=True)
        self._file = self.sock.makefile("rb")

    def close(self) -> None:
        self._file.close()
        self.sock.close()


Talk = Callable[[Peer], None]


@dataclass
class SocketServer:
    """Gives each connection to ``talk``, in a thread of its own."""

    talk: Talk
    requests: list[Request] = field(default_factory=list)
    accepted: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._peers: list[Peer] = []
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._start_thread(self._accept)

    def stop(self) -> None:
        self.stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for peer in self._peers:
            with suppress(OSError):
                peer.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def wait_until_hung_up(self) -> None:
        """Wait for the ends of all talks so far."""
        for thread in self._threads[1:]:
            thread.join(10)

    def _start_thread(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            peer = Peer(self, sock)
            self._peers.append(peer)
            self._start_thread(lambda peer=peer: self._serve(peer))  # type: ignore[misc]

    def _serve(self, peer: Peer) -> None:
        with suppress(OSError, ValueError):
            self.talk(peer)
        with suppress(OSError):
            peer.close()


@contextmanager
def serving(talk: Talk) -> Iterator[SocketServer]:
    server = SocketServer(talk)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def answering(*replies: bytes) -> Talk:
    """Answers each connection's requests with these in turn, the last of them for ever."""

    def talk(peer: Peer) -> None:
        left = list(replies)
        while peer.request():
            peer.send(left.pop(0) if len(left) > 1 else left[0])

    return talk
