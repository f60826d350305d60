"""What an error of a database is about."""

import sqlite3

import pytest
from django.db import DatabaseError, DataError, IntegrityError, OperationalError, connections

from django_leadexec.database_errors import is_database_down, is_unstorable

from .driver_errors import (
    PostgresError,
    caused_by,
    of_mysql,
    of_postgres,
    of_psycopg2,
    of_sqlite,
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DataError("value too long"), True),
        (OperationalError(1366, "Incorrect string value"), True),
        (OperationalError(1267, "Illegal mix of collations"), True),
        (OperationalError(1270, "Illegal mix of collations"), True),
        (OperationalError(1271, "Illegal mix of collations"), True),
        (OperationalError(1205, "Lock wait timeout exceeded"), False),
        (OperationalError("the connection is gone"), False),
        (OperationalError(), False),
        (DatabaseError(), False),
    ],
)
def test_a_text_that_does_not_fit_is_told_from_other_trouble(
    error: DatabaseError, expected: bool
) -> None:
    assert is_unstorable(error) is expected


REFUSED = IntegrityError("refused")
NOT_UNICODE = DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")


@pytest.mark.parametrize(
    ("error", "vendor", "is_down"),
    [
        (of_postgres("57P01"), "postgresql", True),
        (of_psycopg2("08006"), "postgresql", True),
        (of_postgres("53100"), "postgresql", True),
        (of_postgres("25006"), "postgresql", True),
        (caused_by(PostgresError(), "server closed the connection"), "postgresql", True),
        (of_postgres("57014"), "postgresql", False),  # a statement that took too long
        (of_postgres("23514"), "postgresql", False),
        (of_postgres("P0001"), "postgresql", False),
        (NOT_UNICODE, "postgresql", False),
        (of_mysql(2006), "mysql", True),
        (of_mysql(2013), "mysql", True),
        (of_mysql(1114), "mysql", True),
        (of_mysql(1644), "mysql", False),  # raised by a trigger
        (REFUSED, "mysql", False),
        (of_sqlite(sqlite3.SQLITE_FULL), "sqlite", True),
        (of_sqlite(sqlite3.SQLITE_IOERR_WRITE), "sqlite", True),
        (of_sqlite(sqlite3.SQLITE_READONLY), "sqlite", True),
        (of_sqlite(sqlite3.SQLITE_CORRUPT), "sqlite", False),
        (REFUSED, "sqlite", False),
    ],
)
def test_a_row_that_takes_no_answer_is_told_from_a_database_that_is_down(
    monkeypatch: pytest.MonkeyPatch, error: DatabaseError, vendor: str, is_down: bool
) -> None:
    monkeypatch.setattr(connections["default"], "vendor", vendor)
    assert is_database_down(error, "default") is is_down
