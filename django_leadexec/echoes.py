"""Answers of the provider that were meant for another token on file.

A gateway, or a bug in how connections are shared, can hand out the answer to somebody else's call.
Such an answer names the other token.
"""

import logging
from typing import TypeVar

from . import crypto
from .models import LeadExecConnection, PendingRevocation
from .provider.replies import RefreshOutcome, RevokeOutcome, Unavailable
from .secret import Secret

logger: logging.Logger = logging.getLogger(__name__)

Outcome = TypeVar("Outcome", bound=RefreshOutcome | RevokeOutcome)


def believe(outcome: Outcome, using: str) -> Outcome | Unavailable:
    """The provider's answer, or Unavailable if it names another token that is on file.

    It makes a query only if the answer names another token than it was asked about.
    """
    if isinstance(outcome, Unavailable) or outcome.echo is None:
        return outcome
    if not _is_on_file(outcome.echo, using):
        return outcome
    logger.error("The provider has answered about another token on file. The answer is dropped.")
    return Unavailable("the answer was about another token")


def _is_on_file(token: Secret, using: str) -> bool:
    entries = PendingRevocation.objects.using(using)
    return (
        LeadExecConnection.objects.using(using).holding(token).exists()
        or entries.filter(fingerprint__in=crypto.fingerprints(token)).exists()
    )
