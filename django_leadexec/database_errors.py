"""What an error of a database is about, whichever the database and its driver are."""

import sqlite3

from django.db import DatabaseError, DataError, OperationalError, connections

# Text with characters that a column lacks, stored or looked for: MariaDB's and MySQL's. One driver
# has DataError for the first, another OperationalError.
_CHARACTERS_MISSING = {1366, 1267, 1270, 1271}
# A database that is gone, is full, or takes no writes: SQLite's, then MariaDB's and MySQL's.
_DOWN = {
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY),
    *(1021, 1053, 1114, 1290, 2006, 2013),
}
# The same: with what PostgreSQL's begin.
_DOWN_ON_POSTGRES = ("08", "25006", "25P03", "53", "57P")


def codes_of(error: DatabaseError) -> set[object]:
    """The code of the error: a number, or PostgreSQL's SQLSTATE. Others may be among them."""
    cause = error.__cause__
    if isinstance(cause, sqlite3.Error):
        # The lowest byte. The others say what was busy, and why.
        return {getattr(cause, "sqlite_errorcode", 0) & 0xFF}
    sqlstate = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    return {sqlstate, *error.args[:1]}


def is_unstorable(error: DatabaseError) -> bool:
    """Whether a text is too long for its column, or has characters that the column can't hold.

    A table of MariaDB or MySQL, or a whole PostgreSQL database, may be older than its Unicode.
    """
    return isinstance(error, DataError) or not _CHARACTERS_MISSING.isdisjoint(codes_of(error))


def is_database_down(error: DatabaseError, using: str) -> bool:
    """Whether work has failed for a reason that has nothing to do with its rows."""
    codes = codes_of(error)
    if connections[using].vendor == "postgresql":
        # An error that the server has not reported, as it is gone, has no code.
        is_lost = isinstance(error, OperationalError) and None in codes
        return is_lost or any(str(code).startswith(_DOWN_ON_POSTGRES) for code in codes)
    return not _DOWN.isdisjoint(codes)
