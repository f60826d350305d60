"""Many connections at once: claim due rows, call the provider in threads, write in batches.

One thread, the caller's, touches the database; the others only call. If an error ends a run, what
was answered is written and the rest of what was claimed given back; what a killed process held
comes free when its lease ends.
"""

import logging
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import timedelta

from django.db import Error as DatabaseTrouble
from django.db import close_old_connections
from django.db import connections as databases
from django.db.models import Q
from django.db.transaction import TransactionManagementError
from django.utils import timezone

from . import connections
from .client import (
    POOL_SIZE,
    Fresh,
    RefreshOutcome,
    Refused,
    Revoked,
    RevokeOutcome,
    Unavailable,
    get_client,
)
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
# Doubled so often at most: a float ends at 1,024 doublings, which an outage of a day can come to.
MOST_DOUBLINGS = 10
# Seconds. The longest that a run waits for a Retry-After; that a success speaks for refusals, and
# that these count; that revocations may keep refreshes waiting.
PATIENCE = 60
# Seconds that a claimed row may wait for its call, when those before it take long.
QUEUE_TIME = 60
WINDOW = 600
REVOCATIONS_FIRST = 30
WRITE_EVERY = 0.5
EVERYBODY_REFUSED = (
    "LeadExec refused every connection, so nothing was marked as rejected. "
    "Is LEADEXEC['APP_ID'] right?"
)
LOOK_AHEAD = 0.5
LEAST_TIME = 0.5
COLLECT_EVERY = 0.005
# Into how many each thread turns at once, while all of them wait for the provider.
GROWTH = 4
MIN_SLEEP = 0.5
MAX_SLEEP = 10.0
# Of the options that are numbers: the kind, the least and the most. Where ``None`` is the default,
# it may be given, too.
NUMBERS: dict[str, tuple[type[int] | type[float], float, float]] = {
    "within": (float, 0, 86_400),
    "workers": (int, 1, POOL_SIZE),
    "batch_size": (int, 1, 5_000),
    "limit": (int, 1, 10**12),
    "rate": (float, 0.01, 100_000),
    "seconds": (float, 0, 86_400),
    # Of the tasks.
    "copies": (int, 1, 1_000),
}


def check_number(name: str, value: object) -> None:
    """Raise ValueError if this option can't be that."""
    kind, least, most = NUMBERS[name]
    if not (isinstance(value, kind | int) and least <= value <= most):
        what = "a whole number" if kind is int else "a number"
        raise ValueError(f"{name} must be {what} from {least} to {most}, not {value!r}.")


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

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name in NUMBERS and not (value is None and option.default is None):
                check_number(option.name, value)

    @classmethod
    def for_all(cls, using: str, **changes: object) -> "Options":
        """The whole work there is on a database."""
        return cls(
            using=using,
            chosen=LeadExecConnection.objects.using(using),
            revocations=PendingRevocation.objects.using(using),
            **changes,  # type: ignore[arg-type]
        )


# What adds up from one run to the next; the rest of a report is how things stood at its end.
SUMS = ("refreshed", "rejected", "failed", "skipped", "revoked", "seconds")


@dataclass
class Report:
    """What a run did. ``left``: rows still due when it had to stop early.

    ``database_failed``: it could not go on (of a pass of ``watch()`` only; ``run()`` raises).
    """

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
    database_failed: bool = False

    def add(self, later: "Report") -> None:
        """Take over what a later run did, and how things stood at its end, as far as it saw."""
        for name in SUMS:
            setattr(self, name, round(getattr(self, name) + getattr(later, name), 3))
        self.database_failed = later.database_failed
        if not later.database_failed:
            for name in ("pending", "left", "everybody_refused", "outage"):
                setattr(self, name, getattr(later, name))

    def next(self) -> "Report":
        """The report to go on with: how things stand, and nothing counted yet."""
        report = replace(self)
        for name in SUMS:
            setattr(report, name, 0)
        return report


Counts = dict[str, int | float | bool]


def refresh_due(
    copies: int = 1, enqueue: Callable[..., object] = lambda **options: None, **options: object
) -> Counts:
    """One run over all that is due, for a queue's worker; ``options`` as in ``Options``.

    ``copies``: how many work together; ``enqueue`` asks for each of the others.
    Logs an error if the provider refused everybody. Raises ValueError for options that make no
    sense, and what ``Refresher.run`` raises.
    """
    refresher = Refresher(Options.for_all(connections.database_of(), **options))
    check_number("copies", copies)
    for _ in range(copies - 1):
        enqueue(**options)
    report = refresher.run()
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
    """What was learnt about the provider from one kind of call, in all passes of a ``--watch``."""

    last_success: float = float("-inf")
    # When the last refusals came, since the last success.
    refusals: deque[float] = field(default_factory=lambda: deque(maxlen=DOUBTFUL))
    failures: int = 0
    failed_probes: int = 0
    probe_at: float = 0.0

    def succeeded_lately(self) -> bool:
        return time.monotonic() - self.last_success < WINDOW

    def forget_old_refusals(self) -> None:
        while self.refusals and time.monotonic() - self.refusals[0] >= WINDOW:
            self.refusals.popleft()

    def is_outage(self) -> bool:
        return self.failures >= OUTAGE

    def put_off_probe(self) -> None:
        pause = PROBE_PAUSE * 2.0 ** min(self.failed_probes, MOST_DOUBLINGS)
        self.probe_at = time.monotonic() + min(pause, PATIENCE)


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
        self.pace = _Pace(options.rate, self.stop)
        # Until then no call of either kind begins: a Retry-After.
        self.held_until = 0.0
        self.has_counted_foreign = False

    def run(self) -> Report:
        """Do what is due now. Raises ImproperlyConfigured and database errors."""
        if databases[self.options.using].in_atomic_block:
            raise TransactionManagementError(
                "A bulk refresh can't run inside a transaction, as others have to see its claims. "
                "A test of it needs TransactionTestCase, or django_db(transaction=True)."
            )
        run = _Run(self, self.options.seconds)
        run.run()
        return run.report

    def watch(self, report: Callable[[Report], object], *, every: float | None = None) -> None:
        """``run()`` again and again until ``stop`` is set, sleeping until the next row is due.

        Outlives outages of the provider and of the database. ``report`` gets the counts ``every``
        so many seconds and at the end, whatever happens or doesn't, or else after each pass.
        """
        now = time.monotonic
        interval = float("inf") if every is None else every
        counts, tell_at, work_at = Report(), now() + interval, now()
        failures = 0
        while not self.stop.is_set():
            if now() >= work_at:
                run = _Run(self, None if every is None else max(tell_at - now(), LEAST_TIME))
                try:
                    run.run()
                    failures, pause = 0, self._pause_after(run.report)
                except DatabaseTrouble as error:
                    failures += 1
                    pause = min(2.0 ** min(failures, MOST_DOUBLINGS), PATIENCE)
                    run.report.database_failed = True
                    logger.error("The database failed (%s); trying again.", type(error).__name__)
                # As Django does between requests: one that broke, or is too old, is closed.
                close_old_connections()
                counts.add(run.report)
                work_at = now() + pause
            if every is None or now() >= tell_at:
                report(counts)
                counts, tell_at = counts.next(), now() + interval
            self.stop.wait(max(min(work_at, tell_at) - now(), 0))
        if every is not None:
            report(counts)

    def _pause_after(self, report: Report) -> float:
        """Seconds until the next pass."""
        if report.everybody_refused:
            logger.error(EVERYBODY_REFUSED)
            return PATIENCE
        return 0.0 if report.left and not report.outage else self._until_next_due()

    def _until_next_due(self) -> float:
        """Seconds to sleep: rows that others add meanwhile must not wait long."""
        conf, now, revoking = get_settings(), timezone.now(), self.memories[_Revoke]
        horizon = (now + timedelta(seconds=MAX_SLEEP)).timestamp()
        soonest = MAX_SLEEP
        connection = due_connections(self.options, conf, horizon).free().first()
        if connection and connection.refresh_after:
            soonest = min(soonest, (connection.refresh_after - now).total_seconds())
        if revoking.is_outage():
            soonest = min(soonest, revoking.probe_at - time.monotonic())
        elif (entry := due_revocations(self.options, horizon).free().first()) and entry.retry_after:
            soonest = min(soonest, (entry.retry_after - now).total_seconds())
        return max(soonest, MIN_SLEEP)


class _Run:
    def __init__(self, refresher: Refresher, seconds: float | None) -> None:
        self.refresher = refresher
        self.options = refresher.options
        self.stop = refresher.stop
        self.pace = refresher.pace
        self.kind: type[_Refresh] | type[_Revoke] = _Refresh
        self.memory = refresher.memories[_Refresh]
        self.progress = refresher.progress
        self.conf = get_settings()
        self.report = Report()
        self.started, self.began = time.time(), time.monotonic()
        self.ends_at = float("inf") if seconds is None else self.began + seconds
        # After which no call begins.
        self.closes_at = self.ends_at - LEAST_TIME if self.options.hurried else self.ends_at
        self.turn_ends_at = float("inf")
        self.lease = QUEUE_TIME + connections.lease_seconds(self.conf)
        self.tasks: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.results: queue.SimpleQueue[tuple[_Job, _Result]] = queue.SimpleQueue()
        self.backlog: deque[_Job] = deque()
        self.in_flight = 0
        self.done: deque[tuple[_Job, _Result]] = deque()
        self.doubted: list[tuple[LeadExecConnection, Refused]] = []
        # Their rows know what happened to them, the database does not yet.
        self.recorded: list[tuple[LeadExecConnection, _Result]] = []
        self.cursor = 0
        self.handed_out: Counter[type[_Refresh] | type[_Revoke]] = Counter()
        # How long a call takes: a guess at first, then a moving average.
        self.call_seconds = 0.1
        # Of all calls since the last look at it: the time they took, and that of the processor.
        self.calling, self.computing = 0.0, 0.0
        # Whether a claim has found no row, nor has one been given back since.
        self.exhausted = False
        self.gave_up = False
        # The kinds of calls that did not get through, and have not since.
        self.out_of_reach: set[type[_Refresh] | type[_Revoke]] = set()
        self.probe: _Job | None = None
        self.workers: list[threading.Thread] = []

    def run(self) -> None:
        try:
            self._take_turns()
            self._dismiss()
            self._count_rest()
        except Exception:
            self._wind_up()
            raise
        finally:
            # Of an interrupt that nobody can wait for, too: nothing more is called about.
            self.gave_up = True
            for _ in self.workers:
                self.tasks.put(None)
            self.report.seconds = round(time.monotonic() - self.began, 3)

    def _take_turns(self) -> None:
        if self.options.revocations is not None:
            first = float("inf") if self.options.chosen is None else REVOCATIONS_FIRST
            self._turn_to(_Revoke, first)
            self._drain(self._claim_revocations)
        if self.options.chosen is not None:
            has_more = time.monotonic() >= self.turn_ends_at
            self._turn_to(_Refresh)
            self._count_foreign()
            self._refresh_connections()
            if has_more:
                self._turn_to(_Revoke)
                self._drain(self._claim_revocations)

    def _turn_to(self, kind: type[_Refresh] | type[_Revoke], seconds: float = float("inf")) -> None:
        """Begin with another kind of work, for so many seconds at most."""
        self.kind, self.memory = kind, self.refresher.memories[kind]
        self.memory.forget_old_refusals()
        self.turn_ends_at = time.monotonic() + seconds
        self.gave_up = False

    def _dismiss(self) -> None:
        """End the threads, once they have finished what they are about."""
        for _ in self.workers:
            self.tasks.put(None)
        for worker in self.workers:
            worker.join()
        self.workers.clear()

    def _wind_up(self) -> None:
        """After an error, a queue's time limit among them: keep what was answered, if we can."""
        self.gave_up = True
        # It may be what raised the error, and would again.
        self.progress = lambda count: None
        self._dismiss()
        while not self.results.empty():
            self.done.append(self.results.get())
        databases[self.options.using].close_if_unusable_or_obsolete()
        for step in (self._write, self._settle_doubts, self._give_back):
            with suppress(DatabaseTrouble):
                step()

    # The threads

    def _hand_out(self) -> None:
        """Give the first of the backlog to the threads."""
        if not self.workers:
            self._start_thread()
        self.in_flight += 1
        self.tasks.put(self.backlog.popleft())

    def _start_thread(self) -> None:
        name = f"leadexec-{len(self.workers)}"
        worker = threading.Thread(target=self._work, name=name, daemon=True)
        worker.start()
        self.workers.append(worker)

    def _has_idle_jobs(self) -> bool:
        """Whether there are jobs that no thread has taken, and there may be more threads."""
        return len(self.workers) < min(self.in_flight, self.options.workers)

    def _add_threads(self, useful: float) -> None:
        """Start threads until there are as many as can be ``useful``, a few at once.

        More of them than keep the interpreter busy take it from each other: with a provider that
        answers at once, sixteen do two thirds of what one does.
        """
        most = min(useful, GROWTH * len(self.workers))
        # The system may grant no more; then those there are have to do.
        with suppress(RuntimeError):
            while self._has_idle_jobs() and len(self.workers) < most:
                self._start_thread()

    def _work(self) -> None:
        while (job := self.tasks.get()) is not None:
            result: _Result
            self.pace.wait()
            if self._is_over() or self._is_late(job):
                result = NotAsked()
            else:
                began, computed = time.monotonic(), time.thread_time()
                try:
                    result = job.call(self.conf, self._time_left())
                except Exception as error:  # noqa: BLE001 - a dead thread would stop the run
                    logger.error("A refresh failed unexpectedly: %s.", type(error).__name__)
                    result = Unavailable(f"unexpected {type(error).__name__}")
                # Threads may overwrite each other's sums and averages: they need not be exact.
                took = time.monotonic() - began
                self.call_seconds += (took - self.call_seconds) / 16
                self.calling += took
                self.computing += time.thread_time() - computed
            if isinstance(result, Unavailable) and result.retry_after:
                # Here and not in the loop, so that the next call of this thread heeds it.
                until = time.monotonic() + result.retry_after
                self.refresher.held_until = max(self.refresher.held_until, until)
            self.results.put((job, result))

    def _is_late(self, job: _Job) -> bool:
        """Whether a job that was handed out should no longer be called about."""
        return (
            job.row.lease_left() < connections.lease_seconds(self.conf)
            or self._held_for() > 0
            or (self.memory.is_outage() and job is not self.probe)
        )

    def _time_left(self) -> float | None:
        """The deadline of a call that begins now, where it isn't simply TIMEOUT."""
        if not self.options.hurried:
            return None
        return max(self.ends_at - time.monotonic(), 0.001)

    def _is_over(self) -> bool:
        return (
            self.gave_up
            or self.stop.is_set()
            or time.monotonic() >= min(self.closes_at, self.turn_ends_at)
        )

    def _held_for(self) -> float:
        """Seconds until a Retry-After is over, or a probe's time has come."""
        return max(self.refresher.held_until, self.memory.probe_at) - time.monotonic()

    # The loop

    def _drain(self, claim: Callable[[int], Sequence[_Job]]) -> None:
        """Claim, hand out and collect until nothing is left of one kind of work."""
        self.exhausted = False
        written_at = time.monotonic()
        while True:
            if self._is_over():
                self._give_back()
                self.exhausted = True
            if not self.exhausted and self._may_start() and (wanted := self._may_claim()) > 0:
                self.exhausted = not self._take_on(claim(wanted))
            while self.backlog and self._may_start():
                self.probe = self.backlog[0] if self.memory.is_outage() else None
                self._hand_out()
            if self.in_flight:
                self._collect(WRITE_EVERY)
            elif not self.backlog and (self.exhausted or self._is_doubtful()):
                break
            elif self.backlog or not self._may_start():
                self._wait()
            elif not self.exhausted and self._may_claim() <= 0:
                self.exhausted = True  # --limit is reached
            is_time = time.monotonic() - written_at >= WRITE_EVERY
            if len(self.done) >= self.options.batch_size or is_time or not self.in_flight:
                self._write()
                written_at = time.monotonic()
        self._write()

    def _take_on(self, claimed: Sequence[_Job]) -> int:
        self.backlog.extend(claimed)
        self.handed_out[self.kind] += len(claimed)
        return len(claimed)

    def _may_claim(self) -> int:
        """How many rows to claim now; none while the threads have enough before them."""
        batch, window = self.options.batch_size, self._window()
        count = min(batch, window - self.in_flight - len(self.backlog))
        if self.memory.is_outage():
            count = 1
        elif count < min(batch, window // 2):
            return 0  # rather a whole batch a little later
        if self.options.limit is not None:
            count = min(count, self.options.limit - self.handed_out[self.kind])
        return count

    def _window(self) -> int:
        """How many rows to hold at once: what the threads get done in ``LOOK_AHEAD`` seconds.

        Enough that they don't wait for the database; no more, as pages wait for a row that is held.
        """
        workers, rate = self.options.workers, self.options.rate
        calls = min(workers * LOOK_AHEAD / self.call_seconds, 4 * self.options.batch_size)
        window = max(2 * workers, int(calls))
        if rate:
            # And those under way meanwhile.
            return max(1, min(window, int(rate * (LOOK_AHEAD + self.call_seconds))))
        return window

    def _may_start(self) -> bool:
        """Whether one more call may begin now."""
        memory = self.memory
        # No row is claimed for a call whose time is far off: its lease would be over by then.
        if self._is_over() or self._held_for() > 0 or self.pace.left() > LOOK_AHEAD:
            return False
        if memory.is_outage():
            return self.in_flight == 0
        if not self._trusts_refusals():
            refused = len(memory.refusals)
            most = max(DOUBTFUL, self.options.workers)
            return refused < DOUBTFUL and refused + self.in_flight < most
        return self.in_flight < self._window()

    def _trusts_refusals(self) -> bool:
        """Whether a success speaks for the refusals. In a ``--watch``, for few: see ``WINDOW``."""
        is_few = not self.options.patient or len(self.memory.refusals) < DOUBTFUL
        return is_few and self.memory.succeeded_lately()

    def _is_doubtful(self) -> bool:
        return not self._trusts_refusals() and len(self.memory.refusals) >= DOUBTFUL

    def _wait(self) -> None:
        """Nothing is in flight and nothing may start: wait for the time of the next call."""
        if self._is_doubtful():
            self._give_back()
            return
        held_for = self._held_for()
        # Refreshes can't wait until revocations go again, but revocations can for refreshes.
        if held_for > PATIENCE or (held_for > 0 and self.options.patient and self.kind is _Revoke):
            self._give_up()
        left = max(held_for, self.pace.left() - LOOK_AHEAD)
        if left > 0:
            if left > WRITE_EVERY:
                self._give_back()
            self.stop.wait(min(left, WRITE_EVERY))

    def _collect(self, timeout: float) -> None:
        try:
            first = self.results.get(timeout=COLLECT_EVERY if self._has_idle_jobs() else timeout)
        except queue.Empty:
            self._add_threads(float("inf"))
            return
        self._take(*first)
        if self.in_flight > len(self.workers) and not self.memory.failures:
            # The threads have enough to do: rather than wake for each answer, and take the
            # interpreter from them, let a few come together.
            time.sleep(COLLECT_EVERY)
        with suppress(queue.Empty):
            while True:
                self._take(*self.results.get_nowait())
        if self.computing:
            # Where threads wait for each other alone, a call takes as many times as long as it
            # computes as there are threads; up to twice that, beside the one with the database.
            self._add_threads(self.calling / self.computing / 2)
            self.calling = self.computing = 0.0

    def _take(self, job: _Job, result: _Result) -> None:
        self.in_flight -= 1
        self.done.append((job, result))
        memory = self.memory
        if isinstance(result, Fresh | Refused | Revoked):
            memory.failures = memory.failed_probes = 0
            self.out_of_reach.discard(self.kind)
        if isinstance(result, Fresh):
            memory.last_success = time.monotonic()
            memory.refusals.clear()
        elif isinstance(result, Refused):
            memory.refusals.append(time.monotonic())
        elif isinstance(result, Unavailable):
            self._note_failure(job, result)

    def _note_failure(self, job: _Job, result: Unavailable) -> None:
        memory = self.memory
        memory.failures += 1
        if memory.failures == OUTAGE:
            logger.warning("LeadExec has failed %s times in a row; probing it.", OUTAGE)
            memory.put_off_probe()
            self._give_back()
        elif job is self.probe:
            memory.failed_probes += 1
            memory.put_off_probe()
            if memory.failed_probes >= PROBES:
                self._give_up()

    def _give_up(self) -> None:
        self.out_of_reach.add(self.kind)
        self.gave_up = not self.options.patient or self.kind is _Revoke

    def _give_back(self) -> None:
        self._release([job.row for job in self.backlog])
        self.backlog.clear()

    def _release(self, rows: "Sequence[LeadExecConnection | PendingRevocation]") -> None:
        if not rows:
            return
        self.exhausted = False
        self.handed_out[self.kind] -= len(rows)
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
        self._settle_doubts()

    def _settle_doubts(self) -> None:
        is_held = self.report.everybody_refused or self._is_doubtful()
        # Held: status as it was, and put off, so that the next run meets other rows.
        held = Unavailable("refused, as all others were, so the refusal is not believed yet")
        doubted, self.doubted = self.doubted, []
        for row, refused in doubted:
            self._record(row, held if is_held else refused)
        self._write_recorded()

    def _ask_witnesses(self) -> None:
        """Ask about the rows the provider honoured last: are they refused as well?"""
        rows = self._chosen().active().filter(app_id=self.conf.app_id)
        # PostgreSQL would begin with the revoked ones, which have none.
        rows = rows.filter(refresh_after__isnull=False).order_by("-refresh_after")
        self._take_on([_Refresh(row) for row in rows.claim(WITNESSES, self.lease)])
        while self.backlog:
            self._hand_out()
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
        """Once for all passes, as they stay due for ever."""
        if self.refresher.has_counted_foreign:
            return
        self.refresher.has_counted_foreign = True
        foreign = count_foreign(self.options, self.conf, self.started)
        self.report.skipped += foreign
        if foreign:
            logger.warning(
                "%s due connections were made for another LEADEXEC['APP_ID'] and are left alone.",
                foreign,
            )

    def _count_rest(self) -> None:
        outbox = PendingRevocation.objects.using(self.options.using)
        self.report.pending = outbox.count()
        self.report.outage = bool(self.out_of_reach)
        if self._is_over() or self.report.outage or self.report.everybody_refused:
            if self.options.chosen is not None:
                due_rows = due_connections(self.options, self.conf, self.started)
                self.report.left += due_rows.count()
            if self.options.revocations is not None:
                due_entries = due_revocations(self.options, self.started)
                self.report.left += due_entries.count()

    # Writing

    def _write(self) -> None:
        self._release([job.row for job, result in self.done if isinstance(result, NotAsked)])
        while self.done:
            # Taken off afterwards, as an error may come between.
            self._note(*self.done[0])
            self.done.popleft()
        if self._trusts_refusals():
            self._settle_doubts()
        else:
            self._write_recorded()

    def _note(self, job: _Job, result: _Result) -> None:
        if isinstance(result, NotAsked):
            return
        if isinstance(job, _Revoke):
            self._write_revocation(job.row, result)
        elif isinstance(result, Refused) and not self._trusts_refusals():
            self.doubted.append((job.row, result))
        else:
            self._record(job.row, result)

    def _write_revocation(self, row: PendingRevocation, result: _Result) -> None:
        if isinstance(result, Revoked | Unavailable):
            connections.record_telling(row, result)
        if isinstance(result, Revoked):
            self.report.revoked += 1
        else:
            self.report.failed += 1
        self.progress(1)

    def _record(self, row: LeadExecConnection, result: _Result) -> None:
        if isinstance(result, Unreadable):
            row.record_trouble("the stored token opens with none of ENCRYPTION_KEYS")
        elif isinstance(result, Fresh | Refused | Unavailable):
            connections.record(row, result)
        self.recorded.append((row, result))

    def _write_recorded(self) -> None:
        if not self.recorded:
            return
        manager = LeadExecConnection.objects.using(self.options.using)
        lost = {row.pk for row in manager.all().write_claimed([row for row, _ in self.recorded])}
        written, self.recorded = self.recorded, []
        for row, result in written:
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
        self.progress(len(written))


class _Pace:
    """Lets through at most ``rate`` calls a second, evenly, over all threads and passes."""

    def __init__(self, rate: float | None, stop: threading.Event) -> None:
        self._interval = 1 / rate if rate else 0.0
        self._stop = stop
        self._lock = threading.Lock()
        self._next = time.monotonic()

    def left(self) -> float:
        """Seconds until the next call may begin; negative once it may."""
        return self._next - time.monotonic()

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
    if shift <= 0:
        return rows.due(moment(at + shift))
    # What has failed waits for its own time; only what goes well is taken sooner.
    rows = rows.due(moment(at + shift)).filter(Q(attempts=0) | Q(refresh_after__lte=moment(at)))
    return rows.free(untouched_since=at)


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
