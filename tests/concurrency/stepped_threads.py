"""Threads that stop at each pause, so that a test chooses whose step comes next."""

import multiprocessing
import threading
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial, wraps
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connection as database

from django_leadexec.claims import Claim
from django_leadexec.clock import from_timestamp
from django_leadexec.models import LeadExecConnection

from .test_interleavings import run_with_pauses
from .threads import Thread, Work

# Seconds, of waiting only, for all but who stands before another's lock.
PATIENCE = 120

changed = threading.Condition()
local = threading.local()


class SteppedThread(Thread):
    """Runs until it stops at a pause, waits for the provider, or is blocked in the database."""

    def __init__(
        self, name: str, work: Work, judge: Callable[[object], object], clock_error: float
    ) -> None:
        super().__init__(work)
        self.name = name
        self.clock_error = clock_error
        self.judge = judge
        self.stopped = self.done = self.free = self.holds_locks = False
        # What it does next is to write these rows under their lease.
        self.writes: list[Claim[LeadExecConnection]] = []
        # The tokens of its calls to the provider that have not come back.
        self.calls: list[str] = []
        # Whether a transaction of the caller is part of it.
        self.in_transaction = False
        self.is_stepping = False

    def run(self) -> None:
        local.thread = self
        with database.execute_wrapper(pause_before):
            super().run()
        with changed:
            self.done = True
            changed.notify_all()

    def set_free(self) -> None:
        with changed:
            self.free = True
            changed.notify_all()

    def go(self) -> None:
        with changed:
            self.stopped = False
            changed.notify_all()

    def stop(self) -> None:
        with changed:
            if self.free:
                return
            self.holds_locks = database.in_atomic_block
            self.stopped = True
            changed.notify_all()
            assert changed.wait_for(lambda: self.free or not self.stopped, PATIENCE)
            self.stopped = False


def pause(writes: list[Claim[LeadExecConnection]] | None = None) -> None:
    """Stop the stepped thread that calls this, but not amid a transaction of the package."""
    thread = threading.current_thread()
    if not isinstance(thread, SteppedThread):
        return
    if not database.in_atomic_block or thread.in_transaction:
        thread.writes = writes or []
        thread.stop()
        thread.writes = []


def pause_before(execute: Any, sql: str, *args: Any) -> Any:
    if "django_leadexec_" in sql and not database.in_atomic_block:
        pause()
    return execute(sql, *args)


# What the model wants to know of a thread; one in another process tells it through a pipe.
handlers: dict[str, Callable[..., None]] = {}


class Clock:
    """The module ``time``, but that the clocks of machines differ, and that time can pass."""

    def __init__(self) -> None:
        # Shared with processes that are forked later.
        self.passed = multiprocessing.RawValue("d", 0.0)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def time(self) -> float:
        thread: SteppedThread | None = getattr(local, "thread", None)
        return float(time.time() + self.passed.value + (thread.clock_error if thread else 0))

    def now(self) -> datetime:
        return from_timestamp(self.time())


clock = Clock()


def run_stepwise(steps: Any) -> Any:
    thread = getattr(local, "thread", None)
    if thread is None:
        return run_with_pauses(steps, lambda: None)
    thread.is_stepping = True
    try:
        return run_with_pauses(steps, pause)
    finally:
        thread.is_stepping = False


async def arun_stepwise(steps: Any) -> Any:
    thread = await sync_to_async(lambda: local.thread)()
    answer = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as stop:
            return stop.value
        do = partial(do_as_part_of, thread, step.do)
        answer = await sync_to_async(do, thread_sensitive=step.touches_database)()
        await sync_to_async(pause)()


def do_as_part_of(thread: SteppedThread, do: Callable[[], Any]) -> Any:
    local.thread = thread
    return do()


def between_pauses(work: Callable[..., Any]) -> Callable[..., Any]:
    def paused(*args: Any) -> Any:
        pause()
        result = work(*args)
        pause()
        return result

    return paused


def pausing(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def paused(self: Any, *args: Any, **kwargs: Any) -> Any:
        is_write = method.__name__ == "write_claimed" and not database.in_atomic_block
        pause(list(args[0]) if is_write else None)
        result = method(self, *args, **kwargs)
        if method.__name__ == "claim" and (thread := getattr(local, "thread", None)):
            for claim in result:
                claim.row.thread = thread
        pause()
        return result

    return paused


def of_its_claimer(call: Callable[..., Any]) -> Callable[..., Any]:
    """A call of the bulk refresh counts for the stepped thread that has claimed its row."""

    @wraps(call)
    def attributed(self: Any, *args: Any) -> Any:
        local.thread = getattr(self.claim.row, "thread", None)
        return call(self, *args)

    return attributed
