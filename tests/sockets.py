"""A server on a real socket that says, byte for byte, what a test makes it say."""

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from .concurrency.threads import join


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
        secured = context.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
        # Before the handshake, so that the server can end it, too.
        self.sock = secured
        self._file = secured.makefile("rb")
        secured.do_handshake()

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
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._threads: list[threading.Thread] = []
        # Whoever has had an answer sees the thread that gave it.
        self._starting = threading.Lock()
        self._peers: list[Peer] = []
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._acceptor.start()

    def stop(self) -> None:
        self.stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        # From here on nobody is accepted any more, who would be hung up on by nobody.
        join(self._acceptor)
        self._listener.close()
        for peer in self._peers:
            with suppress(OSError):
                # Not a TLS socket's own, which takes its state away from the thread that reads it.
                socket.socket.shutdown(peer.sock, socket.SHUT_RDWR)
        self.wait_until_hung_up()

    def wait_until_hung_up(self) -> None:
        """Wait for the ends of all talks so far."""
        with self._starting:
            threads = list(self._threads)
        for thread in threads:
            join(thread)

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            peer = Peer(self, sock)
            self._peers.append(peer)
            thread = threading.Thread(target=self._serve, args=(peer,), daemon=True)
            with self._starting:
                thread.start()
                self._threads.append(thread)

    def _serve(self, peer: Peer) -> None:
        with suppress(OSError, ValueError):
            self.talk(peer)
        with suppress(OSError):
            peer.close()


def apis_at(url: str) -> dict[str, str]:
    """Keys of LEADEXEC that make a server at this address both of LeadExec's APIs."""
    return {"ACCOUNT_API_URL": url, "DATA_API_URL": url}


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
