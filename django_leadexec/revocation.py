"""One revocation: stop all use of a connection at once, and tell the provider. Sync and async."""

from collections.abc import Callable
from datetime import datetime
from functools import partial

from django.db import OperationalError

from . import commits
from .claims import Claim
from .conf import Settings, get_settings
from .conflicts import busy_on_conflict, is_conflict, retry_on_deadlock
from .crypto import UNREADABLE
from .echoes import believe
from .exceptions import DecryptionFailed
from .leases import give_back_on_error, writing
from .models import LeadExecConnection, PendingRevocation
from .outbox import OutboxQuerySet
from .provider.client import get_client
from .provider.replies import Revoked, RevokeOutcome, Unavailable
from .routing import database_of
from .steps import Steps, arun, database, network, run

# The provider is asked twice at most: to disconnect, and whether the token is still good.
CALLS = 2


def revoke(connection: LeadExecConnection) -> bool:
    """Stop all use of a connection at once, and tell the provider.

    True when the provider has confirmed. False when telling it is queued, because it could not be
    reached, or because the caller is inside a transaction, whose commit comes first.
    Raises ConnectionBusy if another transaction keeps the row locked, and ImproperlyConfigured.
    """
    return run(_revocation(connection))


async def arevoke(connection: LeadExecConnection) -> bool:
    """``revoke`` for async code."""
    return await arun(_revocation(connection))


def start_revocation(connection: LeadExecConnection) -> Callable[[], bool]:
    """Stop all use of a connection at once; the function returned tells the provider.

    For a caller that answers somebody in between. The function returns whether the provider has
    confirmed. If it is never called, the refresh command tells the provider. Inside a caller's
    transaction the commit does, and the function nothing.
    Both raise ConnectionBusy if another transaction keeps the row locked, and ImproperlyConfigured.
    """
    using = database_of(connection)
    if commits.is_in_transaction(using):
        revoke(connection)
        return lambda: False

    def move() -> datetime:
        with writing(LeadExecConnection, using):
            return _move_row(connection, using)

    # The entry is not claimed yet: the lease could end before the function is called.
    entries = _entries_of(connection, using)
    connection.become_revoked(busy_on_conflict(using, move))
    return partial(send_revocation, entries)


def _revocation(connection: LeadExecConnection) -> Steps[bool]:
    conf, using = get_settings(), database_of(connection)
    entries = _entries_of(connection, using)
    claim = yield database(lambda: _move_to_outbox(connection, entries, conf))
    return (yield from _send(claim, entries))


def _move_to_outbox(
    connection: LeadExecConnection, entries: OutboxQuerySet, conf: Settings
) -> Claim[PendingRevocation] | bool:
    """Revoke the row and claim its outbox entry.

    Returns False if the provider is told after a caller's commit, else as ``_claim_entry`` does.
    """
    using = entries.db
    is_in_transaction = commits.is_in_transaction(using)

    def move() -> tuple[datetime, Claim[PendingRevocation] | bool]:
        with writing(LeadExecConnection, using):
            revoked_at = _move_row(connection, using)
            if is_in_transaction:
                commits.after_commit(lambda: send_revocation(entries), using)
                return revoked_at, False
            # In the same transaction, or a refresh command could take the entry first.
            return revoked_at, _claim_entry(entries, conf)

    revoked_at, claim = busy_on_conflict(using, move)
    connection.become_revoked(revoked_at)
    return claim


def _move_row(connection: LeadExecConnection, using: str) -> datetime:
    """Revoke the stored row; when it was revoked, which may be earlier."""
    mine = LeadExecConnection.objects.using(using).filter(pk=connection.pk)
    now = mine.move_to_outbox().requested_at
    return mine.values_list("revoked_at", flat=True).first() or now


def _entries_of(connection: LeadExecConnection, using: str) -> OutboxQuerySet:
    """The outbox entries of this connection.

    A deleted object has no key; its entries are found by fingerprint.
    """
    outbox = PendingRevocation.objects.using(using)
    if not connection.pk:
        return outbox.filter(fingerprint=connection.fingerprint or "").order_by("-pk")
    return outbox.of(connection.pk)


def send_revocation(entries: OutboxQuerySet) -> bool:
    """Tell the provider about the first of these entries now; whether all are confirmed.

    They are those of one connection or token, nearly always one or none.
    """
    conf = get_settings()
    claim = busy_on_conflict(entries.db, lambda: _claim_entry(entries, conf))
    return run(_send(claim, entries))


def _claim_entry(entries: OutboxQuerySet, conf: Settings) -> Claim[PendingRevocation] | bool:
    """The first of these entries; False if somebody else holds it, True if there is none."""
    claims = entries.claim(1, conf.lease_seconds(calls=CALLS))
    return claims[0] if claims else not entries.exists()


def _send(claim: Claim[PendingRevocation] | bool, entries: OutboxQuerySet) -> Steps[bool]:
    """Tell the provider about the one of these entries that was claimed; whether all are gone."""
    if isinstance(claim, bool):
        return claim
    using = entries.db
    is_confirmed = yield from give_back_on_error(claim, using, _call(claim, using))
    return is_confirmed and not (yield database(partial(retry_on_deadlock, using, entries.exists)))


def _call(claim: Claim[PendingRevocation], using: str) -> Steps[bool]:
    outcome = yield network(partial(_ask, claim), is_owed=True)
    finish = partial(_finish, claim, outcome, using)
    return bool((yield database(finish, is_owed=True)))


def _finish(claim: Claim[PendingRevocation], outcome: RevokeOutcome | None, using: str) -> bool:
    """Write what the provider said; whether it has confirmed, and the entry is gone.

    An entry that others keep locked is sent again when its lease has ended.
    """
    if outcome is None:
        PendingRevocation.objects.using(using).release([claim])
        return False
    believed = believe(outcome, using)
    record(claim, believed)
    try:
        is_written = write(claim, believed, using)
    except OperationalError as error:
        if not is_conflict(error, using):
            raise
        return False
    return is_written and isinstance(believed, Revoked)


def _ask(claim: Claim[PendingRevocation]) -> RevokeOutcome | None:
    """Call the provider about a claimed entry. Touches no database.

    Returns None, without a call, if the lease could end first, and somebody else call as well.
    """
    if not claim.covers(CALLS * get_settings().timeout):
        return None
    try:
        token = claim.row.refresh_token.decrypt()
    except DecryptionFailed:
        return Unavailable(UNREADABLE)
    return get_client().revoke(token, claim.row.app_id)


def record(claim: Claim[PendingRevocation], outcome: RevokeOutcome) -> None:
    """Put the provider's answer on a claimed entry, in memory."""
    if not isinstance(outcome, Revoked):
        claim.row.record_failure(outcome.reason, outcome.retry_after)


def write(claim: Claim[PendingRevocation], outcome: RevokeOutcome, using: str) -> bool:
    """Write what the provider said about a claimed entry; False if somebody has it locked."""
    if isinstance(outcome, Revoked):
        _revoke_what_was_put_back(claim.row, using)
    entries = PendingRevocation.objects.using(using)
    return entries.write_claimed(claim, confirmed=isinstance(outcome, Revoked))


def _revoke_what_was_put_back(entry: PendingRevocation, using: str) -> None:
    """Revoke a connection with the token that has just ended.

    There is one only if somebody has put it back, from a backup for example: a token in the outbox
    can not be linked. So this comes before the entry is deleted.
    """
    rows = LeadExecConnection.objects.using(using).holding(entry.refresh_token.decrypt())
    if rows.exists():
        rows.move_to_outbox()
