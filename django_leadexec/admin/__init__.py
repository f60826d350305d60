"""Connections and the outbox in the admin: to be looked at and acted on, never edited.

An action that calls the provider does so after the commit, that of the whole request included
(ATOMIC_REQUESTS), and for ten seconds at most. ``refresh_leadexec_tokens`` does the rest.
"""

from .connections import LeadExecConnectionAdmin
from .revocations import PendingRevocationAdmin

__all__ = ["LeadExecConnectionAdmin", "PendingRevocationAdmin"]
