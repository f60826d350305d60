"""For a site's own tests: LeadExec without a network.

::

    with fake_leadexec() as leadexec:
        leadexec.refuse("a-refresh-token")
        ...
"""

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest import mock

from . import client
from .client import Fresh, RefreshOutcome, Refused, Revoked, RevokeOutcome, Unavailable


@dataclass
class FakeLeadExec:
    """Honours every refresh token, until it is told otherwise.

    ``refreshed`` and ``revoked`` list the refresh tokens it was asked about, in order.
    """

    refreshed: list[str] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    _refused: set[str] = field(default_factory=set)
    _down: Unavailable | None = None
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def refuse(self, refresh_token: str) -> None:
        """Say no to this token from now on, as if its user had revoked it at LeadExec."""
        self._refused.add(refresh_token)

    def go_down(self, retry_after: float | None = None) -> None:
        """Be unavailable from now on; ``retry_after`` in seconds."""
        self._down = Unavailable("down for the test", retry_after)

    def come_back(self) -> None:
        """Answer again."""
        self._down = None

    def refresh(
        self, refresh_token: str, app_id: str, *, deadline: float | None = None
    ) -> RefreshOutcome:
        """In place of ``client.Client.refresh``."""
        self.refreshed.append(refresh_token)
        if self._down:
            return self._down
        if refresh_token in self._refused:
            return Refused("refused for the test")
        return Fresh(f"access-{next(self._numbers)}", time.time() + client.TOKEN_LIFETIME)

    def revoke(
        self, refresh_token: str, app_id: str, *, deadline: float | None = None
    ) -> RevokeOutcome:
        """In place of ``client.Client.revoke``."""
        if self._down:
            return self._down
        self.revoked.append(refresh_token)
        self._refused.add(refresh_token)
        return Revoked()


@contextmanager
def fake_leadexec() -> Iterator[FakeLeadExec]:
    """Let a fake answer all calls to the provider, in every thread of this process."""
    fake = FakeLeadExec()
    with mock.patch.object(client, "client_for", return_value=fake):
        yield fake
