"""When refusals are believed, when they are doubted, and how many are asked about meanwhile."""

from collections.abc import Callable

import pytest

from django_leadexec.refresh.refusals import DOUBT_THRESHOLD, WINDOW, Refusals


def refuse(refusals: Refusals, times: int) -> None:
    for _ in range(times):
        refusals.record_refusal()


@pytest.mark.parametrize("watching", [False, True])
def test_refusals_without_a_success_are_doubted_from_the_threshold_on(watching: bool) -> None:
    refusals = Refusals(watching=watching)
    refuse(refusals, DOUBT_THRESHOLD - 1)
    assert not refusals.are_credible()
    assert not refusals.are_doubtful()
    refusals.record_refusal()
    assert refusals.are_doubtful()


def test_a_success_clears_them_and_makes_later_ones_credible() -> None:
    refusals = Refusals(watching=False)
    refuse(refusals, DOUBT_THRESHOLD)
    refusals.record_success()
    assert len(refusals) == 0
    refuse(refusals, DOUBT_THRESHOLD * 3)
    assert refusals.are_credible()
    assert not refusals.are_doubtful()


def test_in_a_watch_a_success_speaks_only_for_few_refusals() -> None:
    refusals = Refusals(watching=True)
    refusals.record_success()
    refuse(refusals, DOUBT_THRESHOLD - 1)
    assert refusals.are_credible()
    refusals.record_refusal()
    assert refusals.are_doubtful()


def test_a_success_counts_for_the_window_and_no_longer(
    pass_time: Callable[[float], None],
) -> None:
    refusals = Refusals(watching=False)
    refusals.record_success()
    pass_time(WINDOW - 1)
    assert refusals.are_credible()
    pass_time(1)
    assert not refusals.are_credible()


def test_refusals_older_than_the_window_are_forgotten_and_younger_ones_kept(
    pass_time: Callable[[float], None],
) -> None:
    refusals = Refusals(watching=True)
    refuse(refusals, 3)
    pass_time(WINDOW - 1)
    refuse(refusals, 2)
    refusals.forget_old()
    assert len(refusals) == 5
    pass_time(1)
    refusals.forget_old()
    assert len(refusals) == 2


@pytest.mark.parametrize(
    ("refused", "in_flight", "workers", "may"),
    [
        (0, 0, 4, True),
        (0, DOUBT_THRESHOLD - 1, 4, True),
        (0, DOUBT_THRESHOLD, 4, False),
        (1, DOUBT_THRESHOLD, 4, False),
        (0, DOUBT_THRESHOLD, 64, True),
        (0, 64, 64, False),
        (DOUBT_THRESHOLD - 1, 0, 4, True),
        (DOUBT_THRESHOLD - 1, 1, 4, False),
        (DOUBT_THRESHOLD, 0, 64, False),
    ],
)
def test_no_more_are_asked_than_the_doubt_allows(
    refused: int, in_flight: int, workers: int, may: bool
) -> None:
    refusals = Refusals(watching=False)
    refuse(refusals, refused)
    assert refusals.may_ask(in_flight, workers) is may


def test_after_a_success_any_number_may_be_asked() -> None:
    refusals = Refusals(watching=False)
    refusals.record_success()
    assert refusals.may_ask(10_000, 1)
