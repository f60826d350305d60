"""How long a run may go on."""

import threading

from ..clock import monotonic

# Seconds before a hard deadline after which no call begins, as it could hardly end in time.
SHORTEST_CALL = 0.5


class Deadline:
    """The end of a run: its time is over, it was stopped, or it has failed.

    ``seconds``: None for no limit. ``is_hard``: calls end by then, too, and do not only begin
    before.
    """

    def __init__(self, seconds: float | None, stop: threading.Event, *, is_hard: bool) -> None:
        self._stop = stop
        self._is_hard = is_hard
        self._ends_at = float("inf") if seconds is None else monotonic() + seconds
        self._closes_at = self._ends_at - SHORTEST_CALL if is_hard else self._ends_at

    def close(self) -> None:
        """Let no call begin any more."""
        self._closes_at = float("-inf")

    def is_over(self) -> bool:
        """Whether no call may begin any more."""
        return self._stop.is_set() or monotonic() >= self._closes_at

    def seconds_for_a_call(self) -> float | None:
        """The deadline of a call that begins now, or None if that is simply TIMEOUT."""
        return max(self._ends_at - monotonic(), 0.001) if self._is_hard else None

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than until the run is stopped."""
        self._stop.wait(seconds)
