"""One run: revocations first, then connections, then what is left of the revocations."""

import logging
import threading
import time
from contextlib import suppress

from django.db import Error as DatabaseError
from django.db import connections

from ..clock import monotonic
from ..conf import get_settings
from ..conflicts import LOCK_INTERVAL, retry_on_deadlock
from ..models import PendingRevocation
from .deadline import Deadline
from .due import count_due, count_foreign, count_held
from .health import ProviderHealth
from .jobs import Answer, Job
from .options import Options, Report
from .recorded import Recorded
from .turn import Turn
from .work import ConnectionWork, RevocationWork, Work
from .workers import Pool, ThreadPool
from .writer import Progress, Writer

logger: logging.Logger = logging.getLogger(__name__)

# Seconds for which revocations may keep refreshes waiting.
REVOCATIONS_FIRST = 30


class Run:
    """Does what is due now. Its own thread uses the database; the workers only call.

    If an error ends a run, what was answered is written, and the rest of what was claimed is given
    back. What a killed process held comes free when its lease ends.
    """

    def __init__(
        self,
        options: Options,
        health: ProviderHealth,
        stop: threading.Event,
        progress: Progress,
        recorded: Recorded,
        seconds: float | None,
    ) -> None:
        conf = get_settings()
        self.began_at: float = time.time()
        self.options = options
        self.health = health
        self.report: Report = Report()
        self.deadline: Deadline = Deadline(seconds, stop, is_hard=options.hard_deadline)
        self.pool: Pool = ThreadPool(self._perform, options.workers)
        self.writer: Writer = Writer(
            options.using, self.report, health.refusals, progress, recorded
        )
        self.connections: ConnectionWork = ConnectionWork(options, conf, health, self.began_at)
        self.revocations: RevocationWork = RevocationWork(options, conf, health, self.began_at)
        self.turn: Turn = self._begin(self.revocations)

    def run(self) -> None:
        """Raises ImproperlyConfigured and database errors; ``report`` holds what was done."""
        began = monotonic()
        try:
            self._take_turns()
            if not self.options.watching:
                self._wait_for_locks()
            self.pool.finish(self.turn.keep)
            self._count_rest()
            if not self.options.watching:
                self.writer.give_up()
        except Exception:
            self._wind_up()
            raise
        finally:
            # After an interrupt too, for which nobody waits: nothing more is called about.
            self.deadline.close()
            self.pool.abandon()
            self.report.seconds = round(monotonic() - began, 3)

    def _take_turns(self) -> None:
        has_connections = self.options.chosen is not None
        if self.options.revocations is not None:
            seconds = REVOCATIONS_FIRST if has_connections else float("inf")
            self._begin(self.revocations, seconds).drain()
        if has_connections:
            was_cut_short = monotonic() >= self.turn.gate.ends_at
            self._begin(self.connections)
            self._count_foreign()
            self._refresh_connections()
            if was_cut_short:
                self._begin(self.revocations).drain()

    def _wait_for_locks(self) -> None:
        """Go on for TIMEOUT with rows that transactions of the site have locked until now.

        A watch has no need to wait, as its next pass goes on with them.
        """
        ends_at = monotonic() + self.connections.conf.timeout
        while self._is_waiting() and monotonic() < ends_at:
            self.deadline.pause(LOCK_INTERVAL)
            if self.options.revocations is not None:
                self._begin(self.revocations).drain()
            if self.options.chosen is not None:
                self._begin(self.connections)
                self._refresh_connections()

    def _is_waiting(self) -> bool:
        if self._was_cut_short():
            return False
        return bool(self.writer.recorded) or self._count_locked() > 0

    def _count_locked(self) -> int:
        """How many rows are due and held by nobody, although this run has taken what it could."""
        counts = zip((self.connections, self.revocations), self._count_due(), strict=True)
        return sum(count for work, count in counts if work.may_take > 0)

    def _count_due(self) -> tuple[int, int]:
        conf = self.connections.conf
        return retry_on_deadlock(
            self.options.using, lambda: count_due(self.options, conf, self.began_at)
        )

    def _was_cut_short(self) -> bool:
        report = self.report
        report.outage = self.connections.is_unreachable or self.revocations.is_unreachable
        return self.turn.gate.is_over() or report.outage or report.everybody_refused

    def _begin(self, work: Work, seconds: float = float("inf")) -> Turn:
        self.health.refusals.forget_old()
        self.turn = Turn(work, self.pool, self.writer, self.deadline, seconds)
        return self.turn

    def _perform(self, job: Job) -> Answer:
        return self.turn.gate.perform(job)

    def _refresh_connections(self) -> None:
        refusals, turn = self.health.refusals, self.turn
        turn.drain()
        while refusals.are_doubtful() and not turn.gate.is_over():
            sample = self.connections.claim_sample()
            if sample is None:
                break
            is_answered = turn.ask_all(sample)
            if refusals.are_doubtful():
                self.report.everybody_refused = is_answered
                if not is_answered and not turn.gate.is_over():
                    turn.gate.give_up()
                break
            turn.drain()
        self.writer.settle()

    def _count_foreign(self) -> None:
        """Count connections of other applications, once for all passes: they stay due for ever."""
        if self.health.has_counted_foreign:
            return
        self.health.has_counted_foreign = True
        foreign = count_foreign(self.options, self.connections.conf, self.began_at)
        self.report.skipped += foreign
        if foreign:
            logger.warning(
                "%s due connections were made for another LEADEXEC['APP_ID'] and are left alone.",
                foreign,
            )

    def _count_rest(self) -> None:
        using, report = self.options.using, self.report
        entries = PendingRevocation.objects.using(using)
        report.pending = retry_on_deadlock(using, entries.count)
        own = self.writer.recorded.leases()
        report.held = retry_on_deadlock(
            using, lambda: count_held(self.options, self.connections.conf, self.began_at, own)
        )
        if self._was_cut_short():
            report.left = sum(self._count_due())
        elif not self.options.watching:
            report.left = self._count_locked()

    def _wind_up(self) -> None:
        """After an error, such as a queue's time limit: keep what was answered, if possible."""
        self.deadline.close()
        # Whoever listens may have raised the error, and would raise it again.
        self.writer.progress = lambda count: None
        self.pool.finish(self.turn.keep)
        connections[self.options.using].close_if_unusable_or_obsolete()
        for step in (self.writer.settle, self.turn.give_back):
            with suppress(DatabaseError):
                step()
