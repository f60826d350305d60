"""Why work on the database has failed: because of others, so that it is tried again, or for good.

Also locks that do not wait.
"""

import sqlite3
import time
from collections.abc import Callable
from typing import Self, TypeVar

from django.db import DatabaseError, OperationalError, connections, models, transaction

from .clock import backoff, jitter, monotonic
from .exceptions import ConnectionBusy

# Seconds to go on trying. Not a setting: rows can be deleted on a site that lacks its settings.
LOCK_PATIENCE = 10.0
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
# A database that is gone, is full, or takes no writes: SQLite's, then MariaDB's and MySQL's.
_DOWN = {
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY),
    *(1021, 1053, 1114, 1290, 2006, 2013),
}
# The same: with what PostgreSQL's begin.
_DOWN_ON_POSTGRES = ("08", "25006", "25P03", "53", "57P")

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
            is_undone = not _UNDONE.isdisjoint(_codes(error))
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
    return not codes.isdisjoint(_codes(error))


def is_database_down(error: DatabaseError, using: str) -> bool:
    """Whether work has failed for a reason that has nothing to do with its rows."""
    codes = _codes(error)
    if connections[using].vendor == "postgresql":
        # An error that the server has not reported, as it is gone, has no code.
        is_lost = isinstance(error, OperationalError) and None in codes
        return is_lost or any(str(code).startswith(_DOWN_ON_POSTGRES) for code in codes)
    return not _DOWN.isdisjoint(codes)


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
        refer to these rows meanwhile. A database without SKIP LOCKED waits for the others.
        """
        features = connections[self.db].features
        if not features.has_select_for_update:
            return self
        return self.select_for_update(
            skip_locked=features.has_select_for_update_skip_locked,
            no_key=no_key and features.has_select_for_no_key_update,
        )


def _codes(error: DatabaseError) -> set[object]:
    cause = error.__cause__
    if isinstance(cause, sqlite3.Error):
        # The lowest byte. The others say what was busy, and why.
        return {getattr(cause, "sqlite_errorcode", 0) & 0xFF}
    sqlstate = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    return {sqlstate, *error.args[:1]}
