"""The work of a run: in which order connections are claimed."""

import threading
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from django_leadexec.clock import from_timestamp
from django_leadexec.conf import get_settings
from django_leadexec.refresh import Options
from django_leadexec.refresh.health import ProviderHealth
from django_leadexec.refresh.work import QUEUE_TIME, ConnectionWork

from ..factories import lease_left, make_connection

pytestmark = pytest.mark.django_db(transaction=True)

# When the run has begun.
AT = 1_000_000_000


def connection_work(**changes: Any) -> ConnectionWork:
    options = Options.for_all("default", **changes)
    return ConnectionWork(
        options, get_settings(), ProviderHealth(options, threading.Event()), at=AT
    )


def make_rows(*seconds_due: int) -> list[int]:
    """Rows that have each been due for this number of seconds; their keys."""
    return [
        make_connection(refresh_after=from_timestamp(AT - seconds)).pk for seconds in seconds_due
    ]


def claim(work: ConnectionWork) -> int | None:
    """The key of the row that is claimed next."""
    jobs = work.claim(1)
    return int(jobs[0].claim.row.pk) if jobs else None


def test_the_longest_due_is_claimed_first_whatever_its_key() -> None:
    first, second, third = make_rows(20, 30, 10)
    work = connection_work()
    assert [claim(work) for _ in range(4)] == [second, first, third, None]


@pytest.mark.parametrize("count", [1, 2])
def test_a_run_over_all_takes_up_what_was_given_back_after_the_others(count: int) -> None:
    rows = make_rows(20, 30, 10)
    work = connection_work(everything=True)
    work.give_back(work.claim(count))
    assert [claim(work) for _ in range(4)] == [*rows[count:], *rows[:count], None]


def test_a_run_over_all_that_finds_no_row_looks_again_only_for_what_was_given_back() -> None:
    def looks(work: ConnectionWork) -> int:
        with CaptureQueriesContext(connection) as queries:
            assert claim(work) is None
        return sum(query["sql"].startswith("SELECT") for query in queries)

    work = connection_work(everything=True)
    assert looks(work) == 1
    make_rows(20)
    assert claim(work)
    assert [looks(work) for _ in range(2)] == [2, 1]


def test_the_limit_is_for_the_rows_that_are_kept() -> None:
    work = connection_work(limit=2)
    assert work.may_take == 2
    make_rows(10, 20)
    jobs = work.claim(2)
    assert work.may_take == 0
    work.give_back(jobs[:1])
    assert work.may_take == 1
    assert connection_work().may_take == float("inf")


def test_a_claim_lasts_for_the_wait_and_the_call_and_blocks_nobody_for_long_after_a_crash() -> None:
    make_rows(10)
    [job] = connection_work().claim(1)
    job.claim.row.refresh_from_db()
    longest_call = get_settings().timeout
    assert QUEUE_TIME + longest_call <= lease_left(job.claim.row) <= 2 * QUEUE_TIME
