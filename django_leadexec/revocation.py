"""One revocation: stop all use of a connection at once, and tell the provider. Sync and async."""

from collections.abc import Callable
from functools import partial

from django.db import OperationalError

from . import commits
from .claims import Claim
from .conf import Settings, get_settings
from .conflicts import busy_on_conflict, is_conflict
from .crypto import UNREADABLE
from .echoes import believe
from .exceptions import DecryptionFailed
from .leases import give_back_on_error, writing
from .models import LeadExecConnection, PendingRevocation
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
    """
    using = database_of(connection)
    if commits.is_in_transaction(using):
        revoke(connection)
        return lambda: False

    def move() -> str:
        with writing(LeadExecConnection, using):
            return _move_row(connection, using)

    # The entry is not claimed yet: the lease could end before the function is called.
    fingerprint = busy_on_conflict(using, move)
    _forget_tokens(connection)
    return partial(send_revocation, fingerprint, using)


def _revocation(connection: LeadExecConnection) -> Steps[bool]:
    conf, using = get_settings(), database_of(connection)
    claim = yield database(lambda: _move_to_outbox(connection, using, conf))
    return (yield from _send(claim, using))


def _move_to_outbox(
    connection: LeadExecConnection, using: str, conf: Settings
) -> Claim[PendingRevocation] | bool:
    """Revoke the row and claim its outbox entry.

    Returns False if the provider is told after a caller's commit, else as ``_claim_entry`` does.
    """
    is_in_transaction = commits.is_in_transaction(using)

    def move() -> Claim[PendingRevocation] | bool:
        with writing(LeadExecConnection, using):
            fingerprint = _move_row(connection, using)
            if is_in_transaction:
                commits.after_commit(lambda: send_revocation(fingerprint, using), using)
                return False
            # In the same transaction, because a key rotation changes the entry's fingerprint. An
            # entry that cannot be found would be taken for one that the provider has confirmed.
            return _claim_entry(fingerprint, using, conf)

    claim = busy_on_conflict(using, move)
    _forget_tokens(connection)
    return claim


def _move_row(connection: LeadExecConnection, using: str) -> str:
    """Revoke the stored row; the fingerprint of the token that is now in the outbox."""
    mine = LeadExecConnection.objects.using(using).filter(pk=connection.pk)
    # Revoking erases the row's fingerprint. Memory has it if the row is revoked already.
    stored = mine.live().locked().values_list("fingerprint", flat=True).first()
    mine.move_to_outbox()
    return stored or connection.fingerprint or ""


def _forget_tokens(connection: LeadExecConnection) -> None:
    """Make the object in memory like its row."""
    connection.status = connection.Status.REVOKED
    connection.access_token = connection.refresh_token = ""  # nosec B105 # erased
    connection.mark_as_stored()


def send_revocation(fingerprint: str, using: str | None = None) -> bool:
    """Try the outbox entry of one token now; whether the provider has confirmed it."""
    conf, alias = get_settings(), using or database_of()
    claim = busy_on_conflict(alias, lambda: _claim_entry(fingerprint, alias, conf))
    return run(_send(claim, alias))


def _claim_entry(fingerprint: str, using: str, conf: Settings) -> Claim[PendingRevocation] | bool:
    """The outbox entry of a token; False if somebody else holds it, True if there is none."""
    entries = PendingRevocation.objects.using(using).filter(fingerprint=fingerprint)
    claims = entries.order_by("pk").claim(1, conf.lease_seconds(calls=CALLS))
    return claims[0] if claims else not entries.exists()


def _send(claim: Claim[PendingRevocation] | bool, using: str) -> Steps[bool]:
    """Tell the provider about a claimed entry; whether the entry is out of the outbox."""
    if isinstance(claim, bool):
        return claim
    return (yield from give_back_on_error(claim, using, _tell(claim, using)))


def _tell(claim: Claim[PendingRevocation], using: str) -> Steps[bool]:
    outcome = yield network(partial(_ask, claim.row), is_owed=True)
    finish = partial(_finish, claim, outcome, using)
    return bool((yield database(finish, is_owed=True)))


def _finish(claim: Claim[PendingRevocation], outcome: RevokeOutcome, using: str) -> bool:
    """Write what the provider said; whether it has confirmed, and the entry is gone.

    An entry that others keep locked is sent again when its lease has ended.
    """
    believed = believe(outcome, using)
    record(claim, believed)
    try:
        is_written = write(claim, believed, using)
    except OperationalError as error:
        if not is_conflict(error, using):
            raise
        return False
    return is_written and isinstance(believed, Revoked)


def _ask(entry: PendingRevocation) -> RevokeOutcome:
    """Call the provider about a claimed entry. Touches no database."""
    try:
        token = entry.refresh_token.decrypt()
    except DecryptionFailed:
        return Unavailable(UNREADABLE)
    return get_client().revoke(token, entry.app_id)


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
