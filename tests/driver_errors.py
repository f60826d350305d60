"""Errors of databases, as Django raises them for each driver."""

import sqlite3

from django.db import OperationalError


class PostgresError(Exception):
    def __init__(self, **codes: str) -> None:
        self.__dict__.update(codes)


def caused_by(cause: Exception, *args: object) -> OperationalError:
    error = OperationalError(*args)
    error.__cause__ = cause
    return error


def of_postgres(code: str) -> OperationalError:
    return caused_by(PostgresError(sqlstate=code), "failed")


def of_psycopg2(code: str) -> OperationalError:
    return caused_by(PostgresError(pgcode=code), "failed")


def of_mysql(code: int) -> OperationalError:
    return caused_by(Exception(), code, "failed")


def of_sqlite(code: int) -> OperationalError:
    cause = sqlite3.OperationalError("failed")
    cause.sqlite_errorcode = code
    return caused_by(cause, "failed")
