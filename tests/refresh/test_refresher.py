"""The watch: when each of its passes begins."""

from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import OperationalError

from django_leadexec.refresh import Options, Refresher, Report, refresher

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
        monkeypatch.setattr(refresher, "monotonic", lambda: self.now)

    def wait(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds

    def _new_run(self, seconds: float | None) -> Any:
        report = Report()

        def run() -> None:
            self.begun_at.append(self.now)
            end = next(self.ends, None)
            if end is None:
                self.is_over = True
            elif isinstance(end, OperationalError):
                raise end
            else:
                report.left, self.pause = int(end == 0), end

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
