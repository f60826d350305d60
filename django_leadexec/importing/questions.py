"""Asks LeadExec about the tokens of an import, as carefully as a refresh run does."""

import threading
from enum import StrEnum

from ..conf import Settings
from ..provider.client import get_client
from ..provider.replies import Fresh, RefreshOutcome, Unavailable
from ..refresh.circuit_breaker import CircuitBreaker
from ..refresh.pace import Pace
from ..refresh.refusals import CONFIRMATION_SAMPLE, DOUBT_THRESHOLD
from ..refresh.turn import LONGEST_HOLD
from .rows import Row

# How often one token is asked about in all, when the provider says to ask again later.
ATTEMPTS = 3
# Refusals without a success among them after which none of them is believed.
MOST_REFUSALS = DOUBT_THRESHOLD + CONFIRMATION_SAMPLE


class End(StrEnum):
    """Why an import has ended early."""

    STOPPED = "stopped"
    THROTTLED = "throttled"
    OUTAGE = "outage"
    EVERYBODY_REFUSED = "everybody_refused"
    UNCLOSED = "unclosed"


class Questions:
    """The calls of one import, from several threads. ``rate``: calls a second at most.

    It gives up when the provider is down, wants a long pause, or refuses everybody. ``end`` then
    says why, and ``doubtful_since`` from which line on the answers so far are not to be believed.
    """

    def __init__(self, conf: Settings, rate: float | None, stop: threading.Event) -> None:
        self.end: End | None = None
        self._conf = conf
        self._stop = stop
        self._pace = Pace(rate, stop)
        self._breaker = CircuitBreaker()
        # Held to wait and to note an answer, and through the whole call of a probe.
        self._lock = threading.Lock()
        self._has_success = False
        self._refusals = 0
        # The first lines of the failures, and of the refusals, that nothing good has followed.
        self._failed_since: int | None = None
        self._refused_since: int | None = None

    def is_over(self) -> bool:
        """Whether no call begins any more."""
        return self.end is not None or self._stop.is_set()

    @property
    def doubtful_since(self) -> int | None:
        return self._refused_since if self.end == End.EVERYBODY_REFUSED else self._failed_since

    def ask(self, row: Row) -> RefreshOutcome | None:
        """What the provider says about a token; None if it is not asked, or is to be asked again.

        Called in threads. Waits for its turn, and for a Retry-After.
        """
        outcome: RefreshOutcome | None = None
        for _ in range(ATTEMPTS):
            with self._lock:
                if not self.is_over():
                    self._wait()
                if self.is_over():
                    return None
                is_probe = not self._breaker.is_closed
                if is_probe:
                    outcome = self._call(row)
                    self._record(outcome, row.line, is_probe=True)
            if not is_probe:
                outcome = self._call(row)
                with self._lock:
                    self._record(outcome, row.line, is_probe=False)
            if not (isinstance(outcome, Unavailable) and outcome.retry_after):
                break
        return outcome

    def _call(self, row: Row) -> RefreshOutcome:
        return get_client().refresh(row.token, self._conf.app_id)

    def _wait(self) -> None:
        held_for = max(self._pace.held_for(), self._breaker.seconds_until_probe())
        if held_for > 0:
            self._stop.wait(held_for)
        self._pace.wait()

    def _record(self, outcome: RefreshOutcome, line: int, *, is_probe: bool) -> None:
        if isinstance(outcome, Unavailable):
            self._failed_since = min(line, self._failed_since or line)
            self._breaker.record_failure(is_probe=is_probe)
            self._pace.hold(outcome.retry_after or 0)
            if self._pace.held_for() > LONGEST_HOLD:
                self._give_up(End.THROTTLED)
            elif self._breaker.is_exhausted:
                self._give_up(End.OUTAGE)
            return
        self._failed_since = None
        self._breaker.record_answer()
        if isinstance(outcome, Fresh):
            self._has_success, self._refused_since = True, None
            return
        self._refusals += 1
        self._refused_since = min(line, self._refused_since or line)
        if self._refusals >= MOST_REFUSALS and not self._has_success:
            self._give_up(End.EVERYBODY_REFUSED)

    def _give_up(self, end: End) -> None:
        # The first reason counts: answers that were under way tell nothing new.
        self.end = self.end or end
