"""The watch: when each of its passes begins, and for how long it sleeps."""

import time
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import OperationalError
from time_machine import travel

from django_leadexec.clock import from_timestamp
from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.refresh import Options, Refresher, Report, refresher
from django_leadexec.refresh.circuit_breaker import FAILURE_THRESHOLD
from django_leadexec.refresh.deadline import SHORTEST_CALL
from django_leadexec.refresh.refresher import MAX_SLEEP, MIN_SLEEP, PAUSE_AFTER_REFUSALS

from ..factories import make_connection

# When the watch begins, by a clock that goes on in waits alone.
BEGIN = 1_000.0


class Passes(Refresher):
    """A watch whose passes come to these ends, and take no time.

    An end is an error, or the seconds until the next row is due: 0 if rows are left.
    """

    def __init__(
        self, ends: list[float | OperationalError], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        super().__init__(Options(using="default", chosen=None, revocations=None, watching=True))
        self.is_over: bool = False
        self.now, self.pause = BEGIN, 0.0
        self.stop = SimpleNamespace(wait=self.wait, is_set=lambda: self.is_over)  # type: ignore[assignment]
        self.ends: Iterator[float | OperationalError] = iter(ends)
        self.begun_at: list[float] = []
        self.lengths: list[float | None] = []
        monkeypatch.setattr(refresher, "monotonic", lambda: self.now)

    def wait(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds

    def _new_run(self, seconds: float | None) -> Any:
        report = Report()
        self.lengths.append(seconds)

        def run() -> None:
            self.begun_at.append(self.now)
            end = next(self.ends, None)
            if end is None:
                self.is_over = True
            elif isinstance(end, OperationalError):
                raise end
            else:
                report.left, self.pause = (0, end) if end else (1, MAX_SLEEP)

        return SimpleNamespace(run=run, report=report)

    def _until_next_due(self) -> float:
        return self.pause


def gaps(ends: list[float | OperationalError], monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds between the passes that come to these ends, and the one after them."""
    watch = Passes(ends, monkeypatch)
    watch.watch(lambda report: None, every=3600)
    begun_at = watch.begun_at
    assert begun_at[0] == BEGIN
    return [after - before for before, after in pairwise(begun_at)]


def test_a_pass_begins_when_the_next_row_is_due_and_at_once_while_rows_are_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert gaps([7.5, 0, 0.25, 0], monkeypatch) == [7.5, 0, 0.25, 0]


def test_the_wait_for_a_database_doubles_from_two_seconds_to_a_minute_and_begins_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone = OperationalError("gone")
    waits = [2, 4, 8, 16, 32, 60, 60]
    assert gaps([*[gone] * 7, 5, gone, gone], monkeypatch) == [*waits, 5, 2, 4]


def test_the_counts_are_told_each_time_an_interval_is_over_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch, told_at = Passes([4] * 8, monkeypatch), list[float]()
    watch.watch(lambda report: told_at.append(watch.now - BEGIN), every=10)
    assert told_at == [10, 20, 30, 36]


def test_a_pass_ends_when_the_counts_are_to_be_told_but_has_time_for_a_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = Passes([4, 4, 4], monkeypatch)
    watch.watch(lambda report: None, every=8.25)
    assert watch.lengths == [8.25, 4.25, SHORTEST_CALL, 4.5]


@pytest.mark.parametrize(
    ("report", "pause", "error"),
    [
        (Report(), MAX_SLEEP, ""),
        (Report(left=3), 0, ""),
        (Report(left=3, outage=True), MAX_SLEEP, ""),
        (Report(unreadable=2), MAX_SLEEP, "can be decrypted with none"),
        (Report(everybody_refused=True), PAUSE_AFTER_REFUSALS, "refused every connection"),
    ],
    ids=["nothing left", "rows left", "an outage", "unreadable tokens", "everybody refused"],
)
def test_how_a_pass_ends_tells_when_the_next_begins_and_what_is_logged(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    report: Report,
    pause: float,
    error: str,
) -> None:
    watch = Passes([], monkeypatch)
    watch.pause = MAX_SLEEP
    assert watch._pause_after(report) == pause
    assert bool(caplog.records) is bool(error)
    assert error in caplog.text


def sleep_with(
    *, connection_in: float | None = None, revocation_in: float | None = None, is_down: bool = False
) -> float:
    """The sleep of a watch with a row of each kind that is due in this number of seconds.

    ``is_down``: the last calls to revoke have failed, and the next try is in six seconds.
    """
    watch = Refresher(Options.for_all("default", watching=True))
    with travel(time.time(), tick=False):
        if revocation_in is not None:
            make_connection()
            LeadExecConnection.objects.all().move_to_outbox()
            retry_after = from_timestamp(time.time() + revocation_in)
            PendingRevocation.objects.all().write(retry_after=retry_after)
        if connection_in is not None:
            make_connection(refresh_after=from_timestamp(time.time() + connection_in))
        if is_down:
            watch.health.revoking.failures = FAILURE_THRESHOLD
            watch.health.revoking.seconds_until_probe = lambda: 6.0  # type: ignore[method-assign]
        return watch._until_next_due()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({}, MAX_SLEEP),
        ({"connection_in": 4}, 4),
        ({"connection_in": MAX_SLEEP + 1}, MAX_SLEEP),
        ({"connection_in": -3600}, MIN_SLEEP),
        ({"revocation_in": 3}, 3),
        ({"revocation_in": -3600}, MIN_SLEEP),
        ({"connection_in": 4, "revocation_in": 3}, 3),
        ({"connection_in": 4, "revocation_in": 5}, 4),
        ({"revocation_in": 3, "is_down": True}, 6),
        ({"connection_in": 4, "revocation_in": 3, "is_down": True}, 4),
    ],
    ids=str,
)
def test_it_sleeps_until_the_next_row_is_due_and_not_for_long(
    given: dict[str, Any], seconds: float
) -> None:
    assert sleep_with(**given) == pytest.approx(seconds, abs=0.001)
