"""Work in several threads, each with a database connection of its own. No wait is for ever."""

import threading
from collections.abc import Callable
from typing import Any

from django.db import connection

Work = Callable[[], object]

# Seconds that a test waits for another thread or process. Many, as the machine may be busy.
PATIENCE = 60.0


def join(thread: threading.Thread, seconds: float = PATIENCE) -> None:
    """Wait for the end of a thread."""
    thread.join(seconds)
    assert not thread.is_alive(), f"waited {seconds:g} s for the end of {thread.name}"


class Thread(threading.Thread):
    """A thread whose result or error can be asked for."""

    def __init__(self, work: Work) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._result: object = None

    def run(self) -> None:
        try:
            self._result = self._work()
        except Exception as error:
            self._result = error
        finally:
            connection.close()

    def result(self, seconds: float = PATIENCE) -> object:
        """What the work returned or raised."""
        join(self, seconds)
        return self._result

    def returned(self, seconds: float = PATIENCE) -> Any:
        """What the work returned. Raises what it raised."""
        result = self.result(seconds)
        if isinstance(result, Exception):
            raise result
        return result


def begin(work: Work) -> Thread:
    thread = Thread(work)
    thread.start()
    return thread


def together(*works: Work) -> list[object]:
    """What each of these returned or raised, all begun at the same moment."""
    barrier = threading.Barrier(len(works), timeout=PATIENCE)

    def at_once(work: Work) -> Work:
        def run() -> object:
            barrier.wait()
            return work()

        return run

    return [thread.result() for thread in [begin(at_once(work)) for work in works]]


def repeat_beside(times: int, work: Work, *others: Work) -> list[Exception]:
    """Do this that many times, while each of the others is repeated beside it; what they raised."""
    errors: list[Exception] = []
    is_over = threading.Event()

    def attempt(work: Work) -> None:
        try:
            work()
        except Exception as error:
            errors.append(error)

    def repeat(work: Work) -> Work:
        def run() -> None:
            attempt(work)
            while not is_over.is_set():
                attempt(work)

        return run

    threads = [begin(repeat(other)) for other in others]
    for _ in range(times):
        attempt(work)
    is_over.set()
    for thread in threads:
        thread.returned(2 * PATIENCE)
    return errors
