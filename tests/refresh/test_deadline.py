"""How long a run may go on, and how long a call of it."""

import threading
from collections.abc import Callable

import pytest

from django_leadexec.refresh.deadline import SHORTEST_CALL, Deadline

pytestmark = pytest.mark.usefixtures("pass_time")


def test_calls_begin_until_the_time_is_over(pass_time: Callable[[float], None]) -> None:
    deadline = Deadline(10, threading.Event(), is_hard=False)
    pass_time(9.75)
    assert not deadline.is_over()
    assert deadline.seconds_for_a_call() is None
    pass_time(0.25)
    assert deadline.is_over()


def test_before_a_hard_deadline_no_call_begins_that_could_hardly_end(
    pass_time: Callable[[float], None],
) -> None:
    deadline = Deadline(10, threading.Event(), is_hard=True)
    pass_time(9.25)
    assert not deadline.is_over()
    assert deadline.seconds_for_a_call() == 0.75
    pass_time(0.75 - SHORTEST_CALL)
    assert deadline.is_over()


def test_a_call_has_some_time_even_when_it_begins_too_late(
    pass_time: Callable[[float], None],
) -> None:
    deadline = Deadline(10, threading.Event(), is_hard=True)
    pass_time(20)
    left = deadline.seconds_for_a_call()
    assert left is not None
    assert 0 < left < SHORTEST_CALL


def test_without_a_limit_it_is_over_only_when_stopped_or_closed(
    pass_time: Callable[[float], None],
) -> None:
    stop = threading.Event()
    stopped, closed = Deadline(None, stop, is_hard=False), Deadline(None, stop, is_hard=False)
    pass_time(1e9)
    assert not closed.is_over()
    closed.close()
    assert closed.is_over()
    assert not stopped.is_over()
    stop.set()
    assert stopped.is_over()
