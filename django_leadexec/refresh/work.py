"""The two kinds of work in a run: connections to refresh, and revocations to send."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from django.db import OperationalError

from ..claims import Claim
from ..conf import Settings
from ..conflicts import is_conflict
from ..leases import LeasedQuerySet
from ..models import ConnectionQuerySet, LeadExecConnection, PendingRevocation
from ..provider.replies import Fresh, Refused, Revoked
from .circuit_breaker import CircuitBreaker
from .due import due_connections, due_revocations
from .health import ProviderHealth
from .jobs import Job, RefreshJob, Result, RevocationJob
from .options import Options
from .refusals import CONFIRMATION_SAMPLE

# Seconds that a claimed row may wait for its call, if those before it take long.
QUEUE_TIME = 60


class Work(ABC):
    """Rows of one kind that a run begun ``at`` (epoch seconds) works on.

    ``is_unreachable`` says that the last calls of this kind got no answer.
    """

    def __init__(self, options: Options, conf: Settings, health: ProviderHealth, at: float) -> None:
        self.options = options
        self.conf = conf
        self.health = health
        self.at = at
        self.taken: int = 0
        self.is_unreachable: bool = False

    @property
    @abstractmethod
    def breaker(self) -> CircuitBreaker:
        """The circuit breaker of this kind of call."""

    @property
    def gives_up(self) -> bool:
        """Whether this work ends, for this run, when the provider can not be reached."""
        return not self.options.watching

    @property
    def yields_to_other_work(self) -> bool:
        """Whether this work ends, for this run, rather than wait while calls are held."""
        return False

    @property
    def may_take(self) -> float:
        """How many more rows ``--limit`` allows."""
        return float("inf") if self.options.limit is None else self.options.limit - self.taken

    def claim(self, count: int) -> list[Job]:
        """Claim up to ``count`` due rows; none while others lock the whole table."""
        return self._take(lambda: self._claim(count)) or []

    def _take(self, claim: Callable[[], list[Job]]) -> list[Job] | None:
        """Claim rows, and count them; None while others lock the whole table."""
        try:
            jobs = claim()
        except OperationalError as error:
            if not is_conflict(error, self.options.using):
                raise
            return None
        self.taken += len(jobs)
        return jobs

    def give_back(self, jobs: Sequence[Job]) -> None:
        """Release rows that were claimed and not asked about."""
        if jobs:
            self._rows().release([job.claim for job in jobs])
            self.taken -= len(jobs)

    def record(self, result: Result) -> None:
        """Note what an answer tells about the provider, if there was one."""
        if isinstance(result, Fresh | Refused | Revoked):
            self.breaker.record_answer()
            self.is_unreachable = False

    def may_ask(self, in_flight: int) -> bool:
        """Whether one more row may be asked about, with ``in_flight`` calls under way."""
        return True

    def is_doubtful(self) -> bool:
        """Whether the provider's answers must not be believed."""
        return False

    @property
    def lease(self) -> float:
        """How long a claim lasts, in seconds."""
        return QUEUE_TIME + self.conf.lease_seconds()

    @abstractmethod
    def _claim(self, count: int) -> list[Job]: ...

    @abstractmethod
    def _rows(self) -> LeasedQuerySet[Any]: ...


class ConnectionWork(Work):
    """Connections to refresh. Refusals of them may be doubted; see ``refusals``."""

    _cursor = 0

    @property
    def breaker(self) -> CircuitBreaker:
        return self.health.refreshing

    def record(self, result: Result) -> None:
        super().record(result)
        if isinstance(result, Fresh):
            self.health.refusals.record_success()
        elif isinstance(result, Refused):
            self.health.refusals.record_refusal()

    def may_ask(self, in_flight: int) -> bool:
        return self.health.refusals.may_ask(in_flight, self.options.workers)

    def is_doubtful(self) -> bool:
        return self.health.refusals.are_doubtful()

    def claim_sample(self) -> list[Job] | None:
        """Claim the connections that the provider accepted last, for ``Refusals``.

        None while others lock the whole table.
        """
        chosen: ConnectionQuerySet = self.options.chosen  # type: ignore[assignment]
        rows = chosen.active().filter(app_id=self.conf.app_id, refresh_after__isnull=False)
        newest = rows.order_by("-refresh_after")
        return self._take(
            lambda: [RefreshJob(claim) for claim in newest.claim(CONFIRMATION_SAMPLE, self.lease)]
        )

    def _claim(self, count: int) -> list[Job]:
        due, lease = due_connections(self.options, self.conf, self.at), self.lease
        claims: list[Claim[LeadExecConnection]]
        if self.options.everything:
            claims = due.filter(pk__gt=self._cursor).claim(count, lease)
            if not claims and self._cursor:
                # Once more from the start, for rows that were given back on the way.
                claims = due.claim(count, lease)
            self._cursor = claims[-1].row.pk if claims else 0
        else:
            claims = due.claim(count, lease)
        return [RefreshJob(claim) for claim in claims]

    def _rows(self) -> ConnectionQuerySet:
        return LeadExecConnection.objects.using(self.options.using)


class RevocationWork(Work):
    """Outbox entries to send."""

    # A refresh can not wait until revocations get through again, but a revocation can wait.
    gives_up = True

    @property
    def breaker(self) -> CircuitBreaker:
        return self.health.revoking

    @property
    def yields_to_other_work(self) -> bool:
        return self.options.watching

    def _claim(self, count: int) -> list[Job]:
        due = due_revocations(self.options, self.at)
        return [RevocationJob(claim) for claim in due.claim(count, self.lease)]

    def _rows(self) -> LeasedQuerySet[Any]:
        return PendingRevocation.objects.using(self.options.using)
