"""A refresh token that the provider has just accepted, and how it is linked to a user."""

from dataclasses import dataclass, field

from django.contrib.auth.models import AbstractBaseUser
from django.db import IntegrityError

from . import accounts, crypto, lifecycle, linking
from .conf import Settings
from .conflicts import retry_on_deadlock
from .echoes import believe
from .exceptions import ConnectionConflict, LeadExecError, RevocationPending
from .models import ConnectionQuerySet, LeadExecConnection, PendingRevocation
from .provider.client import get_client
from .provider.replies import Fresh
from .revocation import send_revocation
from .routing import database_of
from .secret import Secret
from .shared_answers import Answer, ask_once


class UserDeleted(LeadExecError):
    """The user was deleted in the meantime. Nothing is linked, and the token is dropped."""


def connection_holding(refresh_token: Secret, conf: Settings) -> LeadExecConnection | None:
    """The live connection with this token, with its user; None if the token is not on file."""
    rows = _connections().holding(refresh_token).filter(app_id=conf.app_id)
    return retry_on_deadlock(rows.db, rows.select_related("user").first)


@dataclass(frozen=True)
class Verified:
    """A token that the provider has just accepted."""

    refresh_token: Secret
    access_token: Secret
    # In seconds since the epoch; 0 if unknown.
    expires_at: float
    # "" if nothing tells whose token it is.
    account_id: str
    # The row that holds the token, with the provider's answer; None if the token is not on file.
    row: LeadExecConnection | None = field(repr=False)
    conf: Settings = field(repr=False)

    def owner(self) -> LeadExecConnection | None:
        """The live connection of the account, else of the token.

        Raises ConnectionConflict if they belong to two users.
        """
        of_account = self.of_account()
        if self.row and of_account and self.row.user_id != of_account.user_id:
            raise ConnectionConflict("The token and its account belong to different users.")
        return of_account or self.row

    def of_account(self) -> LeadExecConnection | None:
        """The live connection of the account, with its user."""
        if not self.account_id:
            return None
        rows = _connections().of_account(self.conf.app_id, self.account_id)
        return retry_on_deadlock(rows.db, rows.select_related("user").first)

    def link_to(self, user: AbstractBaseUser) -> LeadExecConnection:
        """Store the token as this user's.

        Raises ConnectionConflict if it, or its account, is another user's, RevocationPending, and
        UserDeleted.
        """
        if self.row and self.row.account_id == self.account_id:
            linking.refuse_other_users(self.row, user)
            return self.row
        try:
            return linking.store(database_of(), lambda: self._link(user))
        except IntegrityError:
            if accounts.still_exists(user):
                raise
        raise UserDeleted("The user was deleted before the provider's answer.")

    def link_to_new_user(self, create_user: str) -> LeadExecConnection:
        """Store the token as a new user's, made by ``create_user`` in the same transaction.

        If another process has linked the account meanwhile, its user gets the token.
        Raises SignInForbidden if that user may not be signed in, UserExists, and what
        ``accounts.create_user`` raises.
        """
        has_failed = False

        def create() -> AbstractBaseUser:
            nonlocal has_failed
            try:
                return accounts.create_user(create_user, self.account_id, self.access_token)
            except IntegrityError:
                has_failed = True
                raise

        def link_or_create() -> LeadExecConnection:
            of_account = self.of_account()
            if of_account is not None:
                accounts.refuse_staff_and_inactive(of_account.user)
                return self._link(of_account.user)
            if has_failed:
                # Nobody else has made the user of this account, so it would fail again.
                raise accounts.UserExists(
                    "LEADEXEC['CREATE_USER'] raised IntegrityError; is the user's name taken?"
                )
            return self._link(create())

        return linking.store(database_of(), link_or_create)

    def _link(self, user: AbstractBaseUser) -> LeadExecConnection:
        return linking.link(
            user,
            self.conf.app_id,
            self.refresh_token,
            self.access_token,
            self.expires_at,
            account_id=self.account_id,
            using=database_of(),
        )


def verify(
    refresh_token: Secret,
    row: LeadExecConnection | None,
    conf: Settings,
) -> Verified:
    """Ask the provider about a token, and ``IDENTIFY`` about its account.

    ``row``: the connection that holds the token; the answer is written to it.
    Raises AuthorizationRejected, ProviderUnavailable, RevocationPending.
    """
    if row is not None:
        fresh = lifecycle.verify(row)
        fresh.user = row.user
        row, account_id = fresh, fresh.account_id
        access_token = fresh.access_token.decrypt()
        expires_at = fresh.expires_at.timestamp() if fresh.expires_at else 0
        if conf.identify and not account_id:
            account_id = accounts.identify(conf.identify, access_token)
    else:
        _refuse_revoked(refresh_token)
        answer = ask_once(refresh_token, conf.lease_seconds(), lambda: _ask(refresh_token, conf))
        outcome = lifecycle.require_fresh(answer.outcome)
        access_token, expires_at = outcome.access_token, outcome.expires_at
        account_id = answer.account_id
    return Verified(refresh_token, access_token, expires_at, account_id, row, conf)


def _ask(refresh_token: Secret, conf: Settings) -> Answer:
    outcome = believe(get_client().refresh(refresh_token, conf.app_id), database_of())
    if not conf.identify or not isinstance(outcome, Fresh):
        return Answer(outcome, "")
    return Answer(outcome, accounts.identify(conf.identify, outcome.access_token))


def _refuse_revoked(refresh_token: Secret) -> None:
    """Raise RevocationPending if the site has revoked this token. First try the revocation."""
    entries = PendingRevocation.objects.using(database_of()).filter(
        fingerprint__in=crypto.fingerprints(refresh_token)
    )
    if retry_on_deadlock(entries.db, entries.exists):
        send_revocation(entries.order_by("pk"))
        raise RevocationPending(
            "This authorization has been revoked here, but LeadExec has not confirmed it yet."
        )


def _connections() -> ConnectionQuerySet:
    return LeadExecConnection.objects.using(database_of())
