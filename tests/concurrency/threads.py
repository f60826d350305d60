"""Work in several threads, each with a database connection of its own."""

import threading
import time
from collections.abc import Callable

from django.db import connection

Work = Callable[[], object]


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

    def result(self, seconds: float = 60) -> object:
        """What the work returned or raised."""
        self.join(seconds)
        assert not self.is_alive(), "the thread still waits"
        return self._result


def begin(work: Work) -> Thread:
    thread = Thread(work)
    thread.start()
    return thread


def together(*works: Work) -> list[object]:
    """What each of these returned or raised, all begun at the same moment."""
    barrier = threading.Barrier(len(works))

    def at_once(work: Work) -> Work:
        def run() -> object:
            barrier.wait()
            return work()

        return run

    return [thread.result() for thread in [begin(at_once(work)) for work in works]]


def again_and_again(seconds: float, *works: Work) -> list[Exception]:
    """Repeat each of these in a thread of its own; what they raised."""
    ends = time.monotonic() + seconds
    errors: list[Exception] = []

    def repeat(work: Work) -> Work:
        def run() -> None:
            while time.monotonic() < ends:
                try:
                    work()
                except Exception as error:
                    errors.append(error)

        return run

    for thread in [begin(repeat(work)) for work in works]:
        thread.result(seconds + 120)
    return errors
