"""What a run is asked to do, and what it reports."""

from dataclasses import dataclass, fields, replace
from typing import Any

from ..models import ConnectionQuerySet, LeadExecConnection, PendingRevocation
from ..outbox import OutboxQuerySet
from ..provider.client import POOL_SIZE

# For each option that is a number: its type, the smallest and the largest value.
NUMBERS: dict[str, tuple[type[int] | type[float], float, float]] = {
    "within": (float, 0, 86_400),
    "workers": (int, 1, POOL_SIZE),
    "batch_size": (int, 1, 5_000),
    "limit": (int, 1, 10**12),
    "rate": (float, 0.01, 100_000),
    "seconds": (float, 0, 86_400),
    "copies": (int, 1, 1_000),
}
# How long a task of a queue works, in seconds.
TASK_SECONDS = 240.0

UNREADABLE_MESSAGE = (
    "Stored tokens that can be decrypted with none of LEADEXEC['ENCRYPTION_KEYS']: {count}. "
    "No retry helps. Put back the key that they were written with."
)
EVERYBODY_REFUSED = (
    "LeadExec refused every connection, so nothing was marked as rejected. "
    "Is LEADEXEC['APP_ID'] right?"
)


def check_number(name: str, value: object) -> None:
    """Raise ValueError if this option can not have that value."""
    kind, least, most = NUMBERS[name]
    if not (isinstance(value, kind | int) and least <= value <= most):
        what = "a whole number" if kind is int else "a number"
        raise ValueError(f"{name} must be {what} from {least} to {most}, not {value!r}.")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run does. Times are in seconds.

    ``chosen`` and ``revocations`` narrow the run to the rows of these query sets; None leaves that
    kind of work out. ``within``: the margin before expiry, instead of REFRESH_MARGIN.
    ``everything``: all live rows, due or not. ``limit``: rows of each kind at most. ``rate``:
    calls a second at most. ``seconds``: no call begins later than that. ``hard_deadline``: no call
    goes on longer than that either, because somebody is waiting. ``watching``: one of many passes,
    so it keeps probing through an outage instead of giving up.
    Raises ValueError for a number out of range.
    """

    using: str
    chosen: ConnectionQuerySet | None
    revocations: OutboxQuerySet | None
    within: float | None = None
    everything: bool = False
    workers: int = 16
    batch_size: int = 200
    limit: int | None = None
    rate: float | None = None
    seconds: float | None = None
    hard_deadline: bool = False
    watching: bool = False

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name in NUMBERS and not (value is None and option.default is None):
                check_number(option.name, value)

    @classmethod
    def for_all(cls, using: str, **changes: Any) -> "Options":
        """All the work there is on a database."""
        return cls(
            using=using,
            chosen=LeadExecConnection.objects.using(using),
            revocations=PendingRevocation.objects.using(using),
            **changes,
        )


# The fields of a report that add up over several runs. The others say how things stood at the end.
SUMS = ("refreshed", "rejected", "failed", "unreadable", "skipped", "revoked", "seconds")


@dataclass
class Report:
    """What a run did.

    ``unreadable``: those of the ``failed`` whose token opens with none of ENCRYPTION_KEYS.
    ``held``: due rows that other workers held at its end. ``left``: due rows that nobody held,
    because it had to stop early, or because a transaction of the site had them locked.
    ``database_failed`` is set only by ``watch()``; ``run()`` raises instead.
    """

    refreshed: int = 0
    rejected: int = 0
    failed: int = 0
    unreadable: int = 0
    skipped: int = 0
    revoked: int = 0
    pending: int = 0
    left: int = 0
    held: int = 0
    seconds: float = 0.0
    everybody_refused: bool = False
    outage: bool = False
    database_failed: bool = False

    def add(self, later: "Report") -> None:
        """Add what a later run did, and take over how things stood at its end."""
        for name in SUMS:
            setattr(self, name, round(getattr(self, name) + getattr(later, name), 3))
        self.database_failed = later.database_failed
        if not later.database_failed:
            for name in ("pending", "left", "held", "everybody_refused", "outage"):
                setattr(self, name, getattr(later, name))

    def without_sums(self) -> "Report":
        """A report to go on with: how things stand, and nothing counted yet."""
        report = replace(self)
        for name in SUMS:
            setattr(report, name, 0)
        return report
