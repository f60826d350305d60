"""What can go wrong, as callers see it. No message here ever holds a token or a URL with one."""


class LeadExecError(Exception):
    """Base of all errors of this package."""


class ProviderUnavailable(LeadExecError):
    """The provider gave no usable answer; this says nothing about the token.

    ``retry_after``: seconds after which it is worth asking again, or None if unknown.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ConnectionBusy(ProviderUnavailable):
    """Another transaction of this site keeps the row locked. Nobody was asked, or told."""


class AuthorizationRejected(LeadExecError):
    """The authorization can't be used: refused, revoked, or made for another application."""


class ConnectionConflict(LeadExecError):
    """The token, or the LeadExec account behind it, belongs to another user of this site."""


class UnstorableAccount(LeadExecError):
    """The database can't hold what names the LeadExec account: it is too long, or its table has an
    older character set, such as latin1. Nothing is stored."""


class DecryptionFailed(LeadExecError):
    """Stored ciphertext opens with none of ``ENCRYPTION_KEYS``. It is left as it is."""


class RevocationPending(ConnectionConflict):
    """This site has revoked the token, and the provider has not confirmed that yet."""


class SignInForbidden(LeadExecError):
    """LeadExec may not sign this user in: they are inactive, or of the staff."""
