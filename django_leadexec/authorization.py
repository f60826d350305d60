"""Who may do what with a token that a page has posted.

docs/architecture.md, "The callback's decisions", has the table. Nothing from the page is trusted:
a token counts for what the provider says about it, and for which user's row holds it. A case that
needs no call to the provider makes none. A post is counted if its answer can tell anything of
other users' connections, whether it comes to a call or not.
"""

from collections.abc import Callable
from dataclasses import dataclass

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser

from .accounts import refuse_staff_and_inactive
from .conf import Settings, get_settings
from .exceptions import LeadExecError
from .linking import refuse_other_users
from .models import LeadExecConnection
from .provider.replies import is_token
from .secret import Secret
from .verification import connection_holding, verify


@dataclass(frozen=True)
class Visit:
    """The visitor whose page has posted a token."""

    user: AbstractBaseUser | AnonymousUser
    clicked: bool
    # The connection that this browser may return to without a click, as of now.
    returning: Callable[[], LeadExecConnection | None]
    # Counts the post. Raises an error when there are too many.
    consume: Callable[[], None]


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
        """Who may be logged in."""
        user: AbstractBaseUser = self.connection.user
        return user


@dataclass(frozen=True)
class LinkWaiting:
    """The visitor has to log in, or to confirm, before the token is linked.

    ``account_id``: "" if unknown.
    """

    refresh_token: Secret
    account_id: str


@dataclass(frozen=True)
class Ignored:
    """Nothing was done, because the visitor has not clicked."""


Outcome = Connected | SignedIn | LinkWaiting | Ignored


class MalformedToken(LeadExecError):
    """What was posted can't be a refresh token."""


def authorize(refresh_token: Secret, visit: Visit) -> Outcome:
    """Decide about a posted token.

    Raises MalformedToken, ConnectionConflict, RevocationPending, AuthorizationRejected,
    SignInForbidden, UserDeleted, UserExists, ProviderUnavailable, and what ``visit.consume``
    raises.
    """
    if not is_token(refresh_token):
        raise MalformedToken("The page sent something that is not a refresh token.")
    conf = get_settings()
    row = connection_holding(refresh_token, conf)
    if not visit.user.is_authenticated:
        return _authorize_anonymous(refresh_token, row, visit, conf)
    return _authorize_user(refresh_token, row, visit, visit.user, conf)


def confirm(
    waiting: LinkWaiting, user: AbstractBaseUser, consume: Callable[[], None]
) -> Connected | LinkWaiting:
    """Link a token whose visitor has logged in and confirmed it. Raises what ``authorize`` does.

    ``waiting``: what the visitor was shown. A ``LinkWaiting`` as answer means that the token now
    stands for another account, which they have to be shown first.
    """
    conf = get_settings()
    consume()
    row = connection_holding(waiting.refresh_token, conf)
    refuse_other_users(row, user)
    verified = verify(waiting.refresh_token, row, conf)
    if row is None and verified.account_id != waiting.account_id:
        refuse_other_users(verified.of_account(), user)
        return LinkWaiting(waiting.refresh_token, verified.account_id)
    return Connected(verified.link_to(user))


def _authorize_user(
    refresh_token: Secret,
    row: LeadExecConnection | None,
    visit: Visit,
    user: AbstractBaseUser,
    conf: Settings,
) -> Outcome:
    if not visit.clicked:
        # Each page posts, so this is not counted, and tells nothing of other users' connections.
        is_own = row is not None and row.user_id == user.pk
        return Connected(row) if row and is_own and row.status == row.Status.ACTIVE else Ignored()
    visit.consume()
    refuse_other_users(row, user)
    verified = verify(refresh_token, row, conf)
    if conf.sign_in and row is None:
        of_account = verified.of_account()
        refuse_other_users(of_account, user)
        if of_account is None:
            # The link would let this account log in as this user. A click alone must not do that.
            return LinkWaiting(refresh_token, verified.account_id)
    return Connected(verified.link_to(user))


def _authorize_anonymous(
    refresh_token: Secret, row: LeadExecConnection | None, visit: Visit, conf: Settings
) -> Outcome:
    returning = visit.returning() if conf.sign_in and not visit.clicked else None
    if not visit.clicked and returning is None:
        return Ignored()
    visit.consume()
    if returning and row and row != returning:
        return Ignored()
    if not conf.sign_in and not conf.identify:
        return LinkWaiting(refresh_token, "")
    if conf.sign_in and row:
        refuse_staff_and_inactive(row.user)
    verified = verify(refresh_token, row, conf)
    owner = verified.owner()
    # The second look is for a sign-out during the call, which has ended the automatic return.
    if conf.sign_in and owner and (visit.clicked or owner == visit.returning()):
        refuse_staff_and_inactive(owner.user)
        return SignedIn(verified.link_to(owner.user))
    if not visit.clicked:
        return Ignored()
    if conf.create_user and verified.account_id:
        return SignedIn(verified.link_to_new_user(conf.create_user))
    return LinkWaiting(refresh_token, verified.account_id)
