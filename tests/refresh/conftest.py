"""Clocks that a test moves."""

from collections.abc import Callable

import pytest


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let seconds pass by the clocks, which stand still otherwise."""
    now = [1_000.0]
    monkeypatch.setattr("time.clock_gettime", lambda clock: now[0])
    monkeypatch.setattr("time.time", lambda: now[0])

    def pass_seconds(seconds: float) -> None:
        now[0] += seconds

    return pass_seconds
