"""The circuit breaker: closed, open, half-open."""

from collections.abc import Callable

import pytest

from django_leadexec.refresh.circuit_breaker import (
    FAILURE_THRESHOLD,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    MAX_PROBES,
    CircuitBreaker,
)


@pytest.fixture
def breaker() -> CircuitBreaker:
    return CircuitBreaker()


def fail(breaker: CircuitBreaker, times: int) -> list[bool]:
    return [breaker.record_failure(is_probe=False) for _ in range(times)]


def test_failures_below_the_threshold_leave_it_closed(breaker: CircuitBreaker) -> None:
    assert fail(breaker, FAILURE_THRESHOLD - 1) == [False] * (FAILURE_THRESHOLD - 1)
    assert breaker.is_closed
    assert breaker.seconds_until_probe() <= 0


def test_the_failure_that_reaches_the_threshold_opens_it(
    breaker: CircuitBreaker, pass_time: Callable[[float], None]
) -> None:
    assert fail(breaker, FAILURE_THRESHOLD)[-1] is True
    assert not breaker.is_closed
    assert breaker.seconds_until_probe() == FIRST_PAUSE


def test_an_answer_in_between_starts_the_count_again(breaker: CircuitBreaker) -> None:
    fail(breaker, FAILURE_THRESHOLD - 1)
    breaker.record_answer()
    fail(breaker, FAILURE_THRESHOLD - 1)
    assert breaker.is_closed


def test_failures_of_calls_that_were_under_way_are_no_probes(
    breaker: CircuitBreaker, pass_time: Callable[[float], None]
) -> None:
    fail(breaker, FAILURE_THRESHOLD)
    assert fail(breaker, 10) == [False] * 10
    assert not breaker.is_exhausted
    assert breaker.seconds_until_probe() == FIRST_PAUSE


def test_after_the_pause_it_is_half_open(
    breaker: CircuitBreaker, pass_time: Callable[[float], None]
) -> None:
    fail(breaker, FAILURE_THRESHOLD)
    pass_time(FIRST_PAUSE)
    assert not breaker.is_closed
    assert breaker.seconds_until_probe() <= 0


def test_each_failed_probe_doubles_the_pause_up_to_the_longest(
    breaker: CircuitBreaker, pass_time: Callable[[float], None]
) -> None:
    fail(breaker, FAILURE_THRESHOLD)
    for expected in (2, 4, 8, 16, 32, LONGEST_PAUSE, LONGEST_PAUSE):
        pass_time(breaker.seconds_until_probe())
        breaker.record_failure(is_probe=True)
        assert breaker.seconds_until_probe() == pytest.approx(expected)


def test_it_is_exhausted_from_the_last_probe_on_and_not_before(breaker: CircuitBreaker) -> None:
    fail(breaker, FAILURE_THRESHOLD)
    for probe in range(1, MAX_PROBES + 3):
        breaker.record_failure(is_probe=True)
        assert breaker.is_exhausted is (probe >= MAX_PROBES)


def test_an_answer_closes_it_and_forgets_the_probes(breaker: CircuitBreaker) -> None:
    fail(breaker, FAILURE_THRESHOLD)
    for _ in range(MAX_PROBES):
        breaker.record_failure(is_probe=True)
    breaker.record_answer()
    assert breaker.is_closed
    assert not breaker.is_exhausted
    fail(breaker, FAILURE_THRESHOLD)
    assert not breaker.is_exhausted
