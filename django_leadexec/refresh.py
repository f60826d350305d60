"""Many connections at once: claim due rows, call the provider in threads, write in batches.

One thread, the caller's, touches the database; the others only call. Whatever interrupts a run,
rows that were claimed and not called are given back, and those of a killed process come free when
its lease ends.
"""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta

from django.db import Error as DatabaseTrouble
from django.db import close_old_connections
from django.db import connections as databases
from django.db.transaction import TransactionManagementError
from django.utils import timezone

from . import connections
from .client import Fresh, RefreshOutcome, Refused, Revoked, RevokeOutcome, Unavailable, get_client
from .conf import Settings, get_settings
from .exceptions import DecryptionFailed
from .models import (
    ConnectionQuerySet,
    LeadExecConnection,
    LeasedQuerySet,
    PendingRevocation,
    moment,
)

logger = logging.getLogger(__name__)

# Refusals without one success after which they are doubted, and how many more are then asked.
DOUBTFUL = 20
WITNESSES = 20
# Failures in a row that make an outage; failed probes after which a single run gives up, and the
# seconds before the first probe, doubling from one to the next.
OUTAGE = 20
PROBES = 3
PROBE_PAUSE = 1.0
# Seconds. The longest that a run waits for a Retry-After, and that a success speaks for refusals.
PATIENCE = 60
WINDOW = 600
WRITE_EVERY = 0.5
EVERYBODY_REFUSED = (
    "LeadExec refused every connection, so nothing was marked as rejected. "
    "Is LEADEXEC['APP_ID'] right?"
)
LOOK_AHEAD = 0.5
LEAST_TIME = 0.5
COLLECT_EVERY = 0.005
MIN_SLEEP = 0.5
MAX_SLEEP = 10.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run does. Times are in seconds.

    ``within``: the margin before expiry, instead of REFRESH_MARGIN. ``everything``: all live rows,
    due or not. ``chosen`` and ``revocations`` narrow the run to rows of these query sets; None
    leaves that kind of work out. ``seconds``: after which no call begins. ``hurried``: nor goes on;
    somebody is waiting. ``patient``: keep probing through an outage instead of giving up.
    """

    using: str
    chosen: ConnectionQuerySet | None
    revocations: "LeasedQuerySet[PendingRevocation] | None"
    within: float | None = None
    everything: bool = False
    workers: int = 16
    batch_size: int = 200
    limit: int | None = None
    rate: float | None = None
    seconds: float | None = None
    hurried: bool = False
    patient: bool = False

    @classmethod
    def for_all(cls, using: str, **changes: object) -> "Options":
        """The whole work there is on a database."""
        return cls(
            using=using,
            chosen=LeadExecConnection.objects.using(using),
            revocations=PendingRevocation.objects.using(using),
            **changes,  # type: ignore[arg-type]
        )


@dataclass
class Report:
    """What a run did. ``left``: rows still due when it had to stop early."""

    refreshed: int = 0
    rejected: int = 0
    failed: int = 0
    skipped: int = 0
    revoked: int = 0
    pending: int = 0
    left: int = 0
    seconds: float = 0.0
    everybody_refused: bool = False
    outage: bool = False

    def add(self, later: "Report") -> None:
        """Take over what a later run did."""
        for name in ("refreshed", "rejected", "failed", "skipped", "revoked", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(later, name))
        for name in ("pending", "left", "everybody_refused", "outage"):
            setattr(self, name, getattr(later, name))


Counts = dict[str, int | float | bool]


def refresh_due(**options: object) -> Counts:
    """One run over all that is due, for a queue's worker; ``options`` as in ``Options``.

    Logs an error if the provider refused everybody. Raises what ``Refresher.run`` raises.
    """
    report = Refresher(Options.for_all(connections.database_of(), **options)).run()
    if report.everybody_refused:
        logger.error(EVERYBODY_REFUSED)
    return asdict(report)


class Unreadable:
    """A stored token that opens with no key: nothing was asked."""


class NotAsked:
    """The lease had too little left for a call."""


@dataclass
class _Refresh:
    row: LeadExecConnection

    def call(self, conf: Settings, deadline: float | None) -> RefreshOutcome | Unreadable:
        try:
            token = self.row.refresh_token
        except DecryptionFailed:
            return Unreadable()
        return get_client().refresh(token, conf.app_id, deadline=deadline)


@dataclass
class _Revoke:
    row: PendingRevocation

    def call(self, conf: Settings, deadline: float | None) -> RevokeOutcome:
        return connections.tell(self.row, conf, deadline=deadline)


_Job = _Refresh | _Revoke
_Result = RefreshOutcome | RevokeOutcome | Unreadable | NotAsked


@dataclass
class _Memory:
    """What earlier passes of a ``--watch`` taught about the provider."""

    last_success: float = float("-inf")
    refusals: int = 0
    failures: int = 0
    failed_probes: int = 0
    resume_at: float = 0.0

    def trusts_refusals(self) -> bool:
        return time.monotonic() - self.last_success < WINDOW

    def is_outage(self) -> bool:
        return self.failures >= OUTAGE

    def hold(self, seconds: float) -> None:
        """Let no call begin for so long."""
        self.resume_at = max(self.resume_at, time.monotonic() + seconds)


class Refresher:
    """Runs the work of ``options``, once with each ``run()``.

    ``stop`` may be set from any thread or signal handler: what is in flight is finished and
    written, the rest given back. ``progress`` is told how many rows have been dealt with.
    """

    def __init__(
        self,
        options: Options,
        *,
        stop: threading.Event | None = None,
        progress: Callable[[int], object] = lambda count: None,
    ) -> None:
        self.options = options
        self.stop = stop or threading.Event()
        self.progress = progress
        # One each: a disconnect call that is broken must not keep refreshes from being tried.
        self.memories = {_Revoke: _Memory(), _Refresh: _Memory()}

    def run(self) -> Report:
        """Do what is due now. Raises ImproperlyConfigured and database errors."""
        if databases[self.options.using].in_atomic_block:
            raise TransactionManagementError(
                "A bulk refresh can't run inside a transaction, as others have to see its claims. "
                "A test of it needs TransactionTestCase, or django_db(transaction=True)."
            )
        return _Run(self).run()

    def watch(self, report: Callable[[Report], object]) -> None:
        """``run()`` again and again until ``stop`` is set, sleeping until the next row is due.

        Outlives outages of the provider and of the database. ``report`` gets each pass's counts.
        """
        failures = 0
        while not self.stop.is_set():
            try:
                result = self.run()
                report(result)
                pause = 0.0 if result.left else self._until_next_due()
                failures = 0
                if result.everybody_refused:
                    logger.error(EVERYBODY_REFUSED)
                    pause = PATIENCE
            except DatabaseTrouble as error:
                failures += 1
                pause = min(2.0**failures, PATIENCE)
                logger.error("The database failed (%s); trying again.", type(error).__name__)
            # As Django does between requests: a connection that broke, or is too old, is closed.
            close_old_connections()
            self.stop.wait(pause)

    def _until_next_due(self) -> float:
        """Seconds to sleep: rows that others add meanwhile must not wait long."""
        conf, now = get_settings(), timezone.now()
        soonest = MAX_SLEEP
        horizon = now + timedelta(seconds=MAX_SLEEP)
        connection = due_connections(self.options, conf, horizon.timestamp()).free().first()
        entry = due_revocations(self.options, horizon.timestamp()).free().first()
        for due_at in (
            connection.refresh_after if connection else None,
            entry.retry_after if entry else None,
        ):
            if due_at is not None:
                soonest = min(soonest, (due_at - now).total_seconds())
        return max(soonest, MIN_SLEEP)


class _Run:
    def __init__(self, refresher: Refresher) -> None:
        self.options = refresher.options
        self.stop = refresher.stop
        self.memories = refresher.memories
        self.memory = self.memories[_Refresh]
        self.progress = refresher.progress
        self.conf = get_settings()
        self.report = Report()
        self.started = time.time()
        self.ends_at = (
            None if self.options.seconds is None else time.monotonic() + self.options.seconds
        )
        self.lease = PATIENCE + connections.lease_seconds(self.conf)
        self.tasks: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.results: queue.SimpleQueue[tuple[_Job, _Result]] = queue.SimpleQueue()
        self.backlog: deque[_Job] = deque()
        self.in_flight = 0
        self.done: list[tuple[_Job, _Result]] = []
        self.doubted: list[tuple[LeadExecConnection, Refused]] = []
        self.cursor = 0
        self.handed_out = 0
        # How long a call takes: a guess at first, then a moving average.
        self.call_seconds = 0.1
        self.gave_up = False
        self.probe: _Job | None = None
        self.pace = _Pace(self.options.rate, self.stop)
        self.workers: list[threading.Thread] = []

    def run(self) -> Report:
        try:
            if self.options.revocations is not None:
                self._turn_to(_Revoke)
                self._drain(self._claim_revocations)
            if self.options.chosen is not None:
                self._turn_to(_Refresh)
                self._count_foreign()
                self._refresh_connections()
        except BaseException:
            self.gave_up = True  # so that what is handed out already isn't called about
            raise
        finally:
            for _ in self.workers:
                self.tasks.put(None)
            for worker in self.workers:
                worker.join()
        self._count_rest()
        self.report.seconds = round(time.time() - self.started, 3)
        return self.report

    def _turn_to(self, kind: type[_Refresh] | type[_Revoke]) -> None:
        """Begin with another kind of work; a Retry-After holds for both."""
        held_until = self.memory.resume_at
        self.memory = self.memories[kind]
        self.memory.resume_at = max(self.memory.resume_at, held_until)
        self.gave_up = False

    # The threads

    def _hand_out(self, job: _Job) -> None:
        self.in_flight += 1
        if len(self.workers) < min(self.in_flight, self.options.workers):
            name = f"leadexec-{len(self.workers)}"
            worker = threading.Thread(target=self._work, name=name, daemon=True)
            worker.start()
            self.workers.append(worker)
        self.tasks.put(job)

    def _work(self) -> None:
        while (job := self.tasks.get()) is not None:
            result: _Result
            self.pace.wait()
            if self._is_over() or self._is_late(job):
                result = NotAsked()
            else:
                began = time.monotonic()
                try:
                    result = job.call(self.conf, self._time_left())
                except Exception as error:  # noqa: BLE001 - a dead thread would stop the run
                    logger.error("A refresh failed unexpectedly: %s.", type(error).__name__)
                    result = Unavailable(f"unexpected {type(error).__name__}")
                # Threads may overwrite each other's average: it need not be exact.
                self.call_seconds += (time.monotonic() - began - self.call_seconds) / 16
            if isinstance(result, Unavailable) and result.retry_after:
                # Here and not in the loop, so that the next call of this thread heeds it.
                self.memory.hold(result.retry_after)
            self.results.put((job, result))

    def _is_late(self, job: _Job) -> bool:
        """Whether a job that was handed out should no longer be called about."""
        return (
            job.row.lease_left() < connections.lease_seconds(self.conf)
            or time.monotonic() < self.memory.resume_at
            or (self.memory.is_outage() and job is not self.probe)
            or (self._time_left() or LEAST_TIME) < LEAST_TIME
        )

    def _time_left(self) -> float | None:
        """The deadline of a call that begins now, where it isn't simply TIMEOUT."""
        if self.ends_at is None or not self.options.hurried:
            return None
        return max(self.ends_at - time.monotonic(), 0.001)

    def _is_over(self) -> bool:
        return (
            self.gave_up
            or self.stop.is_set()
            or (self.ends_at is not None and time.monotonic() >= self.ends_at)
        )

    # The loop

    def _drain(self, claim: Callable[[int], Sequence[_Job]]) -> None:
        """Claim, hand out and collect until nothing is left of one kind of work."""
        exhausted = False
        written_at = time.monotonic()
        while True:
            if self._is_over():
                self._give_back()
                exhausted = True
            if not exhausted and self._may_start() and (wanted := self._may_claim()) > 0:
                claimed = claim(wanted)
                self.handed_out += len(claimed)
                self.backlog.extend(claimed)
                exhausted = not claimed
            while self.backlog and self._may_start():
                job = self.backlog.popleft()
                self.probe = job if self.memory.is_outage() else None
                self._hand_out(job)
            if self.in_flight:
                self._collect(WRITE_EVERY)
            elif not self.backlog and (exhausted or self._is_doubtful()):
                break
            elif self.backlog or not self._may_start():
                self._wait()
            elif not exhausted and self._may_claim() <= 0:
                exhausted = True  # --limit is reached
            is_time = time.monotonic() - written_at >= WRITE_EVERY
            if len(self.done) >= self.options.batch_size or is_time or not self.in_flight:
                self._write()
                written_at = time.monotonic()
        self._write()

    def _may_claim(self) -> int:
        """How many rows to claim now; none while the threads have enough before them."""
        batch, window = self.options.batch_size, self._window()
        count = min(batch, window - self.in_flight - len(self.backlog))
        if self.memory.is_outage():
            count = 1
        elif count < min(batch, window // 2):
            return 0  # rather a whole batch a little later
        if self.options.limit is not None:
            count = min(count, self.options.limit - self.handed_out)
        return count

    def _window(self) -> int:
        """How many rows to hold at once: what the threads get done in ``LOOK_AHEAD`` seconds.

        Enough that they don't wait for the database; no more, as pages wait for a row that is held.
        """
        workers, rate = self.options.workers, self.options.rate
        calls = min(workers * LOOK_AHEAD / self.call_seconds, 4 * self.options.batch_size)
        if rate:
            return max(1, int(min(calls, rate * LOOK_AHEAD)))
        return max(2 * workers, int(calls))

    def _may_start(self) -> bool:
        """Whether one more call may begin now."""
        memory = self.memory
        if self._is_over() or time.monotonic() < memory.resume_at:
            return False
        if memory.is_outage():
            return self.in_flight == 0
        if not memory.trusts_refusals():
            return memory.refusals + self.in_flight < DOUBTFUL
        return self.in_flight < self._window()

    def _is_doubtful(self) -> bool:
        return not self.memory.trusts_refusals() and self.memory.refusals >= DOUBTFUL

    def _wait(self) -> None:
        """Nothing is in flight and nothing may start: until a Retry-After or a probe's time."""
        if self._is_doubtful():
            self._give_back()
            return
        left = self.memory.resume_at - time.monotonic()
        if left > PATIENCE:
            self._give_up()
        if left > 0:
            if left > WRITE_EVERY:
                self._give_back()
            self.stop.wait(min(left, WRITE_EVERY))

    def _collect(self, timeout: float) -> None:
        try:
            self._take(*self.results.get(timeout=timeout))
            if self.in_flight > self.options.workers and not self.memory.failures:
                # The threads have enough to do: rather than wake for each answer, and take the
                # interpreter from them, let a few come together.
                time.sleep(COLLECT_EVERY)
            while True:
                self._take(*self.results.get_nowait())
        except queue.Empty:
            pass

    def _take(self, job: _Job, result: _Result) -> None:
        self.in_flight -= 1
        self.done.append((job, result))
        memory = self.memory
        if isinstance(result, Fresh | Refused | Revoked):
            memory.failures = memory.failed_probes = 0
        if isinstance(result, Fresh):
            memory.last_success = time.monotonic()
            memory.refusals = 0
        elif isinstance(result, Refused):
            memory.refusals += 0 if memory.trusts_refusals() else 1
        elif isinstance(result, Unavailable):
            self._note_failure(job, result)

    def _note_failure(self, job: _Job, result: Unavailable) -> None:
        memory = self.memory
        memory.failures += 1
        if memory.failures == OUTAGE:
            logger.warning("LeadExec has failed %s times in a row; probing it.", OUTAGE)
            memory.hold(PROBE_PAUSE)
            self._give_back()
        elif job is self.probe:
            memory.failed_probes += 1
            memory.hold(min(PROBE_PAUSE * 2**memory.failed_probes, PATIENCE))
            if memory.failed_probes >= PROBES:
                self._give_up()

    def _give_up(self) -> None:
        self.report.outage = True
        self.gave_up = not self.options.patient

    def _give_back(self) -> None:
        rows = [job.row for job in self.backlog]
        self.backlog.clear()
        self._release(rows)

    def _release(self, rows: "Sequence[LeadExecConnection | PendingRevocation]") -> None:
        self.handed_out -= len(rows)
        of_connections = [row for row in rows if isinstance(row, LeadExecConnection)]
        of_outbox = [row for row in rows if isinstance(row, PendingRevocation)]
        LeadExecConnection.objects.using(self.options.using).release(of_connections)
        PendingRevocation.objects.using(self.options.using).release(of_outbox)

    # Connections, and whether to believe a provider that refuses them

    def _refresh_connections(self) -> None:
        self._drain(self._claim_connections)
        while self._is_doubtful() and not self._is_over():
            self._ask_witnesses()
            if self._is_doubtful():
                self.report.everybody_refused = True
                break
            self._drain(self._claim_connections)
        doubted, self.doubted = self.doubted, []
        if self.report.everybody_refused or self._is_doubtful():
            # Held: status as it was, and put off, so that the next run meets other rows.
            held = Unavailable("refused, as all others were, so the refusal is not believed yet")
            self._write_connections([(row, held) for row, _ in doubted])
        else:
            self._write_connections(doubted)

    def _ask_witnesses(self) -> None:
        """Ask about the rows the provider honoured last: are they refused as well?"""
        rows = self._chosen().active().filter(app_id=self.conf.app_id).order_by("-refresh_after")
        for row in rows.claim(WITNESSES, self.lease):
            self._hand_out(_Refresh(row))
        while self.in_flight:
            self._collect(WRITE_EVERY)
        self._write()

    def _chosen(self) -> ConnectionQuerySet:
        if self.options.chosen is None:
            raise RuntimeError("This run has no connections to work on.")
        return self.options.chosen

    # Claiming

    def _claim_connections(self, count: int) -> list[_Refresh]:
        due = due_connections(self.options, self.conf, self.started)
        if self.options.everything:
            rows = due.filter(pk__gt=self.cursor).claim(count, self.lease)
            if not rows and self.cursor:
                # Once more from the start, for rows that were given back on the way.
                rows = due.claim(count, self.lease)
            self.cursor = rows[-1].pk if rows else 0
        else:
            rows = due.claim(count, self.lease)
        return [_Refresh(row) for row in rows]

    def _claim_revocations(self, count: int) -> list[_Revoke]:
        due = due_revocations(self.options, self.started)
        return [_Revoke(row) for row in due.claim(count, self.lease)]

    def _count_foreign(self) -> None:
        foreign = count_foreign(self.options, self.conf, self.started)
        self.report.skipped += foreign
        if foreign and not self.options.patient:
            logger.warning(
                "%s due connections were made for another LEADEXEC['APP_ID'] and are left alone.",
                foreign,
            )

    def _count_rest(self) -> None:
        outbox = PendingRevocation.objects.using(self.options.using)
        self.report.pending = outbox.count()
        if self._is_over() or self.report.outage or self.report.everybody_refused:
            if self.options.chosen is not None:
                due_rows = due_connections(self.options, self.conf, self.started)
                self.report.left += due_rows.count()
            if self.options.revocations is not None:
                due_entries = due_revocations(self.options, self.started)
                self.report.left += due_entries.count()

    # Writing

    def _write(self) -> None:
        done, self.done = self.done, []
        if not done:
            return
        self._release([job.row for job, result in done if isinstance(result, NotAsked)])
        answered: list[tuple[LeadExecConnection, _Result]] = []
        for job, result in done:
            if isinstance(result, NotAsked):
                continue
            if isinstance(job, _Revoke):
                self._write_revocation(job.row, result)
            elif isinstance(result, Refused) and not self.memory.trusts_refusals():
                self.doubted.append((job.row, result))
            else:
                answered.append((job.row, result))
        if self.doubted and self.memory.trusts_refusals():
            answered += self.doubted
            self.doubted = []
        self._write_connections(answered)

    def _write_revocation(self, row: PendingRevocation, result: _Result) -> None:
        if isinstance(result, Revoked | Unavailable):
            connections.record_telling(row, result)
        if isinstance(result, Revoked):
            self.report.revoked += 1
        else:
            self.report.failed += 1
        self.progress(1)

    def _write_connections(self, answered: Sequence[tuple[LeadExecConnection, _Result]]) -> None:
        for row, result in answered:
            if isinstance(result, Unreadable):
                row.record_trouble("the stored token opens with none of ENCRYPTION_KEYS")
            elif isinstance(result, Fresh | Refused | Unavailable):
                connections.record(row, result)
        manager = LeadExecConnection.objects.using(self.options.using)
        lost = {row.pk for row in manager.all().write_claimed([row for row, _ in answered])}
        for row, result in answered:
            if row.pk in lost:
                self.report.skipped += 1
                continue
            if isinstance(result, Fresh):
                self.report.refreshed += 1
            elif isinstance(result, Refused):
                self.report.rejected += 1
            else:
                self.report.failed += 1
            if isinstance(result, Fresh | Refused):
                connections.announce(row, result)
        self.progress(len(answered))


class _Pace:
    """Lets through at most ``rate`` calls a second, evenly, over all threads of the run."""

    def __init__(self, rate: float | None, stop: threading.Event) -> None:
        self._interval = 1 / rate if rate else 0.0
        self._stop = stop
        self._lock = threading.Lock()
        self._next = time.monotonic()

    def wait(self) -> None:
        if not self._interval:
            return
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self._interval
        self._stop.wait(start - now)


def due_connections(options: Options, conf: Settings, at: float) -> ConnectionQuerySet:
    """The connections a run begun ``at`` (epoch seconds) has to refresh, in order.

    A row counts once a run: what a run has written is no longer due for it.
    """
    if options.chosen is None:
        raise ValueError("These options leave connections out.")
    rows = options.chosen.live().filter(app_id=conf.app_id)
    if options.everything:
        return rows.free(untouched_since=at).order_by("pk")
    shift = 0.0 if options.within is None else options.within - conf.refresh_margin
    rows = rows.due(moment(at + shift))
    return rows.free(untouched_since=at) if shift > 0 else rows


def due_revocations(options: Options, at: float) -> "LeasedQuerySet[PendingRevocation]":
    """The outbox entries a run begun ``at`` (epoch seconds) has to tell the provider of.

    Those of another application, too: their users have asked for it, and the disconnect call names
    no application.
    """
    if options.revocations is None:
        return PendingRevocation.objects.none()
    return options.revocations.due(moment(at))


def count_foreign(options: Options, conf: Settings, at: float) -> int:
    """How many due connections belong to another application ID. They are never called."""
    if options.chosen is None:
        return 0
    # Two ranges of the index, where "is not" would read all of it.
    due = options.chosen.live().order_by()
    if not options.everything:
        due = due.filter(refresh_after__lte=moment(at))
    return due.filter(app_id__gt=conf.app_id).count() + due.filter(app_id__lt=conf.app_id).count()
