"""The engine as a daemon: what one pass knows of those before it, and what it outlives."""

import time
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from django.db import OperationalError

from django_leadexec.leases import LeasedQuerySet
from django_leadexec.models import LeadExecConnection
from django_leadexec.refresh import (
    Options,
    Refresher,
    Report,
    circuit_breaker,
    refusals,
    turn,
)
from django_leadexec.refresh import (
    refresher as refresher_module,
)
from django_leadexec.refresh import (
    run as run_module,
)

from . import provider as stand_in
from .bounded_watch import stopping_in_time
from .factories import make_connection, make_due_connections
from .provider import Provider

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_breaker, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(refresher_module, "MIN_SLEEP", 0.02)
    monkeypatch.setattr(refresher_module, "MAX_SLEEP", 0.1)


def watching(**changes: Any) -> Refresher:
    return Refresher(Options.for_all("default", watching=True, **changes))


def watch_until(
    refresher: Refresher, seen: Callable[[list[Report]], object], *, every: float = 0.001
) -> list[Report]:
    """The reports of a watch that is stopped when these will do."""
    reports: list[Report] = []

    def look(report: Report) -> None:
        reports.append(report)
        if seen(reports):
            refresher.stop.set()

    with stopping_in_time(refresher):
        refresher.watch(look, every=every)
    return reports


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause is long."""
    monkeypatch.setattr(turn, "LONGEST_HOLD", 0.2)
    monkeypatch.setattr(circuit_breaker, "LONGEST_PAUSE", 0.2)
    monkeypatch.setattr(refresher_module, "PAUSE_AFTER_REFUSALS", 0.2)
    monkeypatch.setattr(refresher_module, "LONGEST_DATABASE_PAUSE", 0.2)


def database_gone(*args: object) -> NoReturn:
    raise OperationalError("gone")


def test_it_tells_how_it_is_when_nothing_is_due() -> None:
    reports = watch_until(watching(), lambda reports: len(reports) == 3, every=0.1)
    assert not any(it.refreshed or it.outage or it.database_failed for it in reports)
    assert len(reports) == 4  # and once more at the end


@pytest.mark.slow
def test_it_tells_how_it_is_while_the_provider_is_down(provider: Provider) -> None:
    make_due_connections(40)
    provider.default = stand_in.unavailable

    def is_enough(reports: list[Report]) -> bool:
        return len(reports) >= 3 and sum(it.failed for it in reports) >= 20

    # A pass ends with its interval, and must have time for its claims before that.
    reports = watch_until(watching(), is_enough, every=1.5)
    assert is_enough(reports[:-1])  # and once more at the end


def test_it_tells_how_it_is_while_the_database_is_down(
    impatience: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LeasedQuerySet, "claim", database_gone)
    reports = watch_until(watching(), lambda reports: len(reports) == 3, every=0.1)
    assert all(it.database_failed for it in reports[:3])
    assert len(reports) == 4


def test_the_counts_of_a_pass_that_lost_the_database_are_kept(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_due_connections(3)
    monkeypatch.setattr(run_module.Run, "_count_rest", database_gone)
    reports = watch_until(watching(), lambda reports: True)
    assert (reports[0].refreshed, reports[0].database_failed) == (3, True)


@pytest.mark.slow
def test_it_outlives_an_outage_of_the_database_of_any_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LeasedQuerySet, "claim", database_gone)
    monkeypatch.setattr(refresher_module, "LONGEST_DATABASE_PAUSE", 0)  # waits for nothing
    # A minute each; from 1,024 on, the doubled pause would be no float any more.
    reports = watch_until(watching(), lambda reports: len(reports) == 1_100)
    assert len(reports) == 1_101  # and once more at the end


def test_it_outlives_an_outage_of_the_provider_of_any_length(
    provider: Provider, impatience: None
) -> None:
    make_due_connections(3)
    refresher = watching(workers=2)

    def still_down(provider: Provider, token: str) -> bytes:
        if provider.calls["refreshaccesstoken"] == 2:
            refresher.stop.set()
        return stand_in.unavailable(provider, token)

    provider.default = still_down
    breaker = refresher.health.refreshing
    breaker.failures, breaker.failed_probes = circuit_breaker.FAILURE_THRESHOLD, 1_100
    with stopping_in_time(refresher):
        report = refresher.run()
    assert report.failed == 2
    assert report.outage


def test_an_outage_that_is_over_is_not_told_of_any_more(provider: Provider) -> None:
    make_due_connections(10)
    answered = []

    def down_for_the_first_probes(provider: Provider, token: str) -> bytes:
        answered.append(token)
        answer = (
            stand_in.unavailable if len(answered) <= circuit_breaker.MAX_PROBES else stand_in.fresh
        )
        return answer(provider, token)

    provider.default = down_for_the_first_probes
    refresher = watching()
    refresher.health.refreshing.failures = circuit_breaker.FAILURE_THRESHOLD
    with stopping_in_time(refresher):
        report = refresher.run()
    assert (report.failed, report.refreshed) == (
        circuit_breaker.MAX_PROBES,
        10 - circuit_breaker.MAX_PROBES,
    )
    assert not report.outage


def test_revocations_that_fail_keep_no_refresh_waiting(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_due_connections(60, "gone")
    LeadExecConnection.objects.all().move_to_outbox()
    monkeypatch.setattr(circuit_breaker, "FIRST_PAUSE", 600)
    monkeypatch.setattr(circuit_breaker, "LONGEST_PAUSE", 600)
    for number in range(60):
        provider.answers[f"disconnect gone-{number}"] = stand_in.unavailable
    make_due_connections(30, "kept")
    reports = watch_until(
        watching(workers=4), lambda reports: sum(it.refreshed for it in reports) == 30
    )
    assert sum(it.refreshed for it in reports) == 30
    # On a busy machine, the time of the first pass is over before its calls are.
    assert any(report.outage for report in reports)
    assert provider.calls["disconnectapplicationtoken"] < 60


@pytest.mark.slow
def test_many_revocations_give_refreshes_a_turn(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_due_connections(200, "gone")
    LeadExecConnection.objects.all().move_to_outbox()
    make_due_connections(5, "kept")
    monkeypatch.setattr(run_module, "REVOCATIONS_FIRST", 0.1)
    provider.latency = 0.02
    told_before: list[int] = []

    def note(provider: Provider, token: str) -> bytes:
        told_before.append(provider.calls["disconnectapplicationtoken"])
        return stand_in.fresh(provider, token)

    provider.default = note
    report = Refresher(Options.for_all("default", workers=2)).run()
    assert (report.revoked, report.refreshed, report.left) == (200, 5, 0)
    assert max(told_before) < 200


@pytest.mark.slow
def test_a_slow_rate_sends_all_revocations_and_is_no_outage(provider: Provider) -> None:
    """Slower than one call in LOOK_AHEAD, so that it waits between two of them."""
    make_due_connections(3, "gone")
    LeadExecConnection.objects.all().move_to_outbox()
    reports = watch_until(
        watching(rate=1), lambda reports: sum(it.revoked for it in reports) == 3, every=0.6
    )
    assert provider.calls["disconnectapplicationtoken"] == 3
    assert not any(it.outage or it.failed for it in reports)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("revoked", "call"), [(False, "refreshaccesstoken"), (True, "disconnectapplicationtoken")]
)
def test_an_outage_makes_few_passes(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, revoked: bool, call: str
) -> None:
    """It waits for the next probe, and does not look for work again and again meanwhile."""
    monkeypatch.setattr(circuit_breaker, "FIRST_PAUSE", 600)
    monkeypatch.setattr(circuit_breaker, "LONGEST_PAUSE", 600)
    # The longest sleep is 0.1 s here. At least as long, so that few passes fit into a report.
    monkeypatch.setattr(refresher_module, "MIN_SLEEP", 0.1)
    make_due_connections(30, "t")
    if revoked:
        LeadExecConnection.objects.all().move_to_outbox()
    provider.default = stand_in.unavailable
    for number in range(30):
        provider.answers[f"disconnect t-{number}"] = stand_in.unavailable
    passes: list[Report] = []
    run = run_module.Run.run

    def count(self: run_module.Run) -> None:
        run(self)
        passes.append(self.report)

    monkeypatch.setattr(run_module.Run, "run", count)
    reports = watch_until(watching(workers=1), lambda reports: len(reports) == 4, every=0.5)
    # A few are under way when the circuit opens.
    assert 20 <= provider.calls[call] < 30
    # Between two reports, as many as there are sleeps.
    assert len(passes) <= 6 * len(reports)


@pytest.mark.slow
def test_rate_holds_from_one_pass_to_the_next(provider: Provider) -> None:
    called_at: list[float] = []

    def note(provider: Provider, token: str) -> bytes:
        called_at.append(time.monotonic())
        return stand_in.fresh(provider, token)

    provider.default = note
    refresher = watching(rate=1)
    began = time.monotonic()  # the first call may take long to arrive
    for _ in range(2):
        make_connection(expires_in=-1)
        refresher.run()
    _, second = called_at
    assert second - began > 0.9


def test_refusals_that_are_far_apart_are_believed(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.default = stand_in.refused
    refresher = watching()
    make_due_connections(12, "first")
    assert refresher.run().rejected == 12
    monkeypatch.setattr(refusals, "WINDOW", 0)
    make_due_connections(12, "second")
    report = refresher.run()
    assert (report.rejected, report.everybody_refused) == (12, False)


def test_a_success_does_not_speak_for_all_the_refusals_after_it(provider: Provider) -> None:
    refresher = watching()
    make_due_connections(5, "good")
    assert refresher.run().refreshed == 5
    provider.default = stand_in.refused
    make_due_connections(100, "then")
    report = refresher.run()
    assert report.everybody_refused
    assert report.rejected < 20


def test_rows_of_another_application_are_counted_and_warned_of_once(
    provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    make_connection("theirs", app_id="another-app", expires_in=-1)
    refresher = watching()
    assert [refresher.run().skipped for _ in range(3)] == [1, 0, 0]
    assert caplog.text.count("were made for another") == 1
