"""Runs what the options ask for: once, again and again, or as a task of a queue."""

import logging
import threading
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta

from django.db import Error as DatabaseError
from django.db import close_old_connections
from django.db.transaction import TransactionManagementError
from django.utils import timezone

from .. import commits
from ..clock import backoff, monotonic
from ..conf import get_settings
from ..routing import database_of
from .deadline import SHORTEST_CALL
from .due import due_connections, due_revocations
from .health import ProviderHealth
from .options import (
    EVERYBODY_REFUSED,
    TASK_SECONDS,
    UNREADABLE_MESSAGE,
    Options,
    Report,
    check_number,
)
from .recorded import Recorded
from .run import Run
from .writer import Progress

logger: logging.Logger = logging.getLogger(__name__)

# Seconds between two passes of a watch, at least.
MIN_SLEEP = 0.5
# Seconds between two passes of a watch, at most.
MAX_SLEEP = 10.0
# Seconds before the next pass after the provider has refused everybody.
PAUSE_AFTER_REFUSALS = 60.0
# Seconds before the next pass after a failure of the database. The pause then doubles.
FIRST_DATABASE_PAUSE = 2.0
# The longest of these pauses, in seconds.
LONGEST_DATABASE_PAUSE = 60.0

Counts = dict[str, int | float | bool]


def refresh_due(
    copies: int = 1,
    enqueue: Callable[..., object] = lambda **options: None,
    *,
    seconds: float = TASK_SECONDS,
    **options: object,
) -> Counts:
    """One run over all that is due, for a queue's worker; ``options`` as in ``Options``.

    ``copies``: how many tasks work together; ``enqueue`` is called to ask for each of the others.
    Logs an error if the provider refused everybody. Raises ValueError for options that make no
    sense, and what ``Refresher.run`` raises.
    """
    refresher = Refresher(Options.for_all(database_of(), seconds=seconds, **options))
    check_number("copies", copies)
    for _ in range(copies - 1):
        enqueue(seconds=seconds, **options)
    report = refresher.run()
    if report.everybody_refused:
        logger.error(EVERYBODY_REFUSED)
    if report.unreadable:
        logger.error(UNREADABLE_MESSAGE.format(count=report.unreadable))
    return asdict(report)


class Refresher:
    """Does the work of ``options``, once with each ``run()``.

    ``stop`` may be set from any thread or signal handler. What is under way is then finished and
    written, and the rest given back. ``progress`` is told how many rows have been dealt with.
    """

    def __init__(
        self,
        options: Options,
        *,
        stop: threading.Event | None = None,
        progress: Progress = lambda count: None,
    ) -> None:
        self.options = options
        self.stop: threading.Event = stop or threading.Event()
        self.progress = progress
        self.health: ProviderHealth = ProviderHealth(options, self.stop)
        self.recorded: Recorded = Recorded()

    def run(self) -> Report:
        """Do what is due now. Raises ImproperlyConfigured and database errors."""
        if commits.is_in_transaction(self.options.using):
            raise TransactionManagementError(
                "A bulk refresh can't run inside a transaction, as others have to see its claims. "
                "A test of it needs TransactionTestCase, or django_db(transaction=True)."
            )
        run = self._new_run(self.options.seconds)
        run.run()
        return run.report

    def watch(self, report: Callable[[Report], object], *, every: float) -> None:
        """``run()`` again and again until ``stop`` is set, sleeping until the next row is due.

        Outlives outages of the provider and of the database. ``report`` gets the counts every
        ``every`` seconds, whatever happens, and once more at the end.
        """
        now = monotonic
        counts, tell_at, work_at = Report(), now() + every, now()
        database_failures = 0
        while not self.stop.is_set():
            if now() >= work_at:
                run = self._new_run(max(tell_at - now(), SHORTEST_CALL))
                try:
                    run.run()
                    database_failures, pause = 0, self._pause_after(run.report)
                except DatabaseError as error:
                    database_failures += 1
                    pause = backoff(
                        database_failures,
                        first=FIRST_DATABASE_PAUSE,
                        longest=LONGEST_DATABASE_PAUSE,
                    )
                    run.report.database_failed = True
                    logger.error("The database failed (%s); trying again.", type(error).__name__)
                # As Django does between requests: closes one that broke, or is too old.
                close_old_connections()
                counts.add(run.report)
                work_at = now() + pause
            if now() >= tell_at:
                report(counts)
                counts, tell_at = counts.without_sums(), now() + every
            self.stop.wait(max(min(work_at, tell_at) - now(), 0))
        counts.failed += self.recorded.drop()
        report(counts)

    def _new_run(self, seconds: float | None) -> Run:
        return Run(self.options, self.health, self.stop, self.progress, self.recorded, seconds)

    def _pause_after(self, report: Report) -> float:
        """Seconds until the next pass."""
        if report.everybody_refused:
            logger.error(EVERYBODY_REFUSED)
            return PAUSE_AFTER_REFUSALS
        if report.unreadable:
            logger.error(UNREADABLE_MESSAGE.format(count=report.unreadable))
        if self.recorded:
            return MIN_SLEEP
        return 0.0 if report.left and not report.outage else self._until_next_due()

    def _until_next_due(self) -> float:
        """Seconds to sleep. Not many: rows that others add meanwhile must not wait long."""
        conf, now, breaker = get_settings(), timezone.now(), self.health.revoking
        horizon = (now + timedelta(seconds=MAX_SLEEP)).timestamp()
        soonest = MAX_SLEEP
        row = due_connections(self.options, conf, horizon).free().first()
        if row and row.refresh_after:
            soonest = min(soonest, (row.refresh_after - now).total_seconds())
        if not breaker.is_closed:
            soonest = min(soonest, breaker.seconds_until_probe())
        elif entry := due_revocations(self.options, horizon).free().first():
            soonest = min(soonest, (entry.retry_after - now).total_seconds())
        return max(soonest, MIN_SLEEP)
