"""A turn: when it claims, and when it writes what was answered."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from django_leadexec.conf import get_settings
from django_leadexec.provider.replies import Fresh
from django_leadexec.refresh import Options
from django_leadexec.refresh.deadline import Deadline
from django_leadexec.refresh.health import ProviderHealth
from django_leadexec.refresh.jobs import Answer, Result
from django_leadexec.refresh.turn import LONGEST_HOLD, WRITE_INTERVAL, Turn
from django_leadexec.refresh.work import ConnectionWork
from django_leadexec.secret import Secret

PassTime = Callable[[float], None]


class Work(ConnectionWork):
    """So many rows are due. Notes how many are claimed at once."""

    yields_to_other_work = False

    def __init__(self, rows: int, **changes: Any) -> None:
        options = Options(using="default", chosen=None, revocations=None, **changes)
        super().__init__(options, get_settings(), ProviderHealth(options, threading.Event()), at=0)
        self.rows = rows
        self.claims: list[int] = []
        self.looks = self.given_back = 0

    @property
    def may_take(self) -> float:
        self.looks += 1
        assert self.looks < 1_000, "it goes on for ever"
        return super().may_take

    def give_back(self, jobs: Sequence[Any]) -> None:
        self.given_back += len(jobs)

    def _claim(self, count: int) -> list[Any]:
        assert count > 0
        taken = min(count, self.rows)
        self.rows -= taken
        self.claims.append(taken)
        return [object() for _ in range(taken)]


class Pool:
    """Answers one job after the other, and lets the time pass that each of them takes."""

    call_seconds = 0.1

    def __init__(self, pass_time: PassTime, seconds: float) -> None:
        self.jobs: deque[Any] = deque()
        self.pass_time, self.seconds = pass_time, seconds

    @property
    def in_flight(self) -> int:
        return len(self.jobs)

    def submit(self, job: Any) -> None:
        self.jobs.append(job)

    def collect(
        self, deliver: Callable[[Answer], object], timeout: float, *, in_batches: bool
    ) -> None:
        self.pass_time(self.seconds)
        deliver(Answer(self.jobs.popleft(), Fresh(Secret("access"), 0)))


class Writer:
    """Notes how many answers are written at once."""

    def __init__(self) -> None:
        self.answers = 0
        self.batches: list[int] = []

    def __len__(self) -> int:
        return self.answers

    def add(self, answer: Answer) -> None:
        self.answers += 1
        self.last = answer.result

    def judge_last(self) -> Result:
        return self.last

    def write(self) -> None:
        if self.answers:
            self.batches.append(self.answers)
        self.answers = 0


def make_turn(work: Work, pass_time: PassTime, seconds: float = 0) -> tuple[Turn, Writer]:
    writer, deadline = Writer(), Deadline(None, threading.Event(), is_hard=False)
    turn = Turn(work, Pool(pass_time, seconds), writer, deadline)  # type: ignore[arg-type]
    return turn, writer


def drain(work: Work, pass_time: PassTime, seconds: float = 0) -> list[int]:
    """Do all that is due, with ``seconds`` from one answer to the next; what was written."""
    turn, writer = make_turn(work, pass_time, seconds)
    turn.drain()
    return writer.batches


def test_answers_are_written_when_they_fill_a_batch_and_at_the_end(pass_time: PassTime) -> None:
    assert drain(Work(7, batch_size=3), pass_time) == [3, 3, 1]


@pytest.mark.parametrize(
    ("seconds", "batches"), [(WRITE_INTERVAL, [1] * 7), (WRITE_INTERVAL / 2, [2, 2, 2, 1])]
)
def test_answers_that_come_slowly_are_written_after_half_a_second(
    pass_time: PassTime, seconds: float, batches: list[int]
) -> None:
    assert drain(Work(7), pass_time, seconds) == batches


def test_while_the_workers_have_enough_to_do_nothing_is_claimed_and_later_the_rest(
    pass_time: PassTime,
) -> None:
    work = Work(30, batch_size=10, workers=1)
    assert sum(drain(work, pass_time)) == 30
    assert work.claims[-1] == 0  # none were left


@pytest.mark.parametrize("taken", [3, 4, 5])
def test_it_ends_when_as_many_rows_as_the_limit_or_more_are_taken(
    pass_time: PassTime, taken: int
) -> None:
    """A sample that is asked about in doubt may be larger than the limit leaves."""
    work = Work(10, limit=4)
    work.taken = taken
    assert sum(drain(work, pass_time)) == max(4 - taken, 0)


@pytest.mark.parametrize(
    ("held_for", "yields", "gives_up"),
    [
        (LONGEST_HOLD, False, False),
        (LONGEST_HOLD + 0.1, False, True),
        (0.1, False, False),
        (0.1, True, True),
        (0, True, False),
        (-0.5, True, False),
        (-100, True, False),
    ],
)
def test_it_gives_up_on_a_long_pause_or_on_any_if_other_work_can_be_done_meanwhile(
    pass_time: PassTime, monkeypatch: pytest.MonkeyPatch,
    held_for: float, yields: bool, gives_up: bool,
) -> None:  # fmt: skip
    work = Work(1)
    work.yields_to_other_work = yields
    turn, _writer = make_turn(work, pass_time)
    monkeypatch.setattr(turn.gate, "held_for", lambda: held_for)
    monkeypatch.setattr(turn.gate.deadline, "pause", lambda seconds: None)
    turn._wait()
    assert work.is_unreachable is gives_up


@pytest.mark.parametrize(
    ("seconds", "given_back"), [(WRITE_INTERVAL, 0), (WRITE_INTERVAL + 0.1, 1), (60, 1)]
)
def test_claimed_rows_are_kept_for_a_short_wait_and_given_back_before_a_long_one(
    pass_time: PassTime, monkeypatch: pytest.MonkeyPatch, seconds: float, given_back: int
) -> None:
    work, waits = Work(1), list[float]()
    turn, _writer = make_turn(work, pass_time)
    monkeypatch.setattr(turn.gate, "seconds_to_wait", lambda: seconds)
    monkeypatch.setattr(turn.gate.deadline, "pause", waits.append)
    turn.take_on([object()])  # type: ignore[list-item]
    turn._wait()
    assert (work.given_back, waits) == (given_back, [WRITE_INTERVAL])
