"""Answers that wait for locked rows: how many there are, and when they are given up."""

from collections.abc import Callable

import pytest

from django_leadexec.claims import Claim
from django_leadexec.clock import from_timestamp
from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.provider.replies import Unavailable
from django_leadexec.refresh.recorded import Recorded

pytestmark = pytest.mark.usefixtures("pass_time")

# The time by the clock of ``pass_time``.
NOW = 1_000


def recorded(seconds: float = 60) -> Recorded:
    """One answer of each kind, under leases that end in ``seconds``."""
    ends_at = int((NOW + seconds) * 1000)
    waiting = Recorded()
    connection = LeadExecConnection(pk=3, refresh_after=from_timestamp(NOW))
    waiting.add_connection(Claim(connection, "a lease", ends_at, 1), Unavailable("down"))
    entry = PendingRevocation(pk=4, retry_after=from_timestamp(NOW))
    waiting.add_revocation(Claim(entry, "another lease", ends_at, None), Unavailable("down"))
    return waiting


def test_answers_of_both_kinds_count() -> None:
    waiting = recorded()
    assert len(waiting) == 2
    assert waiting.leases() == {"a lease", "another lease"}


@pytest.mark.parametrize(("seconds", "lapsed"), [(60, 0), (0.001, 0), (0, 2), (-0.5, 2)])
def test_an_answer_lapses_at_the_moment_when_its_lease_ends(seconds: float, lapsed: int) -> None:
    waiting = recorded(seconds)
    assert waiting.drop_lapsed() == lapsed
    assert len(waiting) == 2 - lapsed


@pytest.mark.parametrize("drop", [Recorded.drop, Recorded.drop_lapsed])
def test_each_answer_that_is_lost_is_named_in_the_log(
    caplog: pytest.LogCaptureFixture, drop: Callable[[Recorded], int]
) -> None:
    waiting = recorded(-1)
    named = [str(claim.row) for claim in waiting._claims()]
    assert drop(waiting) == 2
    assert [it.getMessage() for it in caplog.records] == [
        f"LeadExec's answer about the {name} could not be stored in time: another transaction "
        "keeps it locked, or the database has failed."
        for name in named
    ]
