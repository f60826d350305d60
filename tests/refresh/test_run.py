"""A run: in which order it works, and what it counts as left."""

from itertools import count
from typing import Any

import pytest

from django_leadexec.leases import LeasedQuerySet
from django_leadexec.models import LeadExecConnection
from django_leadexec.refresh import Options, Refresher, Report
from django_leadexec.refresh import run as run_module
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
