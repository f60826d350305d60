"""Which failures are only because of others, and how long work is tried again."""

import sqlite3
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import OperationalError, connections

from django_leadexec import conflicts
from django_leadexec.conflicts import (
    ATTEMPTS,
    FIRST_RETRY,
    LOCK_PATIENCE,
    LONGEST_RETRY,
    LONGEST_RETRY_OF_LOCK,
    busy_on_conflict,
    is_conflict,
    retry_on_deadlock,
)
from django_leadexec.exceptions import ConnectionBusy

from .driver_errors import of_mysql, of_postgres, of_psycopg2, of_sqlite

DEADLOCK, LOCKED, BROKEN = of_postgres("40P01"), of_postgres("55P03"), of_postgres("57P01")


@pytest.mark.parametrize(
    ("error", "outside", "inside"),
    [
        (DEADLOCK, True, False),
        (of_postgres("40001"), True, False),
        (of_psycopg2("40P01"), True, False),
        (of_mysql(1213), True, False),
        (of_mysql(1020), True, False),
        (LOCKED, True, True),
        (of_psycopg2("55P03"), True, True),
        (of_mysql(1205), True, True),
        (of_mysql(3572), True, True),
        (of_sqlite(sqlite3.SQLITE_BUSY), True, False),
        (of_sqlite(sqlite3.SQLITE_LOCKED), True, False),
        (of_sqlite(sqlite3.SQLITE_BUSY_SNAPSHOT), True, False),
        (BROKEN, False, False),
        (of_mysql(2006), False, False),
        (of_sqlite(sqlite3.SQLITE_CORRUPT), False, False),
        (of_sqlite(sqlite3.SQLITE_READONLY), False, False),
        (OperationalError(), False, False),
    ],
)
def test_inside_a_callers_transaction_only_the_lock_of_a_row_is_worth_another_try(
    monkeypatch: pytest.MonkeyPatch, error: OperationalError, outside: bool, inside: bool
) -> None:
    monkeypatch.setattr(connections["default"], "in_atomic_block", False)
    assert is_conflict(error, "default") is outside
    monkeypatch.setattr(connections["default"], "in_atomic_block", True)
    assert is_conflict(error, "default") is inside


class Work:
    """Fails with these errors in turn, and then succeeds. Time passes only in waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, time_passes: bool) -> None:
        self.errors: Iterator[OperationalError] = iter(())
        self.calls = 0
        self.waits: list[float] = []
        self.now = 1_000.0
        self._time_passes = time_passes
        monkeypatch.setattr(conflicts, "time", SimpleNamespace(sleep=self._sleep))
        monkeypatch.setattr(conflicts, "monotonic", lambda: self.now)
        # No chance, but a number that shows both ends of the range.
        monkeypatch.setattr(conflicts, "jitter", lambda least, most: most + least)
        monkeypatch.setattr(connections["default"], "in_atomic_block", False)

    def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        if self._time_passes:
            self.now += seconds

    def __call__(self) -> str:
        self.calls += 1
        if error := next(self.errors, None):
            raise error
        return "done"


def for_ever(error: OperationalError) -> Iterator[OperationalError]:
    while True:
        yield error


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    return Work(monkeypatch, time_passes=True)


@pytest.mark.parametrize(
    ("error", "longest"), [(DEADLOCK, LONGEST_RETRY), (LOCKED, LONGEST_RETRY_OF_LOCK)]
)
def test_the_waits_double_up_to_the_longest_of_their_kind(
    work: Work, error: OperationalError, longest: float
) -> None:
    work.errors = iter([error] * 12)
    assert retry_on_deadlock("default", work) == "done"
    assert work.calls == 13
    waits = [min(FIRST_RETRY * 2**number, longest) for number in range(12)]
    assert work.waits == pytest.approx([(0.5 + 1) * wait for wait in waits])


@pytest.mark.parametrize("error", [DEADLOCK, LOCKED])
def test_it_is_tried_as_long_as_patience_lasts(work: Work, error: OperationalError) -> None:
    work.errors = for_ever(error)
    with pytest.raises(OperationalError):
        retry_on_deadlock("default", work)
    assert sum(work.waits[:-1]) < LOCK_PATIENCE <= sum(work.waits)


def test_with_a_clock_that_stands_still_the_tries_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = Work(monkeypatch, time_passes=False)
    work.errors = for_ever(LOCKED)
    with pytest.raises(OperationalError):
        retry_on_deadlock("default", work)
    assert work.calls == ATTEMPTS


@pytest.mark.parametrize("run", [retry_on_deadlock, busy_on_conflict])
def test_what_another_try_can_not_heal_is_raised_at_once(
    work: Work, run: Callable[[str, Callable[[], Any]], Any]
) -> None:
    work.errors = for_ever(BROKEN)
    with pytest.raises(OperationalError) as caught:
        run("default", work)
    assert caught.value is BROKEN
    assert work.calls == 1


def test_a_row_that_stays_locked_is_busy(work: Work) -> None:
    work.errors = for_ever(LOCKED)
    with pytest.raises(ConnectionBusy):
        busy_on_conflict("default", work)
