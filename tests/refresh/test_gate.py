"""The gate: how many rows a turn claims, when a call may begin, and what comes of it."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from django_leadexec.claims import Claim
from django_leadexec.conf import get_settings
from django_leadexec.models import LeadExecConnection
from django_leadexec.provider.replies import Fresh, Unavailable
from django_leadexec.refresh import Options
from django_leadexec.refresh.circuit_breaker import FAILURE_THRESHOLD, FIRST_PAUSE
from django_leadexec.refresh.deadline import Deadline
from django_leadexec.refresh.gate import LOOK_AHEAD, Gate, window
from django_leadexec.refresh.health import ProviderHealth
from django_leadexec.refresh.jobs import NotAsked
from django_leadexec.refresh.refusals import DOUBT_THRESHOLD
from django_leadexec.refresh.work import ConnectionWork
from django_leadexec.secret import Secret

pytestmark = pytest.mark.usefixtures("pass_time")


@dataclass
class Pool:
    in_flight: int = 0
    call_seconds: float = 0.1


@dataclass
class Job:
    """A job under a lease of a minute; ``result`` is returned, or raised."""

    result: Any = None
    calls: ClassVar[int] = 1
    claim: Claim[Any] = field(
        default_factory=lambda: Claim(
            LeadExecConnection(), "lease", int(time.time() * 1000) + 60_000, 1
        )
    )
    deadlines: list[float | None] = field(default_factory=list)

    def call(self, conf: object, deadline: float | None) -> Any:
        self.deadlines.append(deadline)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def options(**changes: Any) -> Options:
    return Options(using="default", chosen=None, revocations=None, **changes)


def make_gate(
    *, seconds: float = 100, run_seconds: float | None = None, hard: bool = False, **changes: Any
) -> Gate:
    chosen, stop = options(**changes), threading.Event()
    work = ConnectionWork(chosen, get_settings(), ProviderHealth(chosen, stop), at=0)
    deadline = Deadline(run_seconds, stop, is_hard=hard)
    return Gate(work, Pool(), deadline, seconds)  # type: ignore[arg-type]


def open_circuit(gate: Gate) -> None:
    for _ in range(FAILURE_THRESHOLD):
        gate.work.breaker.record_failure(is_probe=False)


def call(gate: Gate, job: Job) -> Any:
    return gate.perform(job)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("workers", "batch_size", "rate", "call_seconds", "rows"),
    [
        (16, 200, None, 0.1, 80),
        (4, 200, None, 0.1, 20),
        (16, 200, None, 0.001, 800),
        (16, 10, None, 0.001, 40),
        (16, 200, None, 10, 32),
        (16, 200, 10, 0.1, 6),
        (16, 200, 10, 2, 25),
        (16, 200, 1_000, 0.1, 80),
        (16, 200, 0.5, 0.1, 1),
    ],
)
def test_as_many_rows_are_held_as_the_workers_get_done_in_half_a_second(
    workers: int, batch_size: int, rate: float | None, call_seconds: float, rows: int
) -> None:
    chosen = options(workers=workers, batch_size=batch_size, rate=rate)
    assert window(chosen, call_seconds) == rows


@pytest.mark.parametrize(
    ("batch_size", "in_flight", "waiting", "count"),
    [
        (10, 0, 0, 10),
        (10, 30, 0, 10),
        (10, 31, 0, 0),
        (10, 0, 30, 10),
        (10, 20, 11, 0),
        (200, 0, 0, 80),
        (200, 30, 10, 40),
        (200, 31, 10, 0),
    ],
)
def test_a_batch_is_claimed_once_there_is_room_for_all_of_it(
    batch_size: int, in_flight: int, waiting: int, count: int
) -> None:
    gate = make_gate(batch_size=batch_size)
    gate.pool.in_flight = in_flight
    assert gate.may_claim(waiting) == count


@pytest.mark.parametrize(("taken", "count"), [(0, 5), (4, 1), (5, 0)])
def test_no_more_rows_are_claimed_than_the_limit_leaves(taken: int, count: int) -> None:
    gate = make_gate(limit=5)
    gate.work.taken = taken
    assert gate.may_claim(0) == count


def test_while_the_circuit_is_open_one_row_is_claimed_at_a_time() -> None:
    gate = make_gate()
    open_circuit(gate)
    assert gate.may_claim(0) == 1


def test_a_turn_is_over_when_its_time_is(pass_time: Callable[[float], None]) -> None:
    gate = make_gate(seconds=100)
    pass_time(99)
    assert not gate.is_over()
    assert gate.may_start()
    pass_time(1)
    assert gate.is_over()
    assert not gate.may_start()


def test_a_turn_is_over_when_its_run_is(pass_time: Callable[[float], None]) -> None:
    gate = make_gate(seconds=100, run_seconds=10)
    pass_time(9)
    assert not gate.is_over()
    pass_time(1)
    assert gate.is_over()


@pytest.mark.parametrize("watching", [False, True])
def test_a_provider_out_of_reach_ends_a_single_run_and_no_watch(watching: bool) -> None:
    gate = make_gate(watching=watching)
    gate.give_up()
    assert gate.work.is_unreachable
    assert gate.is_over() is not watching


def test_no_more_calls_begin_than_the_window_has_room_for() -> None:
    gate = make_gate()
    gate.work.health.refusals.record_success()
    gate.pool.in_flight = 79
    assert gate.may_start()
    gate.pool.in_flight = 80
    assert not gate.may_start()


def test_no_more_calls_begin_than_the_doubt_allows() -> None:
    gate = make_gate()
    gate.pool.in_flight = DOUBT_THRESHOLD - 1
    assert gate.may_start()
    gate.pool.in_flight = DOUBT_THRESHOLD
    assert not gate.may_start()


def test_nothing_begins_before_a_retry_after_is_over(pass_time: Callable[[float], None]) -> None:
    gate, job = make_gate(), Job("answer")
    gate.work.health.pace.hold(5)
    pass_time(4)
    assert (gate.held_for(), gate.seconds_to_wait()) == (1, 1)
    assert not gate.may_start()
    assert isinstance(call(gate, job).result, NotAsked)
    pass_time(1)
    assert gate.may_start()
    assert call(gate, job).result == "answer"


def test_a_row_is_claimed_for_a_call_half_a_second_off_and_not_longer(
    pass_time: Callable[[float], None],
) -> None:
    gate = make_gate(rate=1)
    gate.work.health.pace.wait()
    assert gate.seconds_to_wait() == 1 - LOOK_AHEAD
    pass_time(0.25)
    assert not gate.may_start()
    pass_time(0.25)
    assert gate.seconds_to_wait() == 0
    assert gate.may_start()


def test_an_open_circuit_lets_its_probe_pass_after_the_pause_and_nothing_beside_it(
    pass_time: Callable[[float], None],
) -> None:
    gate, probe, another = make_gate(), Job("answer"), Job("answer")
    open_circuit(gate)
    gate.probe = probe  # type: ignore[assignment]
    assert not gate.may_start()
    assert isinstance(call(gate, probe).result, NotAsked)
    pass_time(FIRST_PAUSE)
    assert gate.may_start()
    assert isinstance(call(gate, another).result, NotAsked)
    assert call(gate, probe).result == "answer"
    gate.pool.in_flight = 1
    assert not gate.may_start()


@pytest.mark.parametrize("calls", [1, 2])
def test_a_call_begins_only_if_the_lease_outlasts_it(
    pass_time: Callable[[float], None], monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    monkeypatch.setattr(Job, "calls", calls)
    gate, job = make_gate(), Job("answer")
    pass_time(60 - calls * get_settings().timeout)
    assert call(gate, job).result == "answer"
    pass_time(0.01)
    assert isinstance(call(gate, job).result, NotAsked)


@pytest.mark.parametrize(("hard", "deadline"), [(True, 8), (False, None)])
def test_only_a_hard_deadline_cuts_a_call_short(
    pass_time: Callable[[float], None], hard: bool, deadline: float | None
) -> None:
    gate, job = make_gate(run_seconds=10, hard=hard), Job("answer")
    pass_time(2)
    call(gate, job)
    assert job.deadlines == [deadline]


def test_a_call_that_is_told_to_wait_holds_the_next_one_of_its_own_thread() -> None:
    gate = make_gate()
    call(gate, Job(Unavailable("down")))
    call(gate, Job(Fresh(Secret("access"), 2_000)))
    assert gate.held_for() <= 0
    call(gate, Job(Unavailable("throttled", 7)))
    assert gate.held_for() == 7


def test_a_call_that_fails_unexpectedly_is_told_by_its_kind_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = call(make_gate(), Job(KeyError("secret")))
    assert answer.result == Unavailable("unexpected KeyError")
    assert [record.getMessage() for record in caplog.records] == [
        "A refresh failed unexpectedly: KeyError."
    ]


def test_an_answer_says_how_long_it_took(
    pass_time: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = iter([3.0, 3.25])
    monkeypatch.setattr("time.thread_time", lambda: next(processor))

    class Slow(Job):
        def call(self, conf: object, deadline: float | None) -> Any:
            pass_time(2)

    answer = call(make_gate(), Slow())
    assert (answer.seconds, answer.cpu_seconds) == (2, 0.25)
