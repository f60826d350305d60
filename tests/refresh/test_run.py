"""A run: in which order it works, and what it counts as left."""

from itertools import count
from typing import Any

import pytest

from django_leadexec.leases import LeasedQuerySet
from django_leadexec.models import LeadExecConnection
from django_leadexec.refresh import Options, Refresher, Report
from django_leadexec.refresh import run as run_module
from django_leadexec.refresh.deadline import Deadline
from django_leadexec.refresh.refusals import DOUBT_THRESHOLD

from .. import provider as stand_in
from ..factories import make_due_connections
from ..provider import Provider

pytestmark = pytest.mark.django_db(transaction=True)


def run(**changes: Any) -> Report:
    return Refresher(Options.for_all("default", **changes)).run()


def test_revocations_that_had_to_wait_are_sent_even_if_everybody_is_refused_meanwhile(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_due_connections(3, "gone")
    LeadExecConnection.objects.all().move_to_outbox()
    make_due_connections(DOUBT_THRESHOLD, "kept")
    # Their time is over at once.
    monkeypatch.setattr(run_module, "REVOCATIONS_FIRST", 0)
    provider.default = stand_in.refused
    report = run()
    assert report.everybody_refused
    assert report.revoked == 3


@pytest.mark.parametrize("limit", [None, 1])
def test_a_row_that_stays_locked_is_left_even_if_it_is_the_last_that_the_run_may_take(
    monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    make_due_connections(1)
    monkeypatch.setattr(LeasedQuerySet, "claim", lambda rows, limit, seconds: [])
    # A hundred seconds pass with each look at the clock, so it waits for no lock.
    monkeypatch.setattr(run_module, "monotonic", count(0.0, 100.0).__next__)
    assert run(limit=limit).left == 1


def test_a_row_that_is_locked_at_first_is_taken_by_the_same_run(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_due_connections(1)
    claim, looks = LeasedQuerySet.claim, count()

    def skip_at_first(rows: LeasedQuerySet[Any], limit: int, seconds: float) -> Any:
        is_locked = rows.model is LeadExecConnection and next(looks) == 0
        return [] if is_locked else claim(rows, limit, seconds)

    monkeypatch.setattr(LeasedQuerySet, "claim", skip_at_first)
    monkeypatch.setattr(run_module, "LOCK_INTERVAL", 0)
    report = run()
    assert (report.refreshed, report.left) == (1, 0)


@pytest.mark.parametrize("rows", [0, 2])
def test_a_run_that_leaves_nothing_waits_for_nothing(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    make_due_connections(rows)
    monkeypatch.setattr(Deadline, "pause", lambda deadline, seconds: pytest.fail("It waits."))
    assert run().refreshed == rows
