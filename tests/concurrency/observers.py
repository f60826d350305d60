"""What is seen of the package from outside: by its provider, at its calls, by who hears signals."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from django.db import connection as database

from django_leadexec.models import LeadExecConnection
from django_leadexec.secret import Secret

from .. import provider as stand_in
from ..provider import Answer, Provider
from .stepped_threads import SteppedThread, changed, handlers, local, pause


@dataclass
class Call:
    action: str
    token: str
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    answer: Answer | None = None


@dataclass
class PausedProvider(Provider):
    """Holds each call back until it is told what to say to it."""

    waiting: list[Call] = field(default_factory=list)
    free: bool = False
    said_no: set[str] = field(default_factory=set)
    unclear: set[str] = field(default_factory=set)
    # Linked on a yes from before a revocation that was over by then: the next refresh tells.
    linked_too_late: set[str] = field(default_factory=set)

    async def _answer(self, target: str, writer: asyncio.StreamWriter) -> None:
        _, action, token = target.partition("?")[0].rsplit("/", 2)
        call = Call(action, token)
        with changed:
            if action == "refreshaccesstoken" and any(
                (other.action, other.token) == (action, token) for other in self.waiting
            ):
                self.overlaps.add(token)
            if not self.free:
                self.waiting.append(call)
                changed.notify_all()
        if not self.free:
            await call.let_go.wait()
        key = token if action == "refreshaccesstoken" else f"disconnect {token}"
        self.answers[key] = call.answer or (
            honest if action == "refreshaccesstoken" else stand_in.disconnected
        )
        await super()._answer(target, writer)

    def let_go(self, call: Call, answer: Answer | None = None) -> None:
        with changed:
            self.waiting.remove(call)
        call.answer = answer
        self._loop.call_soon_threadsafe(call.let_go.set)

    def start_over(self) -> None:
        assert not self.waiting
        self.free = False
        for memory in (self.answers, self.revoked, self.calls, self.refreshes):
            memory.clear()
        for marks in (self.overlaps, self.said_no, self.unclear, self.linked_too_late):
            marks.clear()


def honest(provider: Provider, token: str) -> bytes:
    if token in provider.revoked:
        return saying_no(provider, token)
    return stand_in.fresh(provider, token)


def saying_no(provider: Provider, token: str) -> bytes:
    assert isinstance(provider, PausedProvider)
    provider.said_no.add(token)
    return stand_in.refused(provider, token)


def done_but_unclear(provider: Provider, token: str) -> bytes:
    provider.revoked.add(token)
    return unclear(provider, token)


def unclear(provider: Provider, token: str) -> bytes:
    assert isinstance(provider, PausedProvider)
    provider.unclear.add(token)
    return stand_in.http(b"<h1>Maintenance</h1>", content_type="text/html")


REFRESH_ANSWERS: tuple[Answer, ...] = (
    honest,
    honest,
    saying_no,
    stand_in.unavailable,
    stand_in.throttling(3_600),
    stand_in.reset,
)
DISCONNECT_ANSWERS: tuple[Answer, ...] = (
    stand_in.disconnected,
    stand_in.disconnected,
    stand_in.unavailable,
    done_but_unclear,
    unclear,
    stand_in.reset,
)


class CallLog:
    """What the package's calls looked like from where they were made."""

    def __init__(self) -> None:
        self.under_way: defaultdict[str, list[bool]] = defaultdict(list)
        # Tokens asked about without a lease, as only a caller's transaction, or a callback about a
        # token that is on no row, may do.
        self.unleased: set[str] = set()
        self.overlapping: set[str] = set()
        self.in_transaction: list[str] = []

    def began(
        self,
        thread: SteppedThread | None,
        token: str,
        is_refresh: bool,
        is_leased: bool,
        counts: bool,
    ) -> None:
        with changed:
            if is_refresh and not is_leased:
                self.unleased.add(token)
            if is_leased and any(self.under_way[token]):
                self.overlapping.add(token)
            if is_refresh:
                self.under_way[token].append(is_leased)
            if thread and counts:
                thread.calls.append(token)

    def ended(
        self,
        thread: SteppedThread | None,
        token: str,
        is_refresh: bool,
        is_leased: bool,
        counts: bool,
    ) -> None:
        with changed:
            if is_refresh:
                self.under_way[token].remove(is_leased)
            if thread and counts:
                thread.calls.remove(token)
            changed.notify_all()

    def called_in_a_transaction(self, thread: object, name: str) -> None:
        self.in_transaction.append(name)

    def spy(self, call: Callable[..., Any], *, is_refresh: bool) -> Callable[..., Any]:
        @wraps(call)
        def spied(client: Any, token: str, *args: Any, **kwargs: Any) -> Any:
            thread: SteppedThread | None = getattr(local, "thread", None)
            confirms_a_revocation = getattr(local, "revokes", False)
            if database.in_atomic_block and not (thread and thread.in_transaction):
                handlers["called in a transaction"](thread, call.__name__)
            is_leased = (
                is_refresh
                and not confirms_a_revocation
                and not database.in_atomic_block
                and (
                    thread is None or thread is not threading.current_thread() or thread.is_stepping
                )
            )
            details = (Secret.of(token).reveal(), is_refresh, is_leased, not confirms_a_revocation)
            handlers["began"](thread, *details)
            local.revokes = not is_refresh or confirms_a_revocation
            try:
                return call(client, token, *args, **kwargs)
            finally:
                local.revokes = confirms_a_revocation
                handlers["ended"](thread, *details)

        return spied


class Ears:
    """Hears every signal, and what is wrong with it."""

    def __init__(self) -> None:
        self.heard: set[tuple[object, ...]] = set()
        self.wrong: list[str] = []

    def note(self, thread: object, what: tuple[object, ...], wrong: str) -> None:
        with changed:
            # Two authorizations at once may come to the same.
            if what in self.heard and what[0] != "authorized":
                wrong += " twice"
            self.heard.add(what)
        if wrong:
            self.wrong.append(f"{what} {wrong}")

    def listener(self, name: str) -> Callable[..., None]:
        def hear(connection: LeadExecConnection, **arguments: Any) -> None:
            wrong = "before the commit" if database.in_atomic_block else ""
            row = LeadExecConnection.objects.filter(pk=connection.pk)
            stored = row.values_list("version", flat=True).first()
            if stored is not None and stored < connection.version:
                wrong += " not on file"
            # A revocation ends a row, whatever version it was found in.
            what = (name, connection.pk, name != "revoked" and connection.version)
            handlers["heard"](None, what, wrong)
            pause()

        return hear
