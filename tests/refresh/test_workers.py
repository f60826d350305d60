"""The pool of threads: how many there are, and what they hand back."""

import queue
from collections.abc import Iterator
from typing import Any

import pytest

from django_leadexec.refresh.jobs import Answer
from django_leadexec.refresh.workers import FIRST_GUESS, GROWTH, ThreadPool

SIZE = 16


class Calls:
    """A pool whose calls end when the test says so."""

    def __init__(self) -> None:
        self.begun: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.ends: queue.SimpleQueue[tuple[float, float]] = queue.SimpleQueue()
        self.pool = ThreadPool(self._perform, SIZE)
        self.answers: list[Any] = []
        self._submitted = 0

    def _perform(self, job: Any) -> Answer:
        self.begun.put(job)
        return Answer(job, job, *self.ends.get(timeout=30))

    def submit(self, count: int) -> None:
        for _ in range(count):
            self._submitted += 1
            self.pool.submit(self._submitted)  # type: ignore[arg-type]

    def wait_begun(self, count: int) -> None:
        for _ in range(count):
            self.begun.get(timeout=30)

    def end(self, seconds: float = 1.0, cpu_seconds: float = 0.25) -> None:
        self.ends.put((seconds, cpu_seconds))

    def collect(self, timeout: float) -> None:
        self.pool.collect(self._deliver, timeout, in_batches=False)

    def finish(self) -> None:
        self.pool.finish(self._deliver)

    def _deliver(self, answer: Answer) -> None:
        self.answers.append(answer.result)

    @property
    def threads(self) -> int:
        return len(self.pool._threads)


@pytest.fixture
def calls() -> Iterator[Calls]:
    running = Calls()
    yield running
    for _ in range(100):
        running.end()
    running.finish()


def test_it_begins_with_one_thread_and_grows_up_to_its_size_while_all_wait(calls: Calls) -> None:
    calls.submit(100)
    seen = []
    for _ in range(4):
        seen.append(calls.threads)
        calls.collect(0.001)
    assert seen == [1, GROWTH, SIZE, SIZE]


def test_it_has_no_more_threads_than_jobs(calls: Calls) -> None:
    calls.submit(3)
    calls.collect(0.001)
    assert calls.threads == 3


@pytest.mark.parametrize(
    ("cpu_seconds", "threads"), [(0.5, 1), (0.25, 2), (1 / 6, 3), (1 / 16, GROWTH), (0.0, 1)]
)
def test_half_as_many_threads_are_useful_as_calls_fit_beside_their_computing(
    calls: Calls, cpu_seconds: float, threads: int
) -> None:
    calls.submit(50)
    calls.wait_begun(1)
    calls.end(1.0, cpu_seconds)
    calls.wait_begun(1)  # the second has begun, so the answer to the first is there
    calls.collect(30)
    assert calls.threads == threads


def test_an_answer_is_handed_back_once_and_counts_for_how_long_a_call_takes(calls: Calls) -> None:
    calls.submit(3)
    calls.wait_begun(1)
    calls.end(FIRST_GUESS + 1.6, 1.0)
    calls.wait_begun(1)
    calls.collect(30)
    assert calls.answers == [1]
    assert calls.pool.in_flight == 2
    assert calls.pool.call_seconds == pytest.approx(FIRST_GUESS + 0.1)


def test_finishing_delivers_what_is_under_way_and_ends_the_threads(calls: Calls) -> None:
    calls.submit(2)
    calls.end()
    calls.end()
    calls.finish()
    assert calls.answers == [1, 2]
    assert calls.pool.in_flight == calls.threads == 0


def test_whoever_raises_while_answers_are_handed_back_loses_none(calls: Calls) -> None:
    def keep_and_raise(answer: Answer) -> None:
        calls.answers.append(answer.result)
        raise KeyboardInterrupt

    calls.submit(5)
    for _ in range(5):
        calls.end()
    calls.wait_begun(2)  # by the one thread, which has answered the first by then
    with pytest.raises(KeyboardInterrupt):
        calls.pool.collect(keep_and_raise, 30, in_batches=False)
    calls.finish()
    assert calls.answers == [1, 2, 3, 4, 5]
