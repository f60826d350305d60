"""When the next call to the provider may begin: ``--rate`` and Retry-After."""

import threading

from ..clock import monotonic


class Pace:
    """Spaces calls evenly, over all threads and passes, and holds them after a Retry-After."""

    def __init__(self, rate: float | None, stop: threading.Event) -> None:
        self._interval = 1 / rate if rate else 0.0
        self._stop = stop
        self._lock = threading.Lock()
        self._next = monotonic()
        self._held_until = 0.0

    def seconds_left(self) -> float:
        """Seconds until the rate lets the next call begin; negative once it does."""
        return self._next - monotonic()

    def wait(self) -> float:
        """Wait for the turn of one call, or until the run is stopped; returns the turn."""
        if not self._interval:
            return 0.0
        with self._lock:
            now = monotonic()
            start = max(now, self._next)
            self._next = start + self._interval
        self._stop.wait(start - now)
        return start

    def give_back(self, start: float) -> None:
        """Let the next call have this turn, unless a later one has been taken.

        Otherwise passes that are shorter than the interval could use up all turns without a call.
        """
        with self._lock:
            if self._next == start + self._interval:
                self._next = start

    def hold(self, seconds: float) -> None:
        """Let no call begin for that many seconds: the provider has asked for it."""
        self._held_until = max(self._held_until, monotonic() + seconds)

    def held_for(self) -> float:
        """Seconds for which no call may begin; negative if none is held."""
        return self._held_until - monotonic()
