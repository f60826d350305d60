"""Store a verified authorization as a user's connection."""

import time
from collections.abc import Callable

from django.contrib.auth.models import AbstractBaseUser
from django.db import DatabaseError, IntegrityError
from django.utils import timezone

from . import crypto, signals
from .clock import from_timestamp, jitter
from .conflicts import brief_waits, busy_on_conflict
from .database_errors import is_unstorable
from .exceptions import ConnectionConflict, RevocationPending, UnstorableAccount
from .leases import writing
from .models import LeadExecConnection, PendingRevocation
from .secret import Secret

# How often a link is tried in all, when somebody else stores the same at the same moment.
LINK_ATTEMPTS = 10


def store(using: str, work: Callable[[], LeadExecConnection]) -> LeadExecConnection:
    """Run ``work``, which calls ``link()``, in a transaction.

    It runs again if somebody else has stored the same token or account at the same moment, and
    raises IntegrityError if that goes on, or ConnectionBusy if the row stays locked.
    """

    def attempt() -> LeadExecConnection:
        with writing(LeadExecConnection, using):
            return work()

    for _ in range(LINK_ATTEMPTS - 1):
        try:
            return busy_on_conflict(using, attempt)
        except IntegrityError:
            time.sleep(jitter(0.001, 0.02))
    return busy_on_conflict(using, attempt)


def refuse_other_users(row: LeadExecConnection | None, user: AbstractBaseUser) -> None:
    """Raise ConnectionConflict if this row, where there is one, belongs to another user."""
    if row and row.user_id != user.pk:
        raise ConnectionConflict("This LeadExec account is connected to another user of this site.")


def link(
    user: AbstractBaseUser,
    app_id: str,
    refresh_token: str | Secret,
    access_token: str | Secret | None,
    expires_at: float,
    *,
    account_id: str = "",
    using: str,
) -> LeadExecConnection:
    """Store a verified authorization as the user's: a new row, or their old one with a new token.

    There is one row per account where ``account_id`` is known, else one per user. A token that is
    replaced is dropped and not revoked: the provider may hold both for the same association.
    ``expires_at`` is in seconds since the epoch. Without an access token the row is due at once.
    Call it inside ``writing()``, or by ``store()``.
    Raises ConnectionConflict if the token or the account is another user's, RevocationPending if
    the token is in the outbox, UnstorableAccount if no such text fits into the database,
    IntegrityError if somebody else stores the same at this moment.
    """
    manager = LeadExecConnection.objects.using(using)
    refresh_token = Secret.of(refresh_token)
    fingerprints = crypto.fingerprints(refresh_token)
    known = manager.holding(refresh_token).first()
    if known and not account_id:
        account_id = known.account_id
    identity = crypto.identity_of(app_id, account_id, user.pk)
    of_account = manager.live().filter(identity=identity).first()
    if not account_id:
        if of_account and of_account.user_id != user.pk:
            _correct_identity(of_account, using)
            of_account = None
        of_account = of_account or _moved_row(app_id, user, using)
    # Every writer locks rows in the order of their keys.
    keys = {row.pk for row in (known, of_account) if row}
    locked = list(manager.live().filter(pk__in=keys).order_by("pk").locked())
    of_token = next((row for row in locked if row.fingerprint in fingerprints), None)
    of_identity = next((row for row in locked if row.identity == identity), None)
    if of_identity is None and not account_id:
        of_identity = next((row for row in locked if _is_of_user(row, user, app_id)), None)
    for found in (of_token, of_identity):
        refuse_other_users(found, user)
    if PendingRevocation.objects.using(using).filter(fingerprint__in=fingerprints).exists():
        raise RevocationPending("This authorization was revoked a moment ago. Please try again.")
    row = of_identity or of_token or LeadExecConnection(user_id=user.pk)
    is_same_token = of_token is not None and of_token.pk == row.pk
    if of_token and not is_same_token:
        # The token goes on in the other row, so there is nothing to revoke.
        manager.filter(pk=of_token.pk).erase(timezone.now())
    if not is_same_token:
        # Whoever holds the lease is asking about the token that is replaced here. With the same
        # token the lease stays, or two calls about one token would be under way at once.
        row.lease_id, row.lease_until = "", 0
    row.app_id, row.account_id, row.identity = app_id, account_id, identity
    row.refresh_token = refresh_token
    if access_token is None:
        row.record_unverified()
    elif not (is_same_token and _outlives(row, expires_at)):
        row.record_success(access_token, expires_at)
    with brief_waits(using):
        _save_linked(row, refresh_token, using)
    signals.send_after_commit(signals.connection_authorized, row)
    return row


def _outlives(row: LeadExecConnection, expires_at: float) -> bool:
    """Whether the stored access token is newer than one that ends at ``expires_at``."""
    return (
        row.status == row.Status.ACTIVE
        and row.expires_at is not None
        and row.expires_at > from_timestamp(expires_at)
    )


def _moved_row(app_id: str, user: AbstractBaseUser, using: str) -> LeadExecConnection | None:
    """A row of the user's whose identity is that of the user it belonged to before."""
    rows = LeadExecConnection.objects.using(using).live()
    return rows.filter(user_id=user.pk, app_id=app_id, account_id="").order_by("pk").first()


def _is_of_user(row: LeadExecConnection, user: AbstractBaseUser, app_id: str) -> bool:
    """Whether this is a row of the user's with no known account."""
    return (row.user_id, row.app_id, row.account_id) == (user.pk, app_id, "")


def _correct_identity(row: LeadExecConnection, using: str) -> None:
    """Give a row that was moved to another user an identity of that user.

    Without a known account the identity stands for the user. Somebody who merges two users, or
    assigns a row, changes only the user.
    """
    rows = LeadExecConnection.objects.using(using)
    list(rows.filter(pk=row.pk).locked())
    identity = crypto.identity_of(row.app_id, "", row.user_id)
    if rows.filter(identity=identity).exists():
        # The other user has a connection of their own as well. Both stay.
        identity = crypto.identity(row.app_id, "row", str(row.pk))
    with brief_waits(using):
        rows.filter(pk=row.pk).write(identity=identity)


def _save_linked(row: LeadExecConnection, refresh_token: Secret, using: str) -> None:
    fingerprint = crypto.fingerprint(refresh_token)
    fingerprints = crypto.fingerprints(refresh_token)
    # While keys are being changed, another process may have the same keys in another order. It
    # would then store another fingerprint of the same token. So each process first stores the
    # smallest of the fingerprints, which is the same for both, and the unique index stops one.
    row.fingerprint = min(fingerprints)
    try:
        row.store(using=using)
    except DatabaseError as error:
        if not is_unstorable(error):
            raise
        raise UnstorableAccount(
            "The database can't hold the account of this connection: it is too long, or the "
            "table's character set lacks some of its characters."
        ) from error
    if len(fingerprints) > 1:
        manager = LeadExecConnection.objects.using(using)
        if manager.holding(refresh_token).exclude(pk=row.pk).locked().first():
            raise IntegrityError("Another process has just stored this token.")
        row.fingerprint = fingerprint
        manager.filter(pk=row.pk).write(fingerprint=fingerprint)
