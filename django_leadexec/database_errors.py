"""What an error of a database is about, whichever the database and its driver are."""

import sqlite3

from django.db import DatabaseError, DataError

# Text with characters that a column lacks, stored or looked for: MariaDB's and MySQL's. One driver
# has DataError for the first, another OperationalError.
_CHARACTERS_MISSING = {1366, 1267, 1270, 1271}


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
