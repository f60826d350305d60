"""One call to the provider: about a claimed connection, or about a claimed outbox entry."""

from dataclasses import dataclass
from typing import ClassVar

from .. import revocation
from ..claims import Claim
from ..conf import Settings
from ..exceptions import DecryptionFailed
from ..models import LeadExecConnection, PendingRevocation
from ..provider.client import get_client
from ..provider.replies import RefreshOutcome, RevokeOutcome


class Unreadable:
    """The stored token can be decrypted with no key, so nothing was asked."""


class NotAsked:
    """The call did not begin: the run is over, or the lease ends too soon."""


@dataclass(frozen=True)
class RefreshJob:
    """Ask for an access token."""

    # How many calls this makes at most, each with a deadline of its own.
    calls: ClassVar[int] = 1
    claim: Claim[LeadExecConnection]

    def call(self, conf: Settings, deadline: float | None) -> RefreshOutcome | Unreadable:
        """The provider's answer; ``deadline`` in seconds. Touches no database."""
        try:
            token = self.claim.row.refresh_token.decrypt()
        except DecryptionFailed:
            return Unreadable()
        return get_client().refresh(token, conf.app_id, deadline=deadline)


@dataclass(frozen=True)
class RevocationJob:
    """Tell the provider that a token is revoked."""

    calls: ClassVar[int] = revocation.CALLS
    claim: Claim[PendingRevocation]

    def call(self, conf: Settings, deadline: float | None) -> RevokeOutcome | Unreadable:
        """The provider's answer; ``deadline`` in seconds. Touches no database."""
        try:
            token = self.claim.row.refresh_token.decrypt()
        except DecryptionFailed:
            return Unreadable()
        return get_client().revoke(token, self.claim.row.app_id, deadline=deadline)


Job = RefreshJob | RevocationJob
Result = RefreshOutcome | RevokeOutcome | Unreadable | NotAsked


@dataclass(frozen=True)
class Answer:
    """What came of a job; ``seconds`` it took, and how many of them the processor worked.

    ``is_judged``: an answer about another token on file would have been dropped.
    """

    job: Job
    result: Result
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    is_judged: bool = False
