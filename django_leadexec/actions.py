"""What connections can do at the provider, as methods of their rows and query sets.

The one place where an arrow points up: the code behind these methods imports the models, so they
import it only when they are called.
"""

from typing import TYPE_CHECKING, cast

from django.contrib.auth.models import AbstractBaseUser
from django.db import models

from .secret import Secret

if TYPE_CHECKING:
    from .models import LeadExecConnection
    from .session import LeadExecSession

# Seconds that an access token is good for at least, if the caller asks for no others.
MIN_TTL = 60


class ProviderActions(models.Model):
    """Shortcuts to ``lifecycle`` and ``revocation``."""

    class Meta:
        abstract = True

    def get_access_token(self, min_ttl: float = MIN_TTL) -> str:
        """An access token with at least ``min_ttl`` seconds left, refreshed if need be.

        Raises AuthorizationRejected, ProviderUnavailable, DecryptionFailed.
        """
        from . import lifecycle

        return lifecycle.get_access_token(cast("LeadExecConnection", self), min_ttl)

    async def aget_access_token(self, min_ttl: float = MIN_TTL) -> str:
        """``get_access_token`` for async code."""
        from . import lifecycle

        return await lifecycle.aget_access_token(cast("LeadExecConnection", self), min_ttl)

    def session(self) -> "LeadExecSession":
        """A ``requests`` session that calls LeadExec's API on the user's behalf."""
        from . import lifecycle

        return lifecycle.open_session(cast("LeadExecConnection", self))

    def revoke(self) -> bool:
        """End the authorization. All use stops at once.

        True when the provider confirmed it, False when telling the provider is queued.
        Raises ConnectionBusy if another transaction keeps the row locked, and ImproperlyConfigured.
        """
        from . import revocation

        return revocation.revoke(cast("LeadExecConnection", self))

    # Templates must not call it.
    revoke.alters_data = True  # type: ignore[attr-defined]

    async def arevoke(self) -> bool:
        """``revoke`` for async code."""
        from . import revocation

        return await revocation.arevoke(cast("LeadExecConnection", self))


class AdoptingQuerySet:
    """Shortcuts to ``adoption``, for a query set and its manager."""

    db: str
    _for_write: bool

    def adopt(
        self,
        user: AbstractBaseUser,
        refresh_token: str | Secret,
        *,
        account_id: str = "",
        verify: bool = True,
    ) -> "LeadExecConnection":
        """Store a refresh token that the site already holds; ``adoption.adopt`` says how."""
        from . import adoption

        token = Secret.of(refresh_token)
        del refresh_token
        return adoption.adopt(
            user, token, account_id=account_id, verify=verify, using=self._alias()
        )

    async def aadopt(
        self,
        user: AbstractBaseUser,
        refresh_token: str | Secret,
        *,
        account_id: str = "",
        verify: bool = True,
    ) -> "LeadExecConnection":
        """``adopt`` for async code."""
        from . import adoption

        token = Secret.of(refresh_token)
        del refresh_token
        return await adoption.aadopt(
            user, token, account_id=account_id, verify=verify, using=self._alias()
        )

    def _alias(self) -> str:
        # Tells database routers that a write follows.
        self._for_write = True
        return self.db
