"""The gate: whether a call may begin now, and the call itself."""

import logging
import time

from ..clock import monotonic
from ..provider.replies import Unavailable
from .deadline import Deadline
from .jobs import Answer, Job, NotAsked, Result
from .options import Options
from .work import Work
from .workers import Pool

logger: logging.Logger = logging.getLogger(__name__)

# Seconds of work that are claimed ahead.
LOOK_AHEAD = 0.5


def window(options: Options, call_seconds: float) -> int:
    """How many rows to hold at once: what the workers get done in ``LOOK_AHEAD`` seconds.

    That is enough to keep the workers from waiting for the database. It is no more, because pages
    wait for rows that are held.
    """
    calls = min(options.workers * LOOK_AHEAD / call_seconds, 4 * options.batch_size)
    rows = max(2 * options.workers, int(calls))
    if options.rate:
        # At a rate, as many as begin in that time, and those under way meanwhile.
        rows = max(1, min(rows, int(options.rate * (LOOK_AHEAD + call_seconds))))
    return rows


class Gate:
    """Says for one turn whether rows may be claimed, and calls begin, until ``ends_at``.

    The workers call ``perform`` and ``may_call`` in their threads.
    """

    def __init__(self, work: Work, pool: Pool, deadline: Deadline, seconds: float) -> None:
        self.work = work
        self.pool = pool
        self.deadline = deadline
        self.ends_at: float = monotonic() + seconds
        # The one job that may be called about while the circuit is open.
        self.probe: Job | None = None
        self.has_given_up: bool = False

    def is_over(self) -> bool:
        """Whether no call of this turn may begin any more."""
        return self.has_given_up or self.deadline.is_over() or monotonic() >= self.ends_at

    def give_up(self) -> None:
        """The provider can not be reached. Most kinds of work then end for this run."""
        self.work.is_unreachable = True
        self.has_given_up = self.work.gives_up

    def may_start(self) -> bool:
        """Whether one more call may begin now."""
        pace, in_flight = self.work.health.pace, self.pool.in_flight
        # No row is claimed for a call whose time is far off: its lease would be over by then.
        if self.is_over() or self.held_for() > 0 or pace.seconds_left() > LOOK_AHEAD:
            return False
        if not self.work.breaker.is_closed:
            return in_flight == 0
        return self.work.may_ask(in_flight) and in_flight < self._window()

    def may_claim(self, waiting: int) -> int:
        """How many rows to claim now, with ``waiting`` rows claimed that no worker has yet.

        None, while the workers have enough to do.
        """
        batch, rows = self.work.options.batch_size, self._window()
        count = min(batch, rows - self.pool.in_flight - waiting)
        if not self.work.breaker.is_closed:
            count = 1
        elif count < min(batch, rows // 2):
            return 0  # a whole batch a little later costs less
        return int(min(count, self.work.may_take))

    def _window(self) -> int:
        return window(self.work.options, self.pool.call_seconds)

    def held_for(self) -> float:
        """Seconds until a Retry-After is over, or the time of a probe has come."""
        return max(self.work.health.pace.held_for(), self.work.breaker.seconds_until_probe())

    def seconds_to_wait(self) -> float:
        """Seconds until the next call may begin; zero or less if it may now."""
        return max(self.held_for(), self.work.health.pace.seconds_left() - LOOK_AHEAD)

    def perform(self, job: Job) -> Answer:
        """Call the provider about a job, unless the time for it is over."""
        pace = self.work.health.pace
        turn = pace.wait()
        if not self.may_call(job):
            pace.give_back(turn)
            return Answer(job, NotAsked())
        began, cpu_began = monotonic(), time.thread_time()
        result: Result
        try:
            result = job.call(self.work.conf, self.deadline.seconds_for_a_call())
        except BaseException as error:  # noqa: BLE001 - a thread that dies would stop the run
            logger.error("A refresh failed unexpectedly: %s.", type(error).__name__)
            result = Unavailable(f"unexpected {type(error).__name__}")
        if isinstance(result, Unavailable) and result.retry_after:
            # Here, so that the next call of this very thread heeds it.
            pace.hold(result.retry_after)
        took = monotonic() - began
        return Answer(job, result, took, time.thread_time() - cpu_began)

    def may_call(self, job: Job) -> bool:
        """Whether a job that was handed out may still be called about."""
        if self.is_over() or self.held_for() > 0:
            return False
        is_allowed = self.work.breaker.is_closed or job is self.probe
        return is_allowed and job.claim.covers(job.calls * self.work.conf.timeout)
