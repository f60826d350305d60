"""A turn of a run: claim rows of one kind, have them called about, until nothing is left."""

import logging
from collections import deque
from collections.abc import Sequence

from ..clock import monotonic
from ..provider.replies import Unavailable
from .circuit_breaker import FAILURE_THRESHOLD
from .deadline import Deadline
from .gate import Gate
from .jobs import Answer, Job, NotAsked, Result, Unreadable
from .work import Work
from .workers import Pool
from .writer import Writer

logger: logging.Logger = logging.getLogger(__name__)

# The longest that a run waits for a Retry-After, in seconds. It ends instead.
LONGEST_HOLD = 60
# Seconds between two writes.
WRITE_INTERVAL = 0.5


class Turn:
    """Works off one kind of work, for ``seconds`` at most."""

    def __init__(
        self,
        work: Work,
        pool: Pool,
        writer: Writer,
        deadline: Deadline,
        seconds: float = float("inf"),
    ) -> None:
        self.work = work
        self.pool = pool
        self.writer = writer
        self.gate: Gate = Gate(work, pool, deadline, seconds)
        # Claimed rows that no worker has yet, and rows that were not asked about after all.
        self.backlog: deque[Job] = deque()
        self.not_asked: list[Job] = []
        # Whether the last claim found no row, and none has been given back since.
        self.has_no_more_rows: bool = False

    def drain(self) -> None:
        """Claim, hand out and collect until nothing is left to do."""
        self.has_no_more_rows = False
        written_at = monotonic()
        while True:
            if self.gate.is_over():
                self.give_back()
                self.has_no_more_rows = True
            if (
                not self.has_no_more_rows
                and self.gate.may_start()
                and (count := self._may_claim()) > 0
            ):
                self.has_no_more_rows = not self.take_on(self.work.claim(count))
            while self.backlog and self.gate.may_start():
                self._hand_out()
            if self.pool.in_flight:
                self.collect()
            elif not self.backlog and (self.has_no_more_rows or self.work.is_doubtful()):
                break
            elif self.backlog or not self.gate.may_start():
                self._wait()
            elif not self.has_no_more_rows and self._may_claim() <= 0:
                self.has_no_more_rows = True  # --limit is reached
            is_time = monotonic() - written_at >= WRITE_INTERVAL
            is_full = len(self.writer) >= self.work.options.batch_size
            if is_full or is_time or not self.pool.in_flight:
                self.write()
                written_at = monotonic()
        self.write()

    def ask_all(self, jobs: Sequence[Job]) -> bool:
        """Have all of these called about, whatever the limits, and write the answers.

        Returns whether the provider has answered each call.
        """
        unanswered: list[Job] = []

        def take(answer: Answer) -> None:
            if isinstance(self._take(answer), Unavailable | Unreadable | NotAsked):
                unanswered.append(answer.job)

        self.take_on(jobs)
        while self.backlog:
            self._hand_out()
        while self.pool.in_flight:
            self.pool.collect(take, WRITE_INTERVAL, in_batches=False)
        self.write()
        return not unanswered

    def take_on(self, claimed: Sequence[Job]) -> int:
        """Queue claimed rows; returns how many."""
        self.backlog.extend(claimed)
        return len(claimed)

    def give_back(self) -> None:
        """Release what no worker has begun."""
        self._release(self.backlog)
        self._release(self.not_asked)

    def _release(self, jobs: list[Job] | deque[Job]) -> None:
        if jobs:
            self.has_no_more_rows = False
            self.work.give_back(list(jobs))
            jobs.clear()

    def collect(self) -> None:
        """Wait for answers, and take them."""
        in_batches = not self.work.breaker.failures
        self.pool.collect(self._take, WRITE_INTERVAL, in_batches=in_batches)

    def keep(self, answer: Answer) -> None:
        """Keep an answer, to be written or given back."""
        if isinstance(answer.result, NotAsked):
            self.not_asked.append(answer.job)
        else:
            self.writer.add(answer)

    def write(self) -> None:
        """Write what was answered, and release what was not asked about."""
        self._release(self.not_asked)
        self.writer.write()

    def _may_claim(self) -> int:
        return self.gate.may_claim(len(self.backlog))

    def _hand_out(self) -> None:
        job = self.backlog.popleft()
        self.gate.probe = None if self.work.breaker.is_closed else job
        try:
            self.pool.submit(job)
        except RuntimeError:
            # The system grants no thread at all. The row is given back with the others.
            self.backlog.appendleft(job)
            raise

    def _wait(self) -> None:
        """Nothing is under way and nothing may begin: wait for the time of the next call."""
        if self.work.is_doubtful():
            self.give_back()
            return
        held_for = self.gate.held_for()
        if held_for > LONGEST_HOLD or (held_for > 0 and self.work.yields_to_other_work):
            self.gate.give_up()
            if self.gate.is_over():
                return
        left = self.gate.seconds_to_wait()
        if left > 0:
            if left > WRITE_INTERVAL:
                self.give_back()
            self.gate.deadline.pause(min(left, WRITE_INTERVAL))

    def _take(self, answer: Answer) -> Result:
        """Keep an answer, and learn from it; what it is worth."""
        # Judged afterwards, as an error may come between, and the answer must not be lost.
        self.keep(answer)
        result = answer.result
        if not isinstance(result, NotAsked):
            result = self.writer.judge_last()
        self.work.record(result)
        if isinstance(result, Unavailable):
            self._record_failure(answer.job)
        return result

    def _record_failure(self, job: Job) -> None:
        breaker, is_probe = self.work.breaker, job is self.gate.probe
        if breaker.record_failure(is_probe=is_probe):
            logger.warning("LeadExec has failed %s times in a row; probing it.", FAILURE_THRESHOLD)
            self.give_back()
        elif is_probe and breaker.is_exhausted:
            self.gate.give_up()
