"""When the next call may begin, by ``--rate`` and by a Retry-After."""

import threading
from collections.abc import Callable

import pytest

from django_leadexec.refresh.pace import Pace

pytestmark = pytest.mark.usefixtures("pass_time")


class Stop(threading.Event):
    """Notes how long it was waited for, and waits for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return False


def test_calls_begin_at_even_distances() -> None:
    stop = Stop()
    pace = Pace(4, stop)
    for _ in range(4):
        pace.wait()
    assert stop.waits == [0, 0.25, 0.5, 0.75]
    assert pace.seconds_left() == 1


def test_time_without_calls_is_not_made_up_for(pass_time: Callable[[float], None]) -> None:
    stop = Stop()
    pace = Pace(4, stop)
    pace.wait()
    pass_time(60)
    assert pace.seconds_left() < 0
    pace.wait()
    pace.wait()
    assert stop.waits == [0, 0, 0.25]


def test_without_a_rate_nothing_waits() -> None:
    stop = Stop()
    pace = Pace(None, stop)
    pace.wait()
    pace.wait()
    assert stop.waits == []
    assert pace.seconds_left() <= 0


def test_the_longest_of_several_holds_counts(pass_time: Callable[[float], None]) -> None:
    pace = Pace(None, Stop())
    assert pace.held_for() < 0
    pace.hold(10)
    pace.hold(3)
    assert pace.held_for() == 10
    pass_time(11)
    assert pace.held_for() == -1


def test_a_turn_without_a_call_is_the_next_calls_turn() -> None:
    pace = Pace(4, Stop())
    pace.wait()
    pace.give_back(pace.wait())
    assert pace.seconds_left() == 0.25


def test_a_turn_is_not_given_back_once_a_later_one_is_taken() -> None:
    pace = Pace(4, Stop())
    first = pace.wait()
    pace.wait()
    pace.give_back(first)
    assert pace.seconds_left() == 0.5
