"""Who may do what with a token that a page has posted.

Nothing that comes from the page is believed: a token counts for what the provider says of it, and
for whose it is in our own rows. What needs no call to the provider makes none.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import requests
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.core.exceptions import ImproperlyConfigured
from django.db import IntegrityError
from django.db.models.signals import post_save
from django.utils.module_loading import import_string

from . import connections, crypto
from .client import Fresh, Refused, get_client, is_token
from .conf import Settings, get_settings
from .exceptions import (
    AuthorizationRejected,
    ConnectionConflict,
    LeadExecError,
    ProviderUnavailable,
    RevocationPending,
    SignInForbidden,
)
from .models import (
    ConnectionQuerySet,
    LeadExecConnection,
    PendingRevocation,
    despite_deadlocks,
    link,
    writing,
)
from .session import LeadExecSession

logger = logging.getLogger(__name__)

LINK_ATTEMPTS = 3


@dataclass(frozen=True)
class Visit:
    """What the door knows of the visitor."""

    user: AbstractBaseUser | AnonymousUser
    clicked: bool
    # The connection this browser may return to without a click; looked up only if need be.
    returning: Callable[[], LeadExecConnection | None]
    # Called before what the provider or the session store has to bear; raises to forbid it.
    spend: Callable[[], None]


@dataclass(frozen=True)
class Connected:
    """The token is the visitor's own and works."""

    connection: LeadExecConnection


@dataclass(frozen=True)
class SignedIn:
    """The provider has just confirmed the authorization of this connection's user."""

    connection: LeadExecConnection

    @property
    def user(self) -> AbstractBaseUser:
        user: AbstractBaseUser = self.connection.user
        return user


@dataclass(frozen=True)
class LinkWaiting:
    """Nothing is linked before the visitor, logged in, has confirmed it."""

    refresh_token: str = field(repr=False)
    account_id: str


@dataclass(frozen=True)
class Ignored:
    """Nothing is done: it would surprise somebody who hasn't clicked."""


Outcome = Connected | SignedIn | LinkWaiting | Ignored


class MalformedToken(LeadExecError):
    """What was posted can't be a refresh token."""


class UserDeleted(LeadExecError):
    """The user is gone by now. Nothing is linked: their token is dropped, as it was never ours."""


def authorize(refresh_token: str, visit: Visit) -> Outcome:
    """Decide about a posted token (DESIGN: "Who may do what at the callback").

    Raises MalformedToken, ConnectionConflict, RevocationPending, AuthorizationRejected,
    SignInForbidden, UserDeleted, ProviderUnavailable, and whatever ``visit.spend`` raises.
    """
    if not is_token(refresh_token):
        raise MalformedToken("The page sent something that is not a refresh token.")
    conf = get_settings()
    row = _row_of(refresh_token, conf)
    if visit.user.is_authenticated:
        return _authorize_user(refresh_token, row, visit, conf)
    return _authorize_stranger(refresh_token, row, visit, conf)


def confirm(
    waiting: LinkWaiting, user: AbstractBaseUser, spend: Callable[[], None]
) -> Connected | LinkWaiting:
    """Link a token that has waited for its visitor to log in, or to confirm. Raises as above.

    ``waiting``: what the visitor was shown. Another account than that has to be shown first.
    """
    conf = get_settings()
    row = _row_of(waiting.refresh_token, conf)
    _refuse_if_anothers(row, user)
    verified = _Verified.ask(waiting.refresh_token, row, conf, spend)
    if row is None and verified.account_id != waiting.account_id:
        _refuse_if_anothers(verified.of_account(), user)
        return LinkWaiting(waiting.refresh_token, verified.account_id)
    return Connected(verified.link_to(user))


def _authorize_user(
    refresh_token: str, row: LeadExecConnection | None, visit: Visit, conf: Settings
) -> Outcome:
    user = visit.user
    if isinstance(user, AnonymousUser):
        return Ignored()
    _refuse_if_anothers(row, user)
    if not visit.clicked:
        is_fine = row is not None and row.status == row.Status.ACTIVE
        return Connected(row) if row and is_fine else Ignored()
    verified = _Verified.ask(refresh_token, row, conf, visit.spend)
    if conf.sign_in and row is None:
        of_account = verified.of_account()
        _refuse_if_anothers(of_account, user)
        if of_account is None:
            # From now on this account could log in as this user: that takes more than a click.
            return LinkWaiting(refresh_token, verified.account_id)
    return Connected(verified.link_to(user))


def _authorize_stranger(
    refresh_token: str, row: LeadExecConnection | None, visit: Visit, conf: Settings
) -> Outcome:
    returning = visit.returning() if conf.sign_in and not visit.clicked else None
    if not visit.clicked and (returning is None or (row and row.pk != returning.pk)):
        return Ignored()
    if not conf.sign_in and not conf.identify:
        visit.spend()  # no call yet, but each one makes a session
        return LinkWaiting(refresh_token, "")
    if conf.sign_in and row:
        _refuse_if_never_signed_in(row.user)
    verified = _Verified.ask(refresh_token, row, conf, visit.spend)
    owner = verified.owner()
    if conf.sign_in and owner and (visit.clicked or owner == returning):
        _refuse_if_never_signed_in(owner.user)
        return SignedIn(verified.link_to(owner.user))
    if not visit.clicked:
        return Ignored()
    if conf.create_user and verified.account_id:
        return SignedIn(verified.link_to_new_user())
    return LinkWaiting(refresh_token, verified.account_id)


@dataclass(frozen=True)
class _Verified:
    """A token the provider has just honoured, and whose account it is, if that can be told."""

    refresh_token: str = field(repr=False)
    access_token: str = field(repr=False)
    expires_at: float
    account_id: str
    # The row that holds the token, and has the provider's answer already.
    row: LeadExecConnection | None
    conf: Settings

    @classmethod
    def ask(
        cls,
        refresh_token: str,
        row: LeadExecConnection | None,
        conf: Settings,
        spend: Callable[[], None],
    ) -> "_Verified":
        spend()
        if row is not None:
            fresh = connections.verify(row)
            fresh.user = row.user
            access_token, row = fresh.access_token, fresh
            expires_at = fresh.expires_at.timestamp() if fresh.expires_at else 0
        else:
            _finish_revocation(refresh_token)
            outcome = get_client().refresh(refresh_token, conf.app_id)
            if isinstance(outcome, Refused):
                raise AuthorizationRejected(f"LeadExec refuses: {outcome.reason}.")
            if not isinstance(outcome, Fresh):
                raise ProviderUnavailable(
                    f"LeadExec could not be asked: {outcome.reason}.",
                    retry_after=outcome.retry_after,
                )
            access_token, expires_at = outcome.access_token, outcome.expires_at
        account_id = row.account_id if row else ""
        if conf.identify and not account_id:
            account_id = _identify(conf.identify, access_token)
        return cls(refresh_token, access_token, expires_at, account_id, row, conf)

    def owner(self) -> LeadExecConnection | None:
        """The live connection of the token or the account. Raises ConnectionConflict if they
        are two users'."""
        of_account = self.of_account()
        if self.row and of_account and self.row.user_id != of_account.user_id:
            raise ConnectionConflict("The token and its account belong to different users.")
        return of_account or self.row

    def link_to(self, user: AbstractBaseUser) -> LeadExecConnection:
        if self.row and self.row.account_id == self.account_id:
            _refuse_if_anothers(self.row, user)
            return self.row
        try:
            return _store(lambda: self._link(user))
        except IntegrityError:
            if still_exists(user):
                raise
        raise UserDeleted("The user was deleted before the provider's answer.")

    def link_to_new_user(self) -> LeadExecConnection:
        def link_or_create() -> LeadExecConnection:
            of_account = self.of_account()
            if of_account is None:
                return self._link(_create_user(self.conf, self.account_id, self.access_token))
            _refuse_if_never_signed_in(of_account.user)
            return self._link(of_account.user)

        return _store(link_or_create)

    def _link(self, user: AbstractBaseUser) -> LeadExecConnection:
        return link(
            user,
            self.conf.app_id,
            self.refresh_token,
            self.access_token,
            self.expires_at,
            account_id=self.account_id,
            using=_database(),
        )

    def of_account(self) -> LeadExecConnection | None:
        if not self.account_id:
            return None
        rows = _rows().of_account(self.conf.app_id, self.account_id)
        return rows.select_related("user").first()


def _store(store: Callable[[], LeadExecConnection]) -> LeadExecConnection:
    """Run ``store`` in a transaction; again if somebody stored the same at the same moment."""
    using = _database()

    def attempt() -> LeadExecConnection:
        with writing(using):
            return store()

    for _ in range(LINK_ATTEMPTS - 1):
        try:
            return despite_deadlocks(using, attempt)
        except IntegrityError:
            continue
    return despite_deadlocks(using, attempt)


def _row_of(refresh_token: str, conf: Settings) -> LeadExecConnection | None:
    rows = _rows().holding(refresh_token).filter(app_id=conf.app_id)
    return rows.select_related("user").first()


def _rows() -> ConnectionQuerySet:
    return LeadExecConnection.objects.using(_database())


def _database() -> str:
    return connections.database_of()


def _refuse_if_anothers(row: LeadExecConnection | None, user: AbstractBaseUser) -> None:
    if row and row.user_id != user.pk:
        raise ConnectionConflict("This LeadExec account is connected to another user of this site.")


def _refuse_if_never_signed_in(user: AbstractBaseUser) -> None:
    if not may_sign_in(user):
        raise SignInForbidden("This user can't be signed in by LeadExec.")


def may_sign_in(user: AbstractBaseUser) -> bool:
    """Not the inactive; nor staff and superusers, whose power should not hang on another site."""
    return user.is_active and not (
        getattr(user, "is_staff", False) or getattr(user, "is_superuser", False)
    )


def still_exists(user: AbstractBaseUser) -> bool:
    """Whether nobody has deleted the user since they were read."""
    return get_user_model()._base_manager.using(_database()).filter(pk=user.pk).exists()


def _finish_revocation(refresh_token: str) -> None:
    """Raise RevocationPending, having tried it once more, if the site has revoked this token."""
    entries = PendingRevocation.objects.using(_database()).filter(
        fingerprint__in=crypto.fingerprints(refresh_token)
    )
    entry = entries.first()
    if entry:
        connections.tell_now(entry.fingerprint)
        raise RevocationPending(
            "This authorization has been revoked here, and LeadExec is being told. "
            "Please try again in a moment."
        )


def _identify(path: str, access_token: str) -> str:
    """Ask the site's ``IDENTIFY`` whose account it is: 1 to 255 characters that name something."""
    try:
        account_id = import_string(path)(_session(access_token))
    except requests.RequestException:
        account_id = None
        logger.warning("LEADEXEC['IDENTIFY'] could not reach LeadExec's API.")
    else:
        if (
            isinstance(account_id, str)
            and 1 <= len(account_id) <= 255
            and account_id.isprintable()
            and account_id.strip().lower() not in ("", "none", "null")
        ):
            return account_id
        logger.error("LEADEXEC['IDENTIFY'] must return a str of 1 to 255 characters, not blank.")
    raise ProviderUnavailable("LeadExec did not tell which account this is.")


def _create_user(conf: Settings, account_id: str, access_token: str) -> AbstractBaseUser:
    """Let the site's ``CREATE_USER`` make the user of an unknown account.

    It has to be a new one: to hand out an existing user's account takes that user's own consent.
    """
    made: set[Any] = set()
    thread = threading.get_ident()
    model = get_user_model()

    def on_save(sender: Any, instance: Any, created: bool, **kwargs: Any) -> None:
        if created and isinstance(instance, model) and threading.get_ident() == thread:
            made.add(instance.pk)

    # Of every sender: a proxy, or a child, of the user model sends as itself.
    post_save.connect(on_save)
    try:
        user = import_string(str(conf.create_user))(account_id, _session(access_token))
    finally:
        post_save.disconnect(on_save)
    if not isinstance(user, model) or user.pk not in made or not may_sign_in(user):
        raise ImproperlyConfigured(
            "LEADEXEC['CREATE_USER'] must save and return a new, active user without staff rights."
        )
    return user


def _session(access_token: str) -> LeadExecSession:
    return LeadExecSession(lambda refused: access_token)
