"""One connection: its access token, fresh when it is needed. Sync and async."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db import OperationalError

from . import commits, signals
from .actions import MIN_TTL
from .claims import Claim
from .clock import monotonic
from .conf import Settings, get_settings
from .conflicts import busy_on_conflict, is_conflict
from .echoes import believe
from .exceptions import AuthorizationRejected, ProviderUnavailable
from .leases import give_back_on_error
from .models import LeadExecConnection
from .provider.client import get_client
from .provider.replies import Fresh, RefreshOutcome, Refused
from .routing import database_of
from .secret import MaskedText, Secret
from .session import LeadExecSession
from .steps import Steps, arun, database, network, run

logger: logging.Logger = logging.getLogger(__name__)

# Seconds between two looks at a row that somebody else is refreshing.
POLL_INTERVAL = 0.05
# Seconds to wait for a lock, to store an answer that the caller can have without that.
WRITE_PATIENCE = 2.0
# Seconds for which a fresh access token is kept although the API refuses it. An API that refuses
# all tokens would otherwise make each page a refresh.
REFUSED_TOKEN_KEPT_FOR = 60

# Says whether a row is good enough as it is, without a call to the provider.
Suffices = Callable[[LeadExecConnection], bool]


@dataclass(frozen=True)
class _Question:
    """A row that is ours to ask the provider about, and its refresh token."""

    claim: Claim[LeadExecConnection]
    token: Secret


def get_access_token(connection: LeadExecConnection, min_ttl: float) -> str:
    """The stored token if it lives ``min_ttl`` more seconds, else a fresh one.

    One process at a time asks the provider; the others wait for its answer. Inside a caller's
    transaction nothing is claimed: nobody else would see the claim, and it would hold locks
    through the call.
    It is a ``str`` whose repr does not tell it. From here on it is the caller's to keep secret.
    Raises AuthorizationRejected, ProviderUnavailable, DecryptionFailed.
    """
    return MaskedText(run(_access_token(connection, lambda row: row.lives(min_ttl))).reveal())


async def aget_access_token(connection: LeadExecConnection, min_ttl: float) -> str:
    """``get_access_token`` for async code."""
    secret = await arun(_access_token(connection, lambda row: row.lives(min_ttl)))
    return MaskedText(secret.reveal())


def open_session(connection: LeadExecConnection) -> LeadExecSession:
    """A session that calls LeadExec's API on behalf of the connection's user.

    When the API refuses a token, the session gets another: one that is stored meanwhile, or a
    fresh one. A token that is refused within its first minute stays as it is.
    """

    def get_token(refused: Secret | None) -> Secret:
        def suffices(row: LeadExecConnection) -> bool:
            if refused is None:
                return row.lives(MIN_TTL)
            is_another = row.access_token.decrypt() != refused
            return row.lives(0) and (is_another or row.was_refreshed_within(REFUSED_TOKEN_KEPT_FOR))

        return run(_access_token(connection, suffices))

    return LeadExecSession(get_token)


def _access_token(connection: LeadExecConnection, suffices: Suffices) -> Steps[Secret]:
    row = yield from _refreshed(connection, suffices)
    return row.access_token.decrypt()


def verify(connection: LeadExecConnection) -> LeadExecConnection:
    """Ask the provider now whether it still honours a connection; its row, with the answer.

    Raises what ``get_access_token`` raises.
    """
    asked_at = time.time()

    def refreshed_since(row: LeadExecConnection) -> bool:
        return row.refreshed_at is not None and row.refreshed_at.timestamp() >= asked_at

    return run(_refreshed(connection, refreshed_since, insist=True))


def _refreshed(
    connection: LeadExecConnection, suffices: Suffices, *, insist: bool = False
) -> Steps[LeadExecConnection]:
    """The connection's row once it suffices, refreshed by us or by whoever holds its lease.

    ``insist``: ask the provider even about a rejected row, or one in backoff.
    """
    conf, using = get_settings(), database_of(connection)
    give_up_at, times_lost = monotonic() + conf.timeout, 0
    begin = partial(_begin, connection.pk, using, conf, suffices, insist)
    while True:
        begun: LeadExecConnection | _Question | None = yield database(
            partial(busy_on_conflict, using, begin)
        )
        if isinstance(begun, LeadExecConnection):
            return begun
        if begun is not None:
            claim = begun.claim
            outcome = yield from give_back_on_error(claim, using, _answer(begun, conf))
            if outcome is None:
                rows = LeadExecConnection.objects.using(using)
                yield database(partial(rows.release, [claim]), is_owed=claim.is_held)
                continue
            written = yield from give_back_on_error(claim, using, _finish(claim, outcome, using))
            if written is not None:
                require_fresh(written)
                return claim.row
            # Somebody has revoked or authorized it again meanwhile, and what they wrote counts.
            # A caller's transaction that reads from a snapshot never sees that, and loses again.
            times_lost += 1
        if times_lost > 1 or monotonic() > give_up_at:
            raise ProviderUnavailable("Another process is refreshing this connection, and is late.")
        yield network(lambda: time.sleep(POLL_INTERVAL))


def _begin(
    pk: int, using: str, conf: Settings, suffices: Suffices, insist: bool
) -> LeadExecConnection | _Question | None:
    """The row if it suffices, a question if it is ours to ask, None if somebody else holds it."""
    only = LeadExecConnection.objects.using(using).filter(pk=pk)
    row = only.first()
    if row is None:
        raise AuthorizationRejected("This connection no longer exists.")
    if _is_good(row, conf, suffices, insist):
        return row
    if commits.is_in_transaction(using):
        return _Question(Claim.of(row, is_held=False), row.refresh_token.decrypt())
    claims = only.live().claim(1, conf.lease_seconds())
    if not claims:
        return None
    row = claims[0].row
    try:
        if _is_good(row, conf, suffices, insist):
            only.release(claims)
            return row
        return _Question(claims[0], row.refresh_token.decrypt())
    except BaseException:
        only.release(claims)
        raise


def _is_good(row: LeadExecConnection, conf: Settings, suffices: Suffices, insist: bool) -> bool:
    """Whether the row suffices. Raises if it can not be used, and asking would not help."""
    if row.status == row.Status.REVOKED:
        raise AuthorizationRejected("This connection has been revoked.")
    if row.app_id != conf.app_id:
        raise AuthorizationRejected("This connection was made for another LEADEXEC['APP_ID'].")
    if row.status == row.Status.REJECTED and not insist:
        raise AuthorizationRejected("LeadExec refuses this connection; the user can connect again.")
    if suffices(row):
        return True
    wait = row.refresh_after.timestamp() - time.time() if row.refresh_after else 0
    if row.attempts and wait > 0 and not insist:
        raise ProviderUnavailable(
            "LeadExec could not be reached a moment ago; it is asked again later.",
            retry_after=wait,
        )
    return False


def _answer(question: _Question, conf: Settings) -> Steps[RefreshOutcome | None]:
    # Without a lease of its own, the work belongs to a caller's transaction and its thread.
    ask = network(partial(_ask, question, conf), is_owed=question.claim.is_held)
    return (yield ask)  # type: ignore[no-any-return]


def _ask(question: _Question, conf: Settings) -> RefreshOutcome | None:
    """The provider's answer. None if the lease could end first, and somebody else ask as well.

    That happens to a process that was stopped for a while, and to async code that has waited for
    a free thread.
    """
    if not question.claim.covers(conf.timeout):
        return None
    return get_client().refresh(question.token, conf.app_id)


def _finish(
    claim: Claim[LeadExecConnection], outcome: RefreshOutcome, using: str
) -> Steps[RefreshOutcome | None]:
    """Write what the provider said, and return it; None if the claim was no longer valid.

    What can't be written, because somebody else has the row locked, is worth as much all the same.
    The lease then ends by itself, and the provider is asked again.
    """
    is_owed = claim.is_held
    believed: RefreshOutcome = yield database(
        partial(_believe_and_record, claim, outcome, using), is_owed=is_owed
    )
    give_up_at = monotonic() + WRITE_PATIENCE
    while True:
        written: bool | None = yield database(
            partial(_write, claim, believed, using), is_owed=is_owed
        )
        if written is not None:
            return believed if written else None
        if monotonic() >= give_up_at:
            break
        yield network(lambda: time.sleep(POLL_INTERVAL), is_owed=is_owed)
    logger.warning(
        "An answer of LeadExec's could not be stored: another transaction keeps connection %s "
        "locked.",
        claim.row.pk,
    )
    return believed


def _believe_and_record(
    claim: Claim[LeadExecConnection], outcome: RefreshOutcome, using: str
) -> RefreshOutcome:
    believed = believe(outcome, using)
    record(claim, believed)
    return believed


def _write(claim: Claim[LeadExecConnection], outcome: RefreshOutcome, using: str) -> bool | None:
    """Whether the claim was still valid; None if the row is locked, and nothing was done."""
    try:
        unwritten = LeadExecConnection.objects.using(using).write_claimed([claim])
    except OperationalError as error:
        if not is_conflict(error, using):
            raise
        return None
    if unwritten.locked:
        return None
    if unwritten.lost:
        return False
    announce(claim, outcome)
    return True


def record(claim: Claim[LeadExecConnection], outcome: RefreshOutcome) -> None:
    """Put the provider's answer on a claimed row, in memory."""
    row = claim.row
    if isinstance(outcome, Fresh):
        row.record_success(outcome.access_token, outcome.expires_at)
    elif isinstance(outcome, Refused):
        claim.ends_connection = row.record_refusal(outcome.reason)
    else:
        row.record_failure(outcome.reason, outcome.retry_after)


def announce(claim: Claim[LeadExecConnection], outcome: RefreshOutcome) -> None:
    """Send the signal for an answer that has been written, if it changed anything."""
    row = claim.row
    if claim.ends_connection:
        signals.send_after_commit(signals.connection_revoked, row)
    elif row.version == claim.version:
        return
    elif isinstance(outcome, Fresh):
        signals.send_after_commit(signals.connection_refreshed, row)
    elif isinstance(outcome, Refused):
        signals.send_after_commit(signals.connection_rejected, row)


def require_fresh(outcome: RefreshOutcome) -> Fresh:
    """The answer if it is a fresh token.

    Raises AuthorizationRejected or ProviderUnavailable for any other.
    """
    if isinstance(outcome, Refused):
        raise AuthorizationRejected(f"LeadExec refuses this authorization: {outcome.reason}.")
    if not isinstance(outcome, Fresh):
        raise ProviderUnavailable(
            f"LeadExec could not be asked: {outcome.reason}.", retry_after=outcome.retry_after
        )
    return outcome


def usable_connection(user: AbstractBaseUser | AnonymousUser) -> LeadExecConnection | None:
    """The user's newest active connection of the configured application, if there is one."""
    rows = LeadExecConnection.objects.using(database_of()).active().for_user(user)
    return rows.filter(app_id=get_settings().app_id).order_by("-pk").first()
