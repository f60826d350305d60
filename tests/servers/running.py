"""Start a server with the site, and visit it."""

import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.test import Client

from django_leadexec.models import LeadExecConnection

from .. import processes
from ..factories import make_connection, make_user
from ..provider import Provider
from ..visitor import LOGIN


def find_program(name: str) -> str:
    """A program that is installed beside this Python."""
    return str(Path(sys.executable).with_name(name))


@contextmanager
def serving(provider: Provider, *command: str, pattern: str) -> Iterator[int]:
    """Run ``python -m`` or, with a slash in it, a program; the port, as ``pattern`` finds it."""
    start = processes.start_program if "/" in command[0] else processes.start_module
    server = start(provider, *command)
    said: list[str] = []
    # Read all the while: a full pipe would stop it.
    readers = [
        threading.Thread(target=said.extend, args=(stream,), daemon=True)
        for stream in (server.stdout, server.stderr)
    ]
    for reader in readers:
        reader.start()

    def port() -> int:
        found = re.search(pattern, "".join(said))
        return int(found[1]) if found else 0

    try:
        processes.wait_until(lambda: port() or server.poll() is not None)
        assert port(), said
        yield port()
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait(60)
        for reader in readers:
            reader.join(10)
        for stream in (server.stdin, server.stdout, server.stderr):
            if stream:
                stream.close()
    assert "Traceback" not in "".join(said), said


@dataclass(frozen=True)
class Visitor:
    """A user with a connection whose access token has ended."""

    row: LeadExecConnection
    session: str

    @classmethod
    def new(cls, token: str) -> "Visitor":
        user, client = make_user(), Client()
        client.force_login(user, LOGIN)
        row = make_connection(token, user=user, expires_in=-1)
        return cls(row, str(client.session.session_key))

    def send(self, port: int, path: str) -> socket.socket:
        """A request that is on its way."""
        sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        sock.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
            f"Cookie: {settings.SESSION_COOKIE_NAME}={self.session}\r\n\r\n".encode()
        )
        return sock

    def get(self, port: int, path: str) -> str:
        """The body of a page."""
        with self.send(port, path) as sock:
            answer = b""
            while part := sock.recv(65_536):
                answer += part
        return answer.partition(b"\r\n\r\n")[2].decode()
