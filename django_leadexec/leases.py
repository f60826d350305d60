"""Rows that one worker at a time may work on: claim, release, locks.

A worker claims a row, calls the provider outside of any transaction, and writes the answer under
the same lease. A lease ends by itself, so a killed worker blocks nobody for long.
``lease_until`` is in milliseconds since the epoch, so no time zone and no change to summer time
can shorten or lengthen a lease.
"""

import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial, wraps
from typing import Any, ClassVar, Concatenate, ParamSpec, Self, TypeVar

from django.core.exceptions import FieldError
from django.db import DatabaseError, OperationalError, connections, models, transaction
from django.db.backends.utils import CursorWrapper

from . import steps
from .claims import Claim
from .clock import monotonic
from .columns import columns
from .conflicts import LockingQuerySet, is_conflict, retry_on_deadlock, waits_of_skipping

# Seconds by which the clocks of two machines may differ.
CLOCK_SKEW = 5
# Seconds to go on trying to give back rows that others have locked. Whoever else wants such a row
# would wait for the end of its lease.
RELEASE_PATIENCE = 2.0
# Seconds between two of these tries.
RELEASE_INTERVAL = 0.02
T = TypeVar("T")
P = ParamSpec("P")
Row = TypeVar("Row", bound="Leased")
Rows = TypeVar("Rows", bound="LeasedQuerySet[Any]")


class Leased(models.Model):
    """A row that one worker at a time may work on. ``schedule`` names its column of due times.

    ``own_columns`` are those that only this package may write: they depend on each other.
    """

    lease_id: str = columns.CharField(max_length=32, default="", editable=False)
    lease_until: int = columns.BigIntegerField(default=0, editable=False)

    schedule: ClassVar[str]
    own_columns: ClassVar[frozenset[str]]

    class Meta:
        abstract = True


@contextmanager
def writing(model: type[Leased], using: str) -> Iterator[None]:
    """A transaction that may read rows of ``model`` before it writes.

    On SQLite it takes the write lock first. A SQLite transaction that begins with a read cannot
    wait for the lock later: it fails at once if somebody else has written in between.
    """
    with transaction.atomic(using=using), waits_of_skipping(using):
        if not connections[using].features.has_select_for_update:
            model._base_manager.using(using).filter(pk=0).update(lease_until=0)
        yield


def retried_on_deadlock(
    method: Callable[Concatenate[Rows, P], T],
) -> Callable[Concatenate[Rows, P], T]:
    """Decorate a query set's method that is one transaction: ``retry_on_deadlock`` around it."""

    @wraps(method)
    def retried(self: Rows, /, *args: P.args, **kwargs: P.kwargs) -> T:
        # Tells database routers that a write follows, as Django's own methods do.
        self._for_write = True  # type: ignore[attr-defined]
        return retry_on_deadlock(self.db, lambda: method(self, *args, **kwargs))

    return retried


def released() -> int:
    """The ``lease_until`` of a row that is released now: free at once, by this machine's clock."""
    return _milliseconds(time.time() - CLOCK_SKEW)


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def refuse_own_columns(model: type[Leased], names: Iterable[str]) -> None:
    """Raise FieldError if one of these columns is for this package alone to write."""
    refused = sorted(model.own_columns.intersection(names))
    if refused:
        raise FieldError(
            f"{', '.join(refused)} of {model._meta.object_name} can't be saved from outside "
            "django_leadexec, because other columns depend on it. Use revoke() to end a "
            "connection, and LeadExecConnection.objects.adopt() to store a token."
        )


class LeasedQuerySet(LockingQuerySet[Row]):
    """Rows under leases, for models that derive from ``Leased``."""

    def update(self, **values: Any) -> int:
        """Django's own, for all columns but those that only this package may write."""
        refuse_own_columns(self.model, values)
        return super().update(**values)

    # As Django marks its own method: templates must not call it.
    update.alters_data = True  # type: ignore[attr-defined]

    def bulk_create(
        self,
        objs: Iterable[Row],
        batch_size: int | None = None,
        ignore_conflicts: bool = False,
        update_conflicts: bool = False,
        update_fields: Collection[str] | None = None,
        unique_fields: Collection[str] | None = None,
    ) -> list[Row]:
        """Django's own. Rows that are there already are updated as ``update()`` would do it."""
        refuse_own_columns(self.model, update_fields or ())
        return super().bulk_create(
            objs, batch_size, ignore_conflicts, update_conflicts, update_fields, unique_fields
        )

    bulk_create.alters_data = True  # type: ignore[attr-defined]

    def write(self, **values: Any) -> int:
        """Update any column. For this package alone."""
        return super().update(**values)

    write.alters_data = True  # type: ignore[attr-defined]

    def due(self, at: datetime) -> Self:
        """Rows scheduled for ``at`` or earlier, the longest due first."""
        schedule = self.model.schedule
        return self.filter(**{f"{schedule}__lte": at}).order_by(schedule, "pk")

    def free(self, *, untouched_since: float | None = None) -> Self:
        """Rows that nobody holds; with ``untouched_since`` (epoch seconds), nor has held since.

        A released row keeps the time of its release. So a run over all rows meets each row once,
        however many processes share the work.
        """
        now = time.time()
        bound = now if untouched_since is None else min(now, untouched_since)
        return self.filter(lease_until__lte=_milliseconds(bound - CLOCK_SKEW))

    def held(self) -> Self:
        """Rows that somebody holds, by the clock of whoever else may want them."""
        return self.filter(lease_until__gt=released())

    @retried_on_deadlock
    def claim(self, limit: int, seconds: float) -> list[Claim[Row]]:
        """Take up to ``limit`` free rows of this ordered query set under one lease."""
        lease_id = uuid.uuid4().hex
        with writing(self.model, self.db):
            rows = list(self.free().unlocked()[:limit])
            lease_until = _milliseconds(time.time() + seconds)
            self.with_keys_of(rows).write(lease_id=lease_id, lease_until=lease_until)
        for row in rows:
            row.lease_id, row.lease_until = lease_id, lease_until
        return [Claim.of(row, is_held=True) for row in rows]

    def release(self, claims: Sequence[Claim[Row]]) -> None:
        """Give claimed rows back as if they had never been taken.

        It waits for a row that somebody else has locked, up to RELEASE_PATIENCE. A row that is
        still locked then keeps its lease, which ends by itself.
        """
        give_up_at = monotonic() + RELEASE_PATIENCE
        try:
            while (claims := self._release(claims)) and monotonic() < give_up_at:
                time.sleep(RELEASE_INTERVAL)
        except OperationalError as error:
            if not is_conflict(error, self.db):
                raise

    @retried_on_deadlock
    def _release(self, claims: Sequence[Claim[Row]]) -> list[Claim[Row]]:
        """Returns the claims on rows that somebody else has locked. Nothing is done about these."""
        with transaction.atomic(using=self.db), waits_of_skipping(self.db):
            locked = self.lock_or_skip(claims)
            by_lease: dict[str, list[Row]] = {}
            for claim in claims:
                if claim not in locked:
                    by_lease.setdefault(claim.lease_id, []).append(claim.row)
            for lease_id, rows in by_lease.items():
                self.with_keys_of(rows).filter(lease_id=lease_id).write(lease_until=0)
        return locked

    def lock_or_skip(self, claims: Sequence[Claim[Row]]) -> list[Claim[Row]]:
        """Lock the rows of these claims. Returns the claims on rows that somebody else has locked.

        Call it inside a transaction with ``waits_of_skipping``. A database without SKIP LOCKED
        locks and skips nothing.
        """
        if not connections[self.db].features.has_select_for_update_skip_locked:
            return []
        no_key = not any(claim.ends_connection for claim in claims)
        rows = self.with_keys_of([claim.row for claim in claims]).order_by("pk")
        keys = set(rows.unlocked(no_key=no_key).values_list("pk", flat=True))
        missing = [claim for claim in claims if claim.row.pk not in keys]
        if not missing:
            return []
        # A row that is not even stored has been deleted.
        stored = set(rows.values_list("pk", flat=True))
        return [claim for claim in missing if claim.row.pk in stored]

    def with_keys_of(self, rows: Sequence[Row]) -> Self:
        """All rows of the table that have the keys of these, whatever else this query asks for."""
        everything = type(self)(self.model, using=self.db)
        return everything.filter(pk__in=[row.pk for row in rows])

    def guarded_update(self, claims: Sequence[Claim[Row]], names: Sequence[str], mark: int) -> int:
        """Write the named fields of claimed rows, where version and lease are still the claim's.

        The rows of held claims are released with ``mark``. Returns how many rows were written.
        Call it inside a transaction. The rows are written in key order, so that two writers can
        not lock each other's rows crosswise.
        """
        database = connections[self.db]
        quote = database.ops.quote_name
        fields = [self.model._meta.get_field(name) for name in names]
        assignments = ", ".join(f"{quote(str(field.column))} = %s" for field in fields)  # type: ignore[union-attr]
        sql = (
            f"UPDATE {quote(self.model._meta.db_table)} "  # noqa: S608  # nosec B608 # column names
            f"SET {assignments}, {quote('lease_until')} = %s "
            f"WHERE {quote('id')} = %s AND {quote('version')} = %s AND {quote('lease_id')} = %s"
        )
        parameters = [
            [
                *(
                    field.get_db_prep_save(getattr(claim.row, field.attname), database)  # type: ignore[union-attr]
                    for field in fields
                ),
                mark if claim.is_held else claim.lease_until,
                claim.row.pk,
                claim.version,
                claim.lease_id,
            ]
            for claim in sorted(claims, key=lambda claim: claim.row.pk)
        ]
        with database.cursor() as cursor:
            # The cursors of tools that watch queries, as debug-toolbar's, fail at executemany.
            is_djangos = type(cursor).__module__.startswith("django.db.backends.")
            if len(parameters) > 1 and is_djangos:
                cursor.executemany(sql, parameters)
                return int(cursor.rowcount)
            return sum(_execute(cursor, sql, row) for row in parameters)


def _execute(cursor: CursorWrapper, sql: str, parameters: Sequence[Any]) -> int:
    cursor.execute(sql, parameters)
    return int(cursor.rowcount)


def give_back_on_error(claim: Claim[Row], using: str, work: steps.Steps[T]) -> steps.Steps[T]:
    """Do ``work`` on a claimed row, and give the row back if an error ends it.

    Some errors of others are no ``Exception``: gevent's ``Timeout``, for one.
    """
    try:
        return (yield from work)
    except GeneratorExit:
        raise  # The caller is gone, and what is owed is done without it.
    except BaseException:
        if claim.is_held:
            yield steps.database(partial(_give_back, claim, using), is_owed=True)
        raise


def _give_back(claim: Claim[Row], using: str) -> None:
    rows: LeasedQuerySet[Row] = type(claim.row)._default_manager.using(using)  # type: ignore[assignment]
    # A database that is gone can't take it. Then the row comes free at the end of its lease.
    with suppress(DatabaseError):
        rows.release([claim])
