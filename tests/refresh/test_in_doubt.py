"""A run that ends, or fails, while it doubts the provider's refusals rejects nobody."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import OperationalError
from pytest_django import Settings

from django_leadexec import clock
from django_leadexec.models import ConnectionQuerySet, LeadExecConnection
from django_leadexec.refresh import Options, Refresher, deadline, work
from django_leadexec.refresh.refusals import DOUBT_THRESHOLD
from django_leadexec.refresh.work import ConnectionWork

from .. import provider as stand_in
from ..factories import is_leased, make_connection, make_due_connections
from ..provider import Provider

pytestmark = pytest.mark.django_db(transaction=True)


def one_worker(**options: Any) -> Refresher:
    return Refresher(Options.for_all("default", workers=1, batch_size=DOUBT_THRESHOLD, **options))


def statuses() -> set[str]:
    return set(LeadExecConnection.objects.values_list("status", flat=True))


def at_the_last_refusal(act: Callable[[], object]) -> stand_in.Answer:
    """Refuse everybody, and act before the refusal with which the doubt begins."""

    def answer(provider: Provider, token: str) -> bytes:
        if provider.calls["refreshaccesstoken"] == DOUBT_THRESHOLD:
            act()
        return stand_in.refused(provider, token)

    return answer


def test_a_run_that_is_stopped_in_doubt_rejects_nobody(provider: Provider) -> None:
    make_due_connections(30)
    refresher = one_worker()
    provider.default = at_the_last_refusal(refresher.stop.set)
    report = refresher.run()
    assert (report.rejected, report.failed, report.everybody_refused) == (0, 20, False)
    assert statuses() == {"active"}


def test_a_run_whose_time_is_over_in_doubt_rejects_nobody(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_due_connections(30)
    passed = [0.0]
    monkeypatch.setattr(deadline, "monotonic", lambda: clock.monotonic() + passed[0])
    provider.default = at_the_last_refusal(lambda: passed.append(passed.pop() + 1_000))
    report = one_worker(seconds=500).run()
    assert (report.rejected, report.failed, report.everybody_refused) == (0, 20, False)
    assert statuses() == {"active"}


def test_a_run_that_fails_in_doubt_rejects_nobody(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_due_connections(30)
    provider.default = stand_in.refused

    def fail(work: ConnectionWork) -> list[object]:
        raise OperationalError("gone")

    monkeypatch.setattr(ConnectionWork, "claim_sample", fail)
    with pytest.raises(OperationalError):
        one_worker().run()
    assert statuses() == {"active"}
    assert LeadExecConnection.objects.exclude(last_error="").count() == 20
    assert not any(is_leased(row) for row in LeadExecConnection.objects.all())


def test_one_success_makes_all_later_refusals_of_a_run_credible(provider: Provider) -> None:
    make_due_connections(30)
    make_connection("good", expires_in=-7200)
    provider.default = stand_in.refused
    provider.answers["good"] = stand_in.fresh
    report = one_worker().run()
    assert (report.refreshed, report.rejected, report.everybody_refused) == (1, 30, False)


def test_refusals_add_up_over_the_passes_of_a_watch(provider: Provider) -> None:
    provider.default = stand_in.refused
    refresher = one_worker(watching=True)
    make_due_connections(12, "first")
    assert refresher.run().rejected == 12
    make_due_connections(12, "second")
    report = refresher.run()
    assert (report.rejected, report.everybody_refused) == (0, True)


@pytest.mark.parametrize(
    "no_answer",
    [stand_in.throttling(30), stand_in.throttling(3_600), stand_in.unavailable],
    ids=["a short wait", "a long wait", "an outage"],
)
def test_a_sample_that_is_not_answered_accuses_nobody(
    provider: Provider, no_answer: stand_in.Answer
) -> None:
    make_due_connections(30)
    for number in range(25):
        make_connection(f"well-{number}", expires_in=7_200)

    def answer(provider: Provider, token: str) -> bytes:
        is_in_sample = provider.calls["refreshaccesstoken"] > DOUBT_THRESHOLD
        return (no_answer if is_in_sample else stand_in.refused)(provider, token)

    provider.default = answer
    report = one_worker().run()
    assert (report.rejected, report.everybody_refused, report.outage) == (0, False, True)
    assert report.left == 10
    assert statuses() == {"active"}
    assert not any(is_leased(row) for row in LeadExecConnection.objects.all())


def test_a_sample_that_others_have_locked_ends_no_run(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    # A run waits that long for what others have locked.
    settings.LEADEXEC = settings.LEADEXEC | {"TIMEOUT": 1}
    make_due_connections(30)
    provider.default = stand_in.refused
    claim = ConnectionQuerySet.claim

    def fail_in_doubt(rows: Any, limit: int, seconds: float) -> Any:
        if provider.calls["refreshaccesstoken"] >= DOUBT_THRESHOLD:
            raise OperationalError("locked")
        return claim(rows, limit, seconds)

    monkeypatch.setattr(ConnectionQuerySet, "claim", fail_in_doubt)
    monkeypatch.setattr(work, "is_conflict", lambda error, using: True)
    report = one_worker().run()
    assert (report.rejected, report.failed, report.everybody_refused) == (0, 20, False)
    assert statuses() == {"active"}
