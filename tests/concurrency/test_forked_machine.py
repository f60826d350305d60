"""The state machine of ``test_state_machine``, with every thread in a process of its own.

Each has the settings of the moment at which it was forked, so while the keys are turned some still
have them in the former order. And each may be killed.
"""

import os
import pickle
import signal
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.db import connection as database
from django.db import connections
from hypothesis import strategies as st
from hypothesis.stateful import rule

from .stepped_threads import PATIENCE, SteppedThread, changed, clock, handlers
from .test_state_machine import LONG, Machine, machine, run

__all__ = ["machine"]

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing can be forked here"),
    # The other threads are the provider's and the readers of pipes: no child needs them.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


class Child(SteppedThread):
    """A thread as it is seen from inside its process."""

    steering: Connection

    def stop(self) -> None:
        if not self.free:
            writes = [
                SimpleNamespace(row=SimpleNamespace(pk=claim.row.pk), lease_id=claim.lease_id)
                for claim in self.writes
            ]
            self.steering.send(("stopped", database.in_atomic_block, writes))
            self.free = self.steering.recv() == "free"


class Forked(SteppedThread):
    """A thread as it is seen from the test: it runs in another process."""

    pid = 0

    def start(self) -> None:
        connections.close_all()  # no process may use another's
        self.steering, their_steering = Pipe()
        self.notes, their_notes = Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._be_the_child(their_steering, their_notes)
            finally:
                os._exit(0)
        their_steering.close()
        their_notes.close()
        self.readers = [
            threading.Thread(target=read, daemon=True) for read in (self._heed, self._note)
        ]
        for reader in self.readers:
            reader.start()

    def _be_the_child(self, steering: Connection, notes: Connection) -> None:
        close_all_but(steering.fileno(), notes.fileno())
        changed.__init__()  # type: ignore[misc] # the parent's threads may hold it
        lock = threading.Lock()

        def noting(what: str) -> Callable[..., None]:
            def note(thread: object, *details: object) -> None:
                with lock:
                    notes.send((what, details))
                    notes.recv()

            return note

        handlers.update({what: noting(what) for what in handlers})
        child = Child(self.name, self._work, self.judge, self.clock_error)
        child.in_transaction = self.in_transaction
        child.steering = steering
        child.start()
        steering.send(("done", portable(child.result(10 * PATIENCE))))

    def _heed(self) -> None:
        while (message := received(self.steering)) is not None:
            with changed:
                if message[0] == "done":
                    self._result = message[1]
                elif self.free:
                    self.steering.send("free")
                else:
                    _, self.holds_locks, self.writes = message
                    self.stopped = True
                changed.notify_all()
        os.waitpid(self.pid, 0)
        with changed:
            self.done = True
            changed.notify_all()

    def _note(self) -> None:
        under_way: list[Any] = []
        while (message := received(self.notes)) is not None:
            what, details = message
            handlers[what](self, *details)
            if what == "began":
                under_way.append(details)
            elif what == "ended":
                under_way.remove(details)
            with suppress(ConnectionError):  # it may have been killed
                self.notes.send("noted")
        for details in under_way:
            handlers["ended"](self, *details)

    def go(self) -> None:
        with changed:
            self.stopped = False
            self.writes = []
            self.steering.send("go")

    def set_free(self) -> None:
        with changed:
            self.free = True
            if self.stopped:
                self.stopped = False
                self.steering.send("free")

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.result()

    def result(self, seconds: float = PATIENCE) -> object:
        for reader in self.readers:
            reader.join(seconds)
            assert not reader.is_alive(), "the process still runs"
        return self._result


def close_all_but(*kept: int) -> None:
    """With the provider's sockets open here, too, nobody would see it hang up."""
    first = 3
    for descriptor in sorted(kept):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def received(end: Connection) -> Any:
    """The next message; None once the other end is closed."""
    try:
        return end.recv()
    except (EOFError, ConnectionError):
        return None


def portable(result: Any) -> Any:
    """What a thread returned or raised, fit for a pipe."""
    if hasattr(result, "status_code"):
        return SimpleNamespace(
            status_code=result.status_code,
            content=result.content,
            exc_info=repr(getattr(result, "exc_info", None)),
        )
    try:
        pickle.loads(pickle.dumps(result))  # noqa: S301
    except Exception:
        return repr(result)
    return result


class Processes:
    """What is different when every thread is a process."""

    kind_of_thread = Forked

    def first_keys(self: Any) -> list[str]:
        return [self.first_key, *(Fernet.generate_key().decode() for _ in range(2))]

    def turn_keys(self, keys: list[str]) -> list[str]:
        return [*keys[1:], keys[0]]

    @rule(number=Machine.numbers, kind=st.integers(0, 5))
    def kill(self: Any, number: int, kind: int) -> None:
        running = self.running()
        thread = running[number % len(running)] if running else None
        if thread is None or not self.has_settled(thread):
            return
        tokens = set(thread.calls)
        self.threads.remove(thread)
        thread.kill()
        for call in list(self.provider.waiting):
            if call.token in tokens:
                self.say(call, kind)
        self.settle()

    def has_settled(self: Any, thread: Forked) -> bool:
        """Whether the provider has all its calls already."""
        return Counter(thread.calls) <= Counter(call.token for call in self.provider.waiting)

    def let_all_go(self: Any) -> None:
        super().let_all_go()  # type: ignore[misc]
        clock.passed.value += 6 * LONG  # what the killed have held comes free


@pytest.mark.slow
def test_whatever_falls_between_whatever_in_processes(machine: type[Machine]) -> None:
    run(type("ProcessMachine", (Processes, machine), {}), examples=5)
