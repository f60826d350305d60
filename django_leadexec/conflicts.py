"""Transactions that fail only because of others and are tried again, and locks that do not wait."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Self, TypeVar

from django.db import DatabaseError, OperationalError, connections, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from .clock import backoff, jitter, monotonic
from .database_errors import codes_of
from .exceptions import ConnectionBusy

# Seconds to go on trying. Not a setting: rows can be deleted on a site that lacks its settings.
LOCK_PATIENCE = 10.0
# Seconds that one statement waits for a lock that can't be skipped, before its transaction is tried
# again. PostgreSQL needs one second to notice a deadlock.
LOCK_WAIT = 2
# Seconds between two tries to take or to write rows in bulk that others have locked.
LOCK_INTERVAL = 0.25
# How often a transaction is tried at most. The waits for a lock add up to about LOCK_PATIENCE.
ATTEMPTS = 140
# Seconds before the second try. The wait then doubles.
FIRST_RETRY = 0.002
# The longest wait after a conflict, in seconds. Where many transactions meet, most of them have to
# keep away.
LONGEST_RETRY = 0.5
# The longest wait for a lock, in seconds.
LONGEST_RETRY_OF_LOCK = 0.1

# A deadlock, or a row that has changed since a snapshot: PostgreSQL's, then MariaDB's and MySQL's.
_UNDONE = {"40P01", "40001", 1213, 1020}
# A row whose lock was not to be had in time: PostgreSQL's, then MariaDB's and MySQL's.
_ROW_LOCKED = {"55P03", 1205, 3572}
# The whole database, on SQLite.
_DATABASE_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_CONFLICTS = _UNDONE | _ROW_LOCKED | _DATABASE_LOCKED

T = TypeVar("T")
Row = TypeVar("Row", bound=models.Model)


def retry_on_deadlock(using: str, work: Callable[[], T]) -> T:
    """Run ``work``, one transaction, and run it again if a conflict with another has ended it.

    Such a conflict is a deadlock, a row that has changed since a snapshot, or a lock that was not
    to be had. Raises the OperationalError if that goes on for LOCK_PATIENCE.

    Our own transactions lock rows in the order of their keys. A caller's transaction may not, and
    MariaDB and MySQL also lock index entries and rows that a scan only passes. Inside a caller's
    transaction ``work`` is a savepoint, and only the lock of a row is waited for. Any other
    conflict is raised, because the caller has to begin again.
    """
    give_up_at = monotonic() + LOCK_PATIENCE
    # Counted as well, because a clock may stand still in a test.
    for attempt in range(1, ATTEMPTS):
        try:
            return work()
        except OperationalError as error:
            if monotonic() >= give_up_at or not is_conflict(error, using):
                raise
            is_undone = not _UNDONE.isdisjoint(codes_of(error))
        longest = LONGEST_RETRY if is_undone else LONGEST_RETRY_OF_LOCK
        time.sleep(backoff(attempt, first=FIRST_RETRY, longest=longest) * jitter(0.5, 1))
    return work()


def busy_on_conflict(using: str, work: Callable[[], T]) -> T:
    """Run ``work`` by ``retry_on_deadlock``, and raise ConnectionBusy if others still stop it.

    A page can then say that it does not work just now.
    """
    try:
        return retry_on_deadlock(using, work)
    except OperationalError as error:
        if not is_conflict(error, using):
            raise
        raise ConnectionBusy(
            "Another transaction keeps this connection locked; please try again later."
        ) from error


def is_conflict(error: DatabaseError, using: str) -> bool:
    """Whether work has failed only because of others: tried again here, it may succeed."""
    codes = _ROW_LOCKED if connections[using].in_atomic_block else _CONFLICTS
    return not codes.isdisjoint(codes_of(error))


@contextmanager
def brief_waits(using: str) -> Iterator[None]:
    """Let no statement wait longer than LOCK_WAIT for a lock, or than the site lets it.

    For what can neither skip a lock nor fail at once: an INSERT waits for whoever stores the same,
    and for the row that it refers to. Call it inside a transaction. Afterwards the session has its
    own value back. PostgreSQL checks foreign keys at the commit, so there a transaction of ours
    keeps the short wait until its end, and with it the value ends.
    """
    database = connections[using]
    if database.vendor == "postgresql":
        with _brief_waits_of_postgresql(database):
            yield
    elif database.vendor == "mysql":
        with _brief_waits_of_mysql(database):
            yield
    else:
        yield


@contextmanager
def _brief_waits_of_postgresql(database: BaseDatabaseWrapper) -> Iterator[None]:
    is_callers = bool(database.savepoint_ids)
    with database.cursor() as cursor:
        # In milliseconds. 0 stands for no end. LEAST ignores NULL.
        cursor.execute(
            "SELECT current_setting('lock_timeout'), set_config('lock_timeout', (1000 * EXTRACT("
            "epoch FROM LEAST(%s, NULLIF(current_setting('lock_timeout')::interval, '0'))"
            ")::numeric)::int::text, true)",
            [f"{LOCK_WAIT} s"],
        )
        (own, _brief) = cursor.fetchone()
    yield
    # After an error the rollback does it.
    if is_callers:
        with database.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [own])


@contextmanager
def _brief_waits_of_mysql(database: BaseDatabaseWrapper) -> Iterator[None]:
    with database.cursor() as cursor:
        cursor.execute("SELECT @@innodb_lock_wait_timeout")
        (own,) = cursor.fetchone()
    try:
        with database.cursor() as cursor:
            cursor.execute("SET SESSION innodb_lock_wait_timeout = %s", [min(own, LOCK_WAIT)])
        yield
    finally:
        _set_wait_of_mysql(database, own)


def _set_wait_of_mysql(database: BaseDatabaseWrapper, seconds: int) -> None:
    # Not by Django's cursor, which refuses after an error. A connection that is gone needs none.
    if database.connection is not None:
        driver: Any = database.Database  # type: ignore[attr-defined]
        with suppress(driver.Error), database.connection.cursor() as cursor:
            cursor.execute(f"SET SESSION innodb_lock_wait_timeout = {seconds:d}")


def waits_of_skipping(using: str) -> AbstractContextManager[None]:
    """``brief_waits`` where the database can't skip what others have locked; else nothing.

    For transactions that read ``unlocked()`` rows, or have claims to write.
    """
    can_skip = connections[using].features.has_select_for_update_skip_locked
    return nullcontext() if can_skip else brief_waits(using)


class LockingQuerySet(models.QuerySet[Row]):
    """Locks rows without waiting for those who have locked them before."""

    def locked(self, *, no_key: bool = False) -> Self:
        """Lock the rows when they are read, inside ``writing()``, or fail where others have.

        ``retry_on_deadlock`` waits for them, and not without end, as the database might. An UPDATE
        of rows that are not locked yet would wait like that. ``no_key`` is as for ``unlocked``.
        """
        features = connections[self.db].features
        if not features.has_select_for_update:
            return self
        return self.select_for_update(
            nowait=features.has_select_for_update_nowait,
            no_key=no_key and features.has_select_for_no_key_update,
        )

    def read_locked(self) -> list[Row]:
        """Lock and read the rows, inside ``writing()``, and wait for others for a while."""

        def read() -> list[Row]:
            with transaction.atomic(using=self.db):
                return list(self.locked())

        return retry_on_deadlock(self.db, read)

    def unlocked(self, *, no_key: bool = True) -> Self:
        """Lock the rows when they are read, inside ``writing()``, and leave out those others have.

        ``no_key``: the columns of unique indexes stay as they are. Rows of other tables may then
        refer to these rows meanwhile. A database without SKIP LOCKED waits for the others:
        ``waits_of_skipping`` keeps that short.
        """
        features = connections[self.db].features
        if not features.has_select_for_update:
            return self
        return self.select_for_update(
            skip_locked=features.has_select_for_update_skip_locked,
            no_key=no_key and features.has_select_for_no_key_update,
        )
