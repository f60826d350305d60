"""One connection at a time: get its access token, revoke it.

The ways that wait for the provider are written once, as generators of steps, and run by ``_run``
for sync and ``_arun`` for async callers: database steps in the thread that owns the database
connection, network steps outside of any transaction.
"""

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db import connections, router, transaction

from . import signals
from .client import (
    Fresh,
    RefreshOutcome,
    Refused,
    Revoked,
    RevokeOutcome,
    Unavailable,
    get_client,
)
from .conf import Settings, get_settings
from .exceptions import AuthorizationRejected, DecryptionFailed, ProviderUnavailable
from .models import LeadExecConnection, PendingRevocation, despite_deadlocks, writing
from .session import LeadExecSession

T = TypeVar("T")
POLL = 0.05


# Steps


@dataclass(frozen=True)
class _Step:
    do: Callable[[], Any]
    touches_database: bool


def _database(do: Callable[[], Any]) -> _Step:
    return _Step(do, touches_database=True)


def _network(do: Callable[[], Any]) -> _Step:
    return _Step(do, touches_database=False)


_Steps = Generator[_Step, Any, T]


def _run(steps: _Steps[T]) -> T:
    answer = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result
        answer = step.do()


async def _arun(steps: _Steps[T]) -> T:
    answer = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result
        answer = await sync_to_async(step.do, thread_sensitive=step.touches_database)()


# Access tokens


def get_access_token(connection: LeadExecConnection, min_ttl: float = 60) -> str:
    """The stored token while it lives ``min_ttl`` seconds more, else a fresh one.

    In one process at a time: others wait for its answer. Inside a caller's transaction nothing is
    claimed, as nobody would see it and it would hold locks through the call.
    Raises AuthorizationRejected, ProviderUnavailable, DecryptionFailed.
    """
    return _run(_access_token(connection, lambda row: row.lives(min_ttl)))


async def aget_access_token(connection: LeadExecConnection, min_ttl: float = 60) -> str:
    """``get_access_token`` for async code."""
    return await _arun(_access_token(connection, lambda row: row.lives(min_ttl)))


def open_session(connection: LeadExecConnection) -> LeadExecSession:
    """A session that calls LeadExec's API on behalf of the connection's user."""

    def get_token(refused: str | None) -> str:
        if refused is None:
            return get_access_token(connection)
        return _run(
            _access_token(connection, lambda row: row.lives(0) and row.access_token != refused)
        )

    return LeadExecSession(get_token)


def _access_token(
    connection: LeadExecConnection, suffices: Callable[[LeadExecConnection], bool]
) -> _Steps[str]:
    row = yield from _refreshed(connection, suffices)
    return row.access_token


def verify(connection: LeadExecConnection) -> LeadExecConnection:
    """Ask the provider now whether it still honours a connection; its row, with the answer.

    Raises what ``get_access_token`` raises.
    """
    asked_at = time.time()

    def refreshed_since(row: LeadExecConnection) -> bool:
        return row.refreshed_at is not None and row.refreshed_at.timestamp() >= asked_at

    return _run(_refreshed(connection, refreshed_since, insist=True))


def _refreshed(
    connection: LeadExecConnection,
    suffices: Callable[[LeadExecConnection], bool],
    *,
    insist: bool = False,
) -> _Steps[LeadExecConnection]:
    """The connection's row once it suffices, refreshed by us or by whoever holds its lease.

    ``insist``: ask the provider even about a rejected row, or one in backoff.
    """
    conf = get_settings()
    using = database_of(connection)
    give_up_at = time.monotonic() + conf.timeout
    while True:
        begun: tuple[LeadExecConnection | None, str | None] = yield _database(
            lambda: _begin(connection.pk, using, conf, suffices, insist)
        )
        row, token = begun
        if row is not None and token is None:
            return row
        if row is not None and token is not None:
            outcome = yield _network(partial(_ask, row, token, conf))
            if outcome is None:
                yield _database(partial(LeadExecConnection.objects.using(using).release, [row]))
                continue
            if (yield _database(partial(_finish, row, outcome, using))):
                _raise_unless_fresh(outcome)
                return row
            # Somebody revoked it or authorized it anew meanwhile: what counts is what they wrote.
            # A transaction that sees only what was there when it began never gets to see that.
        if time.monotonic() > give_up_at:
            raise ProviderUnavailable("Another process is refreshing this connection, and is late.")
        yield _network(lambda: time.sleep(POLL))


def _begin(
    pk: int,
    using: str,
    conf: Settings,
    suffices: Callable[[LeadExecConnection], bool],
    insist: bool,
) -> tuple[LeadExecConnection | None, str | None]:
    """The row alone if it suffices, with its refresh token if it is ours to ask about, or neither
    if another holds it."""
    only = LeadExecConnection.objects.using(using).filter(pk=pk)
    row = only.first()
    if row is None:
        raise AuthorizationRejected("This connection no longer exists.")
    if _judge(row, conf, suffices, insist):
        return row, None
    if connections[using].in_atomic_block:
        row.claimed_version = row.version
        return row, row.refresh_token
    claimed = only.live().claim(1, lease_seconds(conf))
    if not claimed:
        return None, None
    row = claimed[0]
    try:
        if _judge(row, conf, suffices, insist):
            only.release(claimed)
            return row, None
        return row, row.refresh_token
    except Exception:
        only.release(claimed)
        raise


def _judge(
    row: LeadExecConnection,
    conf: Settings,
    suffices: Callable[[LeadExecConnection], bool],
    insist: bool,
) -> bool:
    """Whether the row will do as it is. Raises if it can't, and asking would not help."""
    if row.status == row.Status.REVOKED:
        raise AuthorizationRejected("This connection has been revoked.")
    if row.app_id != conf.app_id:
        raise AuthorizationRejected("This connection was made for another LEADEXEC['APP_ID'].")
    if row.status == row.Status.REJECTED and not insist:
        raise AuthorizationRejected("LeadExec refuses this connection; the user can connect anew.")
    if suffices(row):
        return True
    wait = row.refresh_after.timestamp() - time.time() if row.refresh_after else 0
    if row.attempts and wait > 0 and not insist:
        raise ProviderUnavailable(
            "LeadExec could not be reached a moment ago; it is asked again later.",
            retry_after=wait,
        )
    return False


def _ask(row: LeadExecConnection, token: str, conf: Settings) -> RefreshOutcome | None:
    """The provider's answer; None if the lease could end before it, and somebody else ask, too.

    That takes a process that was stopped for a while, or threads for async code that were all busy.
    """
    if row.holds_lease and row.lease_left() < conf.timeout:
        return None
    return get_client().refresh(token, conf.app_id)


def _finish(row: LeadExecConnection, outcome: RefreshOutcome, using: str) -> bool:
    """Write what the provider said; whether it still counted."""
    record(row, outcome)
    lost = LeadExecConnection.objects.using(using).write_claimed([row])
    if lost:
        return False
    announce(row, outcome)
    return True


def record(row: LeadExecConnection, outcome: RefreshOutcome) -> None:
    """Put the provider's answer on a claimed row, still unwritten."""
    if isinstance(outcome, Fresh):
        row.record_success(outcome.access_token, outcome.expires_at)
    elif isinstance(outcome, Refused):
        row.record_refusal(outcome.reason)
    else:
        row.record_trouble(outcome.reason, outcome.retry_after)


def announce(row: LeadExecConnection, outcome: RefreshOutcome) -> None:
    """Send the signal for an answer that has been written, if it changed anything."""
    if row.version == row.claimed_version and not row.is_given_up:
        return
    if isinstance(outcome, Fresh):
        signals.announce(signals.connection_refreshed, row)
    elif isinstance(outcome, Refused):
        gone = row.is_given_up
        signals.announce(signals.connection_revoked if gone else signals.connection_rejected, row)


def lease_seconds(conf: Settings) -> float:
    """How long a claim on one row lasts: connecting and reading at their slowest, and some."""
    return 2 * conf.timeout + 5


def _raise_unless_fresh(outcome: RefreshOutcome) -> None:
    if isinstance(outcome, Refused):
        raise AuthorizationRejected(f"LeadExec refuses this authorization: {outcome.reason}.")
    if not isinstance(outcome, Fresh):
        raise ProviderUnavailable(
            f"LeadExec could not be asked: {outcome.reason}.", retry_after=outcome.retry_after
        )


def usable_connection(user: AbstractBaseUser | AnonymousUser) -> LeadExecConnection | None:
    """The user's newest active connection of the configured application, if there is one."""
    rows = LeadExecConnection.objects.using(database_of()).active().for_user(user)
    return rows.filter(app_id=get_settings().app_id).order_by("-pk").first()


def database_of(connection: LeadExecConnection | None = None) -> str:
    """The alias to decide about tokens on: the primary, never a replica that may lag behind."""
    alias: str = router.db_for_write(LeadExecConnection, instance=connection)
    return alias


# Revoking


def revoke(connection: LeadExecConnection) -> bool:
    """Stop all use of a connection at once, and tell the provider.

    True when the provider has confirmed, False when telling it is queued: it could not be reached,
    or the caller is inside a transaction, whose commit comes first.
    """
    return _run(_revocation(connection))


async def arevoke(connection: LeadExecConnection) -> bool:
    """``revoke`` for async code."""
    return await _arun(_revocation(connection))


def _revocation(connection: LeadExecConnection) -> _Steps[bool]:
    conf, using = get_settings(), database_of(connection)
    entry = yield _database(lambda: _move_to_outbox(connection, using, conf))
    return (yield from _telling(entry, conf))


def _move_to_outbox(
    connection: LeadExecConnection, using: str, conf: Settings
) -> PendingRevocation | bool:
    """Revoke the row; its claimed outbox entry, or as ``_claim_entry``. False if telling waits
    for a caller's commit."""
    mine = LeadExecConnection.objects.using(using).filter(pk=connection.pk)
    waits = connections[using].in_atomic_block

    def move() -> PendingRevocation | bool:
        with writing(using):
            # Before the row is revoked, which erases it; from memory if it is revoked already.
            stored = mine.live().locked().values_list("fingerprint", flat=True).first()
            fingerprint = stored or connection.fingerprint or ""
            mine.move_to_outbox()
            if waits:
                transaction.on_commit(
                    lambda: tell_now(fingerprint, using), using=using, robust=True
                )
                return False
            # Before a key rotation can change the fingerprint, and make it look as if it was told.
            return _claim_entry(fingerprint, using, conf)

    entry = despite_deadlocks(using, move)
    connection.status = connection.Status.REVOKED
    connection.access_token = connection.refresh_token = ""  # nosec B105 # erased
    return entry


def tell_now(fingerprint: str, using: str | None = None) -> bool:
    """Try the outbox entry of one token; whether the provider has confirmed it."""
    conf = get_settings()
    return _run(_telling(_claim_entry(fingerprint, using or database_of(), conf), conf))


def _telling(entry: PendingRevocation | bool, conf: Settings) -> _Steps[bool]:
    """Tell the provider of a claimed entry; whether it is out of the outbox."""
    if isinstance(entry, bool):
        return entry
    outcome = yield _network(lambda: tell(entry, conf))
    yield _database(lambda: record_telling(entry, outcome))
    return isinstance(outcome, Revoked)


def _claim_entry(fingerprint: str, using: str, conf: Settings) -> PendingRevocation | bool:
    """The outbox entry of a token; False if another holds it, True if there is none."""
    entries = PendingRevocation.objects.using(using).filter(fingerprint=fingerprint)
    claimed = entries.order_by("pk").claim(1, 2 * lease_seconds(conf))
    return claimed[0] if claimed else not entries.exists()


def tell(
    entry: PendingRevocation, conf: Settings, *, deadline: float | None = None
) -> RevokeOutcome:
    """Call the provider about a claimed entry. Touches no database."""
    try:
        token = entry.refresh_token
    except DecryptionFailed as error:
        return Unavailable(str(error))
    return get_client().revoke(token, entry.app_id, deadline=deadline)


def record_telling(entry: PendingRevocation, outcome: RevokeOutcome) -> None:
    """Write what came of telling the provider."""
    if not isinstance(outcome, Revoked):
        entry.record_trouble(outcome.reason, outcome.retry_after)
    entry.write_claimed(confirmed=isinstance(outcome, Revoked))
