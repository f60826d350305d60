"""Databases made for the benchmark and dropped after it, and the rows in them."""

import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from django.contrib.auth import get_user_model
from django.db import connections
from django.utils import timezone

from django_leadexec.models import LeadExecConnection

TITLES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB"}
USERS = 1_000
HOUR = timedelta(hours=1)
TOKEN = "refresh-token-of-a-likely-length-0123456789"  # noqa: S105 - the stand-in takes any
ACCESS_TOKEN = "access-token-of-a-likely-length-" + "0" * 20

# In what the rows of a table differ, by the row's number n.
DIGEST = "MD5(CAST({n} AS CHAR(10)))"  # of all digests, the one that all three have
SPREAD = {
    "sqlite": "STRFTIME('%%Y-%%m-%%d %%H:%%M:%%f', %s, (n / 1000.0) || ' seconds')",
    "postgresql": "%s + n * INTERVAL '1 millisecond'",
    "mysql": "%s + INTERVAL n * 1000 MICROSECOND",
}


def version(vendor: str) -> str:
    """The server's version. Raises ImproperlyConfigured, DatabaseError where there is none."""
    if vendor == "sqlite":
        return sqlite3.sqlite_version
    with connections[f"{vendor}_work"]._nodb_cursor() as cursor:
        cursor.execute("SELECT VERSION()")
        return str(cursor.fetchone()[0].removeprefix("PostgreSQL ").split(" ")[0])


@contextmanager
def database(alias: str, rows: int, due: int) -> Iterator[None]:
    """A new database with that many connections, of which ``due`` are due now."""
    creation = connections[alias].creation
    name = connections[alias].settings_dict["NAME"]
    try:
        creation.create_test_db(verbosity=0, autoclobber=True)
        _fill(alias, rows, due)
        yield
    finally:
        with _undisturbed():
            creation.destroy_test_db(name, verbosity=0)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """An impatient second Ctrl-C must not leave a database behind."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _fill(alias: str, rows: int, due: int) -> None:
    """Connections made by one INSERT. All have the same tokens, so nothing is encrypted for it."""
    connection = connections[alias]
    quote = connection.ops.quote_name
    users = get_user_model().objects.using(alias)
    users.bulk_create(users.model(username=f"user{number}") for number in range(USERS))
    row = LeadExecConnection(user_id=users.earliest("pk").pk, app_id="bench")
    row.refresh_token = TOKEN
    row.record_success(ACCESS_TOKEN, time.time() + 3600)
    row.created_at = timezone.now()
    spread = SPREAD[connection.vendor]
    different = {
        "user": f"%s + n %% {USERS}",
        "identity": DIGEST.format(n="n + 10000000"),
        "fingerprint": DIGEST.format(n="n"),
        "refresh_after": f"CASE WHEN n < {due:d} THEN {spread} ELSE {spread} END",
    }
    columns, values, parameters = [], [], []
    for field in row._meta.concrete_fields:
        if field.primary_key:
            continue
        columns.append(quote(str(field.column)))
        values.append(different.get(field.name, "%s"))
        if field.name == "refresh_after":
            given = [timezone.now() - HOUR, timezone.now() + HOUR]
        else:
            given = [getattr(row, field.attname)]
        if "%s" in values[-1]:
            parameters += [field.get_db_prep_save(value, connection) for value in given]
    digits = " UNION ALL ".join(f"SELECT {digit} AS d" for digit in range(10))
    places = range(len(str(rows - 1)))
    n = " + ".join(f"{10**place} * d{place}.d" for place in places)
    numbers = ", ".join(f"({digits}) d{place}" for place in places)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {quote(row._meta.db_table)} ({', '.join(columns)}) "  # noqa: S608
            f"SELECT {', '.join(values)} FROM (SELECT {n} AS n FROM {numbers}) numbers "
            f"WHERE n < {rows:d}",
            parameters,
        )
    tidy(alias)


def make_due(alias: str) -> None:
    """Everything due again, as it was an hour after the last refresh."""
    rows = LeadExecConnection.objects.using(alias).filter(refresh_after__gt=timezone.now())
    rows.write(refresh_after=timezone.now() - HOUR, lease_until=0)
    tidy(alias)


def tidy(alias: str) -> None:
    """What the server would do by itself, but in the middle of a measurement."""
    statement = {"postgresql": "VACUUM ANALYZE", "mysql": "ANALYZE TABLE"}
    connection = connections[alias]
    if connection.vendor in statement:
        table = connection.ops.quote_name(LeadExecConnection._meta.db_table)
        with connection.cursor() as cursor:
            cursor.execute(f"{statement[connection.vendor]} {table}")
