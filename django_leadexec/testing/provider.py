"""Plays LeadExec's server: gives access tokens, and takes revocations."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..provider.replies import (
    TOKEN_LIFETIME,
    Fresh,
    RefreshOutcome,
    Refused,
    Revoked,
    RevokeOutcome,
    Unavailable,
)
from ..secret import Secret


@dataclass
class FakeProvider:
    """Stands in for ``provider.client.Client``. It honours every refresh token it is not to refuse.

    ``trouble`` is its answer to everything, if there is one. ``owners`` has, for each access token
    that it gave, the refresh token.
    """

    refreshed: list[str] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    owners: dict[str, str] = field(default_factory=dict)
    trouble: Unavailable | None = None
    lifetime: float = TOKEN_LIFETIME
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def refresh(
        self, refresh_token: str | Secret, app_id: str, *, deadline: float | None = None
    ) -> RefreshOutcome:
        """In place of ``Client.refresh``."""
        token = Secret.of(refresh_token).reveal()
        self.refreshed.append(token)
        if self.trouble:
            return self.trouble
        if token in self.refused:
            return Refused("refused for the test")
        access_token = f"access-{next(self._numbers)}"
        self.owners[access_token] = token
        return Fresh(Secret(access_token), time.time() + self.lifetime)

    def revoke(
        self, refresh_token: str | Secret, app_id: str, *, deadline: float | None = None
    ) -> RevokeOutcome:
        """In place of ``Client.revoke``."""
        token = Secret.of(refresh_token).reveal()
        if self.trouble:
            return self.trouble
        self.revoked.append(token)
        self.refused.add(token)
        return Revoked()
