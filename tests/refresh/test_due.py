"""What is due: when each row's time has come, and what belongs to others."""

import time
from dataclasses import replace
from typing import Any

import pytest

from django_leadexec.clock import from_timestamp
from django_leadexec.conf import get_settings
from django_leadexec.leases import CLOCK_SKEW
from django_leadexec.refresh import Options
from django_leadexec.refresh.due import count_due, count_foreign, due_connections

from ..factories import make_connection

pytestmark = pytest.mark.django_db(transaction=True)

# When the run has begun.
AT = 1_000_000_000


def options(**changes: Any) -> Options:
    return Options.for_all("default", **changes)


@pytest.mark.parametrize(
    ("longer", "last"),
    [(None, 0), (0, 0), (100, 100), (-100, -100)],
    ids=["no margin given", "the same margin", "a longer margin", "a shorter margin"],
)
def test_a_row_is_due_when_its_time_has_come_and_not_a_second_before(
    longer: int | None, last: int
) -> None:
    conf = get_settings()
    within = None if longer is None else conf.refresh_margin + longer
    for token, seconds in [("due", last), ("early", last + 1)]:
        make_connection(token, refresh_after=from_timestamp(AT + seconds))
    rows = due_connections(options(within=within), conf, AT)
    assert [row.refresh_token.decrypt().reveal() for row in rows] == ["due"]


@pytest.mark.parametrize(
    ("changes", "is_due"),
    [({}, True), ({"longer": -1}, True), ({"longer": 0.5}, False), ({"everything": True}, False)],
    ids=["as usual", "a shorter margin", "a longer margin", "everything"],
)
def test_what_the_run_has_dealt_with_is_no_longer_due_even_if_it_is_taken_ahead_of_its_time(
    changes: dict[str, Any], is_due: bool
) -> None:
    conf = get_settings()
    if longer := changes.pop("longer", None):
        changes["within"] = conf.refresh_margin + longer
    # As of a row that was released one second after the run has begun.
    released = (AT + 1 - CLOCK_SKEW) * 1000
    make_connection(refresh_after=from_timestamp(AT - 60), lease_until=released)
    assert due_connections(options(**changes), conf, AT).exists() is is_due


def test_the_rows_of_all_other_applications_are_counted_whatever_their_names() -> None:
    for app_id in ("another", "test-app", "yet another", "yet another"):
        make_connection(app_id=app_id, expires_in=-1)
    conf = get_settings()
    assert conf.app_id == "test-app"
    at = from_timestamp(AT).timestamp()
    assert count_foreign(options(), conf, at) == 0
    assert count_foreign(options(everything=True), conf, at) == 3


def test_a_run_that_leaves_connections_out_counts_none_of_them() -> None:
    make_connection(expires_in=-1)
    everything = options()
    assert count_due(everything, get_settings(), time.time()) == (1, 0)
    left_out = replace(everything, chosen=None)
    assert count_due(left_out, get_settings(), time.time()) == (0, 0)
