"""Store refresh tokens that the site already holds, for example in a table of its own."""

from django.contrib.auth.models import AbstractBaseUser

from . import lifecycle
from .conf import get_settings
from .echoes import believe
from .linking import link, refuse_other_users, store
from .models import LeadExecConnection
from .provider.client import get_client
from .provider.replies import RefreshOutcome, is_token
from .routing import database_of
from .secret import Secret
from .steps import Steps, arun, database, network, run


def adopt(
    user: AbstractBaseUser,
    refresh_token: str | Secret,
    *,
    account_id: str = "",
    verify: bool = True,
    using: str | None = None,
) -> LeadExecConnection:
    """Store a refresh token as the user's connection.

    ``account_id``: the LeadExec account, if the site knows it. ``verify``: ask the provider first;
    else the connection is due at once, and the next refresh tells whether the token is good.
    A token that is on file for this user and application is left as it is, and nobody is asked.
    Raises ValueError for what can be no refresh token, ConnectionConflict if it is another user's,
    RevocationPending if it is in the outbox, AuthorizationRejected if the provider refuses it,
    ProviderUnavailable, ConnectionBusy, and UnstorableAccount.
    """
    token = Secret.of(refresh_token)
    del refresh_token
    return run(_adoption(user, token, account_id, verify, using))


async def aadopt(
    user: AbstractBaseUser,
    refresh_token: str | Secret,
    *,
    account_id: str = "",
    verify: bool = True,
    using: str | None = None,
) -> LeadExecConnection:
    """``adopt`` for async code."""
    token = Secret.of(refresh_token)
    del refresh_token
    return await arun(_adoption(user, token, account_id, verify, using))


def _adoption(
    user: AbstractBaseUser, token: Secret, account_id: str, verify: bool, using: str | None
) -> Steps[LeadExecConnection]:
    if not is_token(token):
        raise ValueError(
            "This is no refresh token of LeadExec's: it has 1 to 2,048 visible ASCII characters."
        )
    conf, alias = get_settings(), using or database_of()
    on_file = LeadExecConnection.objects.using(alias).holding(token)
    known: LeadExecConnection | None = yield database(on_file.first)
    refuse_other_users(known, user)
    if known is not None and known.app_id == conf.app_id:
        return known
    access_token, expires_at = None, 0.0
    if verify:
        outcome = yield network(lambda: get_client().refresh(token, conf.app_id))
        believed: RefreshOutcome = yield database(lambda: believe(outcome, alias))
        fresh = lifecycle.require_fresh(believed)
        access_token, expires_at = fresh.access_token, fresh.expires_at

    def link_it() -> LeadExecConnection:
        return link(
            user, conf.app_id, token, access_token, expires_at, account_id=account_id, using=alias
        )

    stored: LeadExecConnection = yield database(lambda: store(alias, link_it))
    return stored
