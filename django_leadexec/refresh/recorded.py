"""Answers that the rows in memory have already, and those in the database do not."""

import logging
from dataclasses import dataclass, field
from typing import Any

from .. import lifecycle, revocation
from ..claims import Claim
from ..models import LeadExecConnection, PendingRevocation
from ..provider.replies import RefreshOutcome, RevokeOutcome

logger: logging.Logger = logging.getLogger(__name__)


@dataclass
class Recorded:
    """Lasts through all passes of a ``--watch``: somebody may keep a row locked for longer."""

    connections: list[tuple[Claim[LeadExecConnection], RefreshOutcome]] = field(
        default_factory=list
    )
    revocations: list[tuple[Claim[PendingRevocation], RevokeOutcome]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.connections) + len(self.revocations)

    def add_connection(self, claim: Claim[LeadExecConnection], outcome: RefreshOutcome) -> None:
        """Put the answer on the row in memory, and keep it until the row can be written."""
        lifecycle.record(claim, outcome)
        self.connections.append((claim, outcome))

    def add_revocation(self, claim: Claim[PendingRevocation], outcome: RevokeOutcome) -> None:
        """The same for an entry of the outbox."""
        revocation.record(claim, outcome)
        self.revocations.append((claim, outcome))

    def drop_lapsed(self) -> int:
        """Forget the answers whose leases have ended, so that others may ask; returns how many."""
        before = len(self)
        self.connections[:] = [it for it in self.connections if _is_held(it[0])]
        self.revocations[:] = [it for it in self.revocations if _is_held(it[0])]
        return before - len(self)

    def drop(self) -> int:
        """Forget all of them; returns how many."""
        count = len(self)
        for claim in self._claims():
            _warn(claim)
        self.connections.clear()
        self.revocations.clear()
        return count

    def leases(self) -> set[str]:
        """The ids of the leases under which the provider was asked."""
        return {claim.lease_id for claim in self._claims()}

    def _claims(self) -> list[Claim[Any]]:
        return [*(it[0] for it in self.connections), *(it[0] for it in self.revocations)]


def _is_held(claim: Claim[Any]) -> bool:
    if claim.seconds_left() > 0:
        return True
    _warn(claim)
    return False


def _warn(claim: Claim[Any]) -> None:
    logger.warning(
        "LeadExec's answer about the %s could not be stored in time: another transaction keeps it "
        "locked, or the database has failed.",
        claim.row,
    )
