"""Whether to believe a provider that refuses one connection after the other.

A wrong APP_ID makes the provider refuse everybody. So refusals without any success among them are
doubted: nobody is marked as rejected until a success shows that the provider tells them apart.
"""

from collections import deque

from ..clock import monotonic

# Refusals without a success that are doubted.
DOUBT_THRESHOLD = 20
# How many more connections are then asked about, those that the provider accepted last.
CONFIRMATION_SAMPLE = 20
# Seconds for which a success makes refusals credible, and for which refusals add up.
WINDOW = 600


class Refusals:
    """Successes and refusals of late. Lives as long as a ``--watch``.

    ``watching``: a success speaks only for few refusals, because it may be from another pass.
    """

    def __init__(self, *, watching: bool) -> None:
        self._watching = watching
        self._last_success = float("-inf")
        # When the last refusals came, since the last success.
        self._times: deque[float] = deque(maxlen=DOUBT_THRESHOLD)

    def __len__(self) -> int:
        return len(self._times)

    def record_success(self) -> None:
        self._last_success = monotonic()
        self._times.clear()

    def record_refusal(self) -> None:
        self._times.append(monotonic())

    def forget_old(self) -> None:
        """Drop refusals that are older than the window."""
        while self._times and monotonic() - self._times[0] >= WINDOW:
            self._times.popleft()

    def are_credible(self) -> bool:
        """Whether a recent success speaks for the refusals."""
        are_few = not self._watching or len(self) < DOUBT_THRESHOLD
        return are_few and monotonic() - self._last_success < WINDOW

    def are_doubtful(self) -> bool:
        """Whether there are so many without a success that they must not be believed."""
        return not self.are_credible() and len(self) >= DOUBT_THRESHOLD

    def may_ask(self, in_flight: int, workers: int) -> bool:
        """Whether one more connection may be asked about, with ``in_flight`` calls under way.

        No more than the threshold, or one for each worker, are asked before the doubt is settled.
        """
        if self.are_credible():
            return True
        most = max(DOUBT_THRESHOLD, workers)
        return len(self) < DOUBT_THRESHOLD and len(self) + in_flight < most
