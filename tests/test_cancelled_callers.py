"""Async callers that are cancelled: what they have claimed is written, or given back."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from django.db import DatabaseError, connections
from django.db import connection as database

from django_leadexec import lifecycle, revocation, steps
from django_leadexec.models import ConnectionQuerySet, LeadExecConnection, PendingRevocation
from django_leadexec.steps import Step, Steps

from .factories import is_leased, make_connection, plain
from .processes import await_until, wait_until
from .provider import Provider, refused

pytestmark = pytest.mark.django_db(transaction=True)


def threads_for_the_gone() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "leadexec-owed"]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No thread outlasts a test."""
    yield
    wait_until(lambda: not threads_for_the_gone())


def stored(row: LeadExecConnection) -> LeadExecConnection:
    return LeadExecConnection.objects.get(pk=row.pk)


def is_ended(row: LeadExecConnection) -> bool:
    """Whether the provider's answer is written, and the row free."""
    row = stored(row)
    return plain(row.access_token) == "access-1-for-t" and not is_leased(row)


async def cancel_when(is_time: Callable[[], object], work: Awaitable[object]) -> None:
    task = asyncio.ensure_future(work)
    await await_until(is_time)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@dataclass
class Stop:
    """Stops step ``number``, before or after it has done its work, until ``go`` is set."""

    number: int
    is_before: bool
    reached: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        self.reached.set()
        assert self.go.wait(60)

    def in_steps(self, steps: Steps[Any]) -> Steps[Any]:
        answer, count = None, 0
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                return end.value
            count += 1
            answer = yield self.in_step(step) if count == self.number else step

    def in_step(self, step: Step) -> Step:
        def do() -> Any:
            if self.is_before:
                self.stop()
            answer = step.do()
            if not self.is_before:
                self.stop()
            return answer

        return replace(step, do=do)


@pytest.fixture(params=[1, 2, 3])
def number(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=[True, False], ids=["before", "after"])
def stop(
    request: pytest.FixtureRequest, number: int, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stop]:
    stop = Stop(number, request.param)
    for module in (lifecycle, revocation):
        monkeypatch.setattr(module, "arun", lambda work: steps.arun(stop.in_steps(work)))
    yield stop
    stop.go.set()


async def cancel_there(stop: Stop, work: Awaitable[object]) -> None:
    """The cancelled task is over while the step still stands."""
    await cancel_when(stop.reached.is_set, work)
    stop.go.set()


def test_whichever_step_a_refresh_is_at_its_answer_is_written(
    provider: Provider, stop: Stop
) -> None:
    row = make_connection("t", expires_in=-1)
    async_to_sync(cancel_there)(stop, row.aget_access_token())
    wait_until(lambda: is_ended(row))
    assert provider.refreshes["t"] == 1


def test_whichever_step_a_revocation_is_at_the_provider_is_told(
    provider: Provider, stop: Stop
) -> None:
    row = make_connection("t")
    async_to_sync(cancel_there)(stop, row.arevoke())
    wait_until(lambda: not PendingRevocation.objects.exists())
    assert stored(row).status == "revoked"
    assert provider.revoked == {"t"}


async def hurry_when(is_time: Collection[str], limit: asyncio.Timeout) -> None:
    await await_until(lambda: is_time)
    limit.reschedule(asyncio.get_running_loop().time())


def test_a_caller_in_a_hurry_leaves_the_answer_to_the_row(provider: Provider) -> None:
    row = make_connection("t", expires_in=-1)
    provider.held.set()

    async def ask_in_a_hurry() -> None:
        async with asyncio.timeout(None) as limit:
            hurrying = asyncio.ensure_future(hurry_when(provider.under_way, limit))
            await row.aget_access_token()
        await hurrying

    async def visit() -> None:
        with pytest.raises(TimeoutError):
            await ask_in_a_hurry()
        # The provider is still thinking. Its answer and the end of the event loop come together.
        assert provider.under_way
        provider.held.clear()

    async_to_sync(visit)()
    wait_until(lambda: is_ended(row))
    assert provider.refreshes["t"] == 1


def test_a_step_that_waits_for_its_thread_is_not_begun(provider: Provider) -> None:
    row = make_connection("t", expires_in=-1)
    busy, go = threading.Event(), threading.Event()

    def keep_the_thread_busy() -> None:
        busy.set()
        go.wait(60)

    async def visit() -> None:
        other = asyncio.ensure_future(sync_to_async(keep_the_thread_busy)())
        await cancel_when(busy.is_set, asyncio.sleep(60))
        token = asyncio.ensure_future(row.aget_access_token())
        await asyncio.sleep(0.05)
        token.cancel()
        with pytest.raises(asyncio.CancelledError):
            await token
        go.set()
        await other

    async_to_sync(visit)()
    assert not threads_for_the_gone()
    assert stored(row).lease_until == 0
    assert not provider.calls


def test_a_write_that_waits_for_its_thread_is_done_in_another(provider: Provider) -> None:
    row = make_connection("t", expires_in=-1)
    provider.held.set()
    go = threading.Event()

    async def visit() -> None:
        token = asyncio.ensure_future(row.aget_access_token())
        await await_until(lambda: provider.refreshes["t"])
        # The thread that owns the database connection is busy when the answer comes.
        other = asyncio.ensure_future(sync_to_async(go.wait)(60))
        await asyncio.sleep(0.05)
        provider.held.clear()
        await await_until(lambda: not provider.under_way)
        await asyncio.sleep(0.2)
        token.cancel()
        with pytest.raises(asyncio.CancelledError):
            await token
        await await_until(lambda: not threads_for_the_gone())
        go.set()
        await other

    async_to_sync(visit)()
    assert is_ended(row)


def test_who_waits_for_another_process_just_goes(provider: Provider) -> None:
    row = make_connection("t", expires_in=-1)
    [held] = LeadExecConnection.objects.order_by("pk").claim(1, 60)

    async def visit() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(row.aget_access_token(), 0.3)

    async_to_sync(visit)()
    wait_until(lambda: not threads_for_the_gone())
    assert stored(row).lease_id == held.lease_id
    assert not provider.calls


def test_a_task_that_outlives_its_request_still_writes(provider: Provider) -> None:
    row = make_connection("t", expires_in=-1)
    provider.held.set()
    tasks = []

    async def ask() -> None:
        try:
            await row.aget_access_token()
        finally:
            await sync_to_async(connections.close_all)()

    async def request() -> None:
        # As Django's ASGI handler does for each request: a thread of its own, which ends with it.
        async with ThreadSensitiveContext():
            tasks.append(asyncio.ensure_future(ask()))
            await await_until(lambda: provider.refreshes["t"])
            await sync_to_async(connections.close_all)()

    async def serve() -> None:
        await asyncio.ensure_future(request())
        provider.held.clear()
        # With some versions of asgiref the task fails, as its thread is gone.
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(serve())
    wait_until(lambda: is_ended(row))
    assert provider.refreshes["t"] == 1


def test_a_no_is_written_as_well(provider: Provider, caplog: pytest.LogCaptureFixture) -> None:
    row = make_connection("t", expires_in=-1)
    provider.answers["t"] = refused
    provider.held.set()

    async def visit() -> None:
        await cancel_when(lambda: provider.refreshes["t"], row.aget_access_token())
        provider.held.clear()

    async_to_sync(visit)()
    wait_until(lambda: stored(row).status == "rejected")
    wait_until(lambda: not threads_for_the_gone())
    assert not is_leased(stored(row))
    # asyncio notes what takes long on a busy machine.
    assert not [record for record in caplog.records if record.name != "asyncio"]


def test_a_write_that_fails_gives_the_row_back_and_is_logged(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    row = make_connection("t", expires_in=-1)
    provider.held.set()

    def fail(*args: object) -> None:
        raise DatabaseError("canary")

    monkeypatch.setattr(ConnectionQuerySet, "write_claimed", fail)

    async def visit() -> None:
        await cancel_when(lambda: provider.refreshes["t"], row.aget_access_token())
        provider.held.clear()

    async_to_sync(visit)()
    wait_until(lambda: provider.refreshes["t"] and not threads_for_the_gone())
    assert not is_leased(stored(row))
    assert "has failed: DatabaseError" in caplog.text
    assert "canary" not in caplog.text


@pytest.mark.django_db(transaction=False)
def test_inside_a_callers_transaction_nothing_goes_on_elsewhere(provider: Provider) -> None:
    # Another thread would not see the row, or wait for its lock, until the transaction ends.
    row = make_connection("t", expires_in=-1)
    provider.held.set()

    async def visit() -> None:
        await cancel_when(lambda: provider.refreshes["t"], row.aget_access_token())
        assert not threads_for_the_gone()
        provider.held.clear()

    async_to_sync(visit)()
    assert database.in_atomic_block
    assert not threads_for_the_gone()


def test_a_call_that_fails_gives_the_row_back_and_is_logged(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    row = make_connection("t", expires_in=-1)
    called, go = threading.Event(), threading.Event()

    def fail(*args: object) -> None:
        called.set()
        go.wait(60)
        raise ZeroDivisionError("canary")

    monkeypatch.setattr(lifecycle, "_ask", fail)

    async def visit() -> None:
        await cancel_when(called.is_set, row.aget_access_token())
        go.set()

    async_to_sync(visit)()
    wait_until(lambda: not threads_for_the_gone())
    assert not is_leased(stored(row))
    assert "has failed: ZeroDivisionError" in caplog.text
    assert "canary" not in caplog.text
