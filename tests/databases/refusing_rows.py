"""Triggers of the site's, which refuse changes of one row."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, models

# For each database, what a trigger does about a row for which a condition holds.
TRIGGERS = {
    "sqlite": (
        "CREATE TRIGGER refusing BEFORE {event} ON {table} WHEN {condition} "
        "BEGIN SELECT RAISE(ABORT, 'refused'); END"
    ),
    "postgresql": (
        "CREATE TRIGGER refusing BEFORE {event} ON {table} FOR EACH ROW WHEN ({condition}) "
        "EXECUTE FUNCTION refuse()"
    ),
    "mysql": (
        "CREATE TRIGGER refusing BEFORE {event} ON {table} FOR EACH ROW "
        "IF {condition} THEN SIGNAL SQLSTATE '45000'; END IF"
    ),
}
FUNCTION = (
    "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
    "'BEGIN RAISE EXCEPTION ''refused''; END'"
)


@contextmanager
def refusing(row: models.Model, event: str, condition: str = "1 = 1") -> Iterator[None]:
    """The database fails an UPDATE or DELETE of this row where the condition holds."""
    table = row._meta.db_table
    trigger = TRIGGERS[connection.vendor].format(
        event=event, table=table, condition=f"OLD.id = {row.pk} AND {condition}"
    )
    is_postgres = connection.vendor == "postgresql"
    with connection.cursor() as cursor:
        if is_postgres:
            cursor.execute(FUNCTION)
        cursor.execute(trigger)
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"DROP TRIGGER refusing{f' ON {table}' if is_postgres else ''}")
