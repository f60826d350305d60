"""A transaction of the site's own that has locked a row and goes on for as long as it likes."""

import threading
from collections.abc import Callable

from django.db import transaction

from ..concurrency.threads import Thread, begin
from ..processes import wait_until
from ..provider import Provider


class Caller:
    """Locks by ``lock`` once ``when`` holds, in a thread of its own, until its end."""

    def __init__(
        self, lock: Callable[[], object], *, when: Callable[[], object] = lambda: True
    ) -> None:
        self.locks = threading.Event()
        self._lock = lock
        self._when = when
        self._may_end = threading.Event()

    def __enter__(self) -> "Caller":
        self._thread: Thread = begin(self._work)
        return self

    def __exit__(self, *error: object) -> None:
        self.commit()

    def commit(self) -> None:
        """Also raises what went wrong in the thread."""
        self._may_end.set()
        self._thread.returned()

    def wait_for_lock(self) -> None:
        wait_until(lambda: self.locks.is_set() or not self._thread.is_alive())
        if not self.locks.is_set():
            self.commit()

    def _work(self) -> None:
        wait_until(self._when)
        with transaction.atomic():
            self._lock()
            self.locks.set()
            assert self._may_end.wait(120), "the test has forgotten its caller"


def then_answer(lock: Callable[[], object], provider: Provider) -> Callable[[], None]:
    """For a ``Caller``: take the lock, and let the provider give the answers it has held back."""

    def lock_and_go_on() -> None:
        lock()
        provider.held.clear()

    return lock_and_go_on
