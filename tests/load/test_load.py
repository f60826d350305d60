"""A site on gunicorn with four workers, its commands beside it in processes of their own.

LEADEXEC_LOAD=full is what the site has to bear; without it there is less of everything.
--log-cli-level=INFO shows what came of it.
"""

import http.client
import json
import logging
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from pytest_django import Settings

from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.visitor_mark import mark_of

from .. import processes
from ..factories import make_connection, make_user, plain
from ..provider import Provider

pytestmark = [pytest.mark.postgres, pytest.mark.django_db(transaction=True)]

logger = logging.getLogger(__name__)

FULL = os.environ.get("LEADEXEC_LOAD") == "full"
PAGES = 500 if FULL else 100
CALLBACKS = 3_000 if FULL else 150
# The seconds over which they come.
CALLBACK_SECONDS = 60 if FULL else 3
VISITORS = 32
CSRF = "c" * 32


@dataclass
class Process:
    """A process that is running, and what it has said until now."""

    popen: "subprocess.Popen[str]"
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Read all the while: a full pipe would stop it.
        self._readers = [
            threading.Thread(target=lines.extend, args=(stream,), daemon=True)
            for lines, stream in ((self.out, self.popen.stdout), (self.err, self.popen.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def wait(self, seconds: float) -> int:
        code = self.popen.wait(seconds)
        for reader in self._readers:
            reader.join(10)
        for stream in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if stream:
                stream.close()
        return code

    def end(self) -> int:
        self.popen.terminate()
        try:
            return self.wait(60)
        finally:
            self.popen.kill()


@contextmanager
def running(popen: "subprocess.Popen[str]") -> Iterator[Process]:
    process = Process(popen)
    try:
        yield process
    finally:
        if popen.poll() is None:
            process.end()


@contextmanager
def gunicorn(
    provider: Provider, workers: tuple[str, ...] = ("--workers=4", "--threads=4")
) -> Iterator[tuple[Process, int]]:
    """The site, and the port it listens at."""
    options = [*workers, "--preload", "--bind=127.0.0.1:0", "--backlog=2048"]
    with running(
        processes.start_module(provider, "gunicorn", *options, "tests.load.wsgi")
    ) as server:

        def address() -> str:
            said = "".join(server.err)
            return said.partition("Listening at: http://127.0.0.1:")[2].partition(" ")[0]

        processes.wait_until(lambda: address() or server.popen.poll() is not None)
        assert address(), server.err
        yield server, int(address())


@dataclass(frozen=True)
class Visitor:
    user: Any
    session: str

    @classmethod
    def new(cls) -> "Visitor":
        user, client = make_user(), Client()
        client.force_login(user, "django.contrib.auth.backends.ModelBackend")
        return cls(user, str(client.session.session_key))

    def ask(self, port: int, method: str, path: str, body: object = None) -> tuple[int, str]:
        """Status and body; what goes wrong on the way is raised."""
        headers = {
            "Cookie": f"{django_settings.SESSION_COOKIE_NAME}={self.session}; csrftoken={CSRF}",
            "X-CSRFToken": CSRF,
            "Content-Type": "application/json",
        }
        server = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            server.request(method, path, json.dumps(body), headers)
            answer = server.getresponse()
            return answer.status, answer.read().decode()
        finally:
            server.close()


def all_at_once(
    count: int, work: Callable[[int], Iterable[tuple[int, str]]]
) -> Counter[tuple[int, str]]:
    with ThreadPoolExecutor(VISITORS) as pool:
        done = pool.map(lambda number: Counter(work(number)), range(count))
        return sum(done, Counter())


def deadlocks() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        (count,) = cursor.fetchone()
    return int(count)


@pytest.fixture
def keys(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The old key and the new one, as every process begins with them."""
    both = [*settings.LEADEXEC["ENCRYPTION_KEYS"], Fernet.generate_key().decode()]
    settings.LEADEXEC = settings.LEADEXEC | {"ENCRYPTION_KEYS": both}
    monkeypatch.setenv("LEADEXEC_LOAD_KEYS", " ".join(both))
    return both


@pytest.mark.usefixtures("keys")
def test_pages_that_all_need_one_expired_token_make_one_refresh(provider: Provider) -> None:
    visitor = Visitor.new()
    make_connection("t", user=visitor.user, expires_in=-1)
    provider.latency = 0.5
    with gunicorn(provider) as (server, port):
        answers = all_at_once(PAGES, lambda number: [visitor.ask(port, "GET", "/page/")])
    logger.info("answers: %s", dict(answers))
    assert answers == {(200, "access-1-for-t"): PAGES}
    assert provider.refreshes == {"t": 1}
    assert "Traceback" not in "".join(server.err)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("workers", [("--workers=1",), ("--workers=1", "--threads=2")])
def test_who_disconnects_is_answered_while_leadexec_is_silent(
    provider: Provider, workers: tuple[str, ...]
) -> None:
    visitor = Visitor.new()
    make_connection("t", user=visitor.user)
    provider.held.set()
    with gunicorn(provider, workers) as (server, port):
        answer = visitor.ask(port, "POST", "/leadexec/disconnect/", {})
        assert (answer[0], json.loads(answer[1])["status"]) == (200, "disconnected")
        assert LeadExecConnection.objects.get().status == "revoked"
        # The provider is asked after the answer, and has not said anything yet.
        processes.wait_until(lambda: provider.calls["disconnectapplicationtoken"])
        assert PendingRevocation.objects.count() == 1
        provider.held.clear()
        processes.wait_until(lambda: not PendingRevocation.objects.exists())
        assert visitor.ask(port, "GET", "/page/") == (200, "")
    assert provider.revoked == {"t"}
    assert "Traceback" not in "".join(server.err)


def token_of(number: int) -> str:
    """The refresh token that callback brings."""
    round_, turn = divmod(number, VISITORS)
    return f"{turn}-{round_ // 3}"


def start_command(provider: Provider, *arguments: str) -> "subprocess.Popen[str]":
    return processes.start(provider, *arguments, "--settings=tests.load.settings")


class Rotation(threading.Thread):
    """Turns the order of the keys and rotates to it, again and again until it is stopped."""

    def __init__(self, provider: Provider, keys: list[str], monkeypatch: pytest.MonkeyPatch):
        super().__init__(daemon=True)
        self._provider, self._keys, self._monkeypatch = provider, keys, monkeypatch
        self.stopped = threading.Event()
        self.reports: list[dict[str, int]] = []
        self.errors: list[str] = []

    def run(self) -> None:
        while not self.stopped.is_set():
            self._keys = self._keys[::-1]
            self.rotate(self._keys)

    def rotate(self, keys: list[str]) -> None:
        self._monkeypatch.setenv("LEADEXEC_LOAD_KEYS", " ".join(keys))
        popen = start_command(self._provider, "rotate_leadexec_keys", "--json")
        with running(popen) as process:
            if process.wait(120):
                self.errors.append("".join(process.err))
            else:
                self.reports.append(json.loads("".join(process.out)))


def test_callbacks_while_tokens_are_refreshed_and_keys_rotate(
    provider: Provider,
    keys: list[str],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    visitors = [Visitor.new() for _ in range(VISITORS)]
    make_connection(token_of(0), user=visitors[0].user, expires_in=-1)
    provider.latency = 0.01
    provider.lifetime = 2  # so that every row is due again within a second
    deadlocks_before = deadlocks()

    def call_back(turn: int) -> Iterator[tuple[int, str]]:
        """One visitor's callbacks come one after the other; each third brings a new token."""
        for number in range(turn, CALLBACKS, VISITORS):
            time.sleep(max(began + number * CALLBACK_SECONDS / CALLBACKS - time.monotonic(), 0))
            visitor = visitors[turn]
            mark = mark_of(visitor.user)
            body = {"token": token_of(number), "gesture": True, "visitor": mark}
            status, answer = visitor.ask(port, "POST", "/leadexec/callback/", body)
            yield status, json.loads(answer).get("status", answer)

    with ExitStack() as stack:
        server, port = stack.enter_context(gunicorn(provider))
        watch = start_command(provider, "refresh_leadexec_tokens", "--watch", "--workers=4")
        refresher = stack.enter_context(running(watch))
        processes.wait_until(lambda: provider.refreshes[token_of(0)])  # it is at work
        rotation = Rotation(provider, keys, monkeypatch)
        rotation.start()
        began = time.monotonic()
        try:
            answers = all_at_once(VISITORS, call_back)
            seconds = time.monotonic() - began
        finally:
            rotation.stopped.set()
            rotation.join(180)
        assert not rotation.is_alive()
        assert refresher.popen.poll() is None, refresher.err
        assert refresher.end() == 0
    rotation.rotate(keys[::-1])
    logger.info(
        "answers: %s in %.1f s; calls: %s; rotations: %s; deadlocks: %s",
        *(dict(answers), seconds, dict(provider.calls), rotation.reports),
        deadlocks() - deadlocks_before,
    )

    assert answers == {(200, "connected"): CALLBACKS}
    assert rotation.errors == []
    assert sum(report["rotated"] for report in rotation.reports) > 0
    assert deadlocks() == deadlocks_before
    assert not provider.overlaps
    said = "".join([*server.err, *refresher.err])
    assert not any(word in said for word in ("Traceback", "deadlock", "CRITICAL", "ERROR"))
    settings.LEADEXEC = settings.LEADEXEC | {"ENCRYPTION_KEYS": keys[1:]}
    expected = {
        visitors[number % VISITORS].user.pk: token_of(number) for number in range(CALLBACKS)
    }
    stored = {
        row.user_id: str(plain(row.refresh_token)) for row in LeadExecConnection.objects.active()
    }
    assert stored == expected
    assert LeadExecConnection.objects.count() == len(expected)
    assert not PendingRevocation.objects.exists()
    assert get_user_model().objects.count() == VISITORS
