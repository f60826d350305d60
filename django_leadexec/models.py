"""Connections and the outbox: columns, states, and what an answer makes of a row. No HTTP.

Every write that changes a token or a state is guarded: it names the version or the lease it is
based on, and changes nothing if the row has moved on meanwhile.
"""

import time
from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.conf import settings
from django.core.exceptions import FieldError
from django.db import models
from django.db.models.functions import Length
from django.db.models.lookups import Exact
from django.db.models.signals import class_prepared, pre_delete
from django.utils import timezone
from django.utils.translation import gettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from . import crypto
from .actions import ProviderActions
from .clock import from_timestamp, jitter, seconds_from_now
from .columns import columns
from .conf import DAY, get_settings
from .fields import EncryptedTextField, storable
from .guarded import GuardedRow
from .outbox import PendingRevocation
from .querysets import (
    LIVE,
    ConnectionManager,
    ConnectionQuerySet,
    Status,
    columns_of_revoked,
)
from .secret import Secret

__all__ = ["ConnectionQuerySet", "LeadExecConnection", "PendingRevocation"]

# Seconds before a refresh that has failed is tried again. The wait doubles with each failure.
FIRST_WAIT = 30
# Seconds that this wait has at most.
LONGEST_WAIT = 900
# Seconds before a connection that was rejected is asked about again. Later it is once a day.
FIRST_WAIT_AFTER_REFUSAL = 3_600
# How long the provider has to refuse a connection before it is revoked here.
REJECTED_FOR = timedelta(days=30)

# What write_claimed() writes.
WRITTEN_UNDER_LEASE = (
    *("status", "access_token", "expires_at", "refresh_after", "refreshed_at"),
    *("rejected_at", "attempts", "last_error", "version"),
)
# What only this package may write, because other columns or the outbox depend on it.
OWN_COLUMNS = frozenset(
    {
        *("status", "refresh_token", "access_token", "fingerprint"),
        *("identity", "app_id", "account_id"),
        *("version", "revoked_at", "rejected_at", "lease_id", "lease_until"),
    }
)


class LeadExecConnection(ProviderActions, GuardedRow):
    """One user's authorization at LeadExec: the refresh token, and the access token of the hour."""

    Status = Status
    LIVE = LIVE
    WRITTEN_UNDER_LEASE = WRITTEN_UNDER_LEASE
    schedule = "refresh_after"
    own_columns = OWN_COLUMNS
    free_columns: ClassVar[frozenset[str]] = frozenset({"user"})

    # Of the site's own user model.
    user: Any = columns.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        related_name="leadexec_connections",
        verbose_name=pgettext_lazy("LeadExec connection", "user"),
    )
    app_id: str = columns.CharField(_("application ID"), max_length=100, editable=False)
    account_id: str = columns.CharField(
        _("LeadExec account"), max_length=255, blank=True, default="", editable=False
    )
    identity: str | None = columns.CharField(max_length=64, null=True, editable=False)
    status: str = columns.CharField(
        _("status"),
        max_length=10,
        choices=Status.choices,
        default=Status.ACTIVE,
        editable=False,
    )
    refresh_token: EncryptedTextField = EncryptedTextField(editable=False)
    access_token: EncryptedTextField = EncryptedTextField(editable=False)
    fingerprint: str | None = columns.CharField(max_length=64, null=True, editable=False)
    version: int = columns.PositiveBigIntegerField(default=1, editable=False)
    expires_at: datetime | None = columns.DateTimeField(
        _("access token expires"), null=True, editable=False
    )
    refresh_after: datetime | None = columns.DateTimeField(
        _("next refresh"), null=True, editable=False
    )
    created_at: datetime = columns.DateTimeField(
        pgettext_lazy("date", "created"), auto_now_add=True
    )
    refreshed_at: datetime | None = columns.DateTimeField(
        _("last refresh"), null=True, editable=False
    )
    revoked_at: datetime | None = columns.DateTimeField(
        pgettext_lazy("date", "revoked"), null=True, editable=False
    )
    rejected_at: datetime | None = columns.DateTimeField(
        _("rejected since"), null=True, editable=False
    )
    attempts: int = columns.PositiveIntegerField(_("failures in a row"), default=0, editable=False)
    last_error: str = columns.CharField(
        _("last error"), max_length=255, blank=True, default="", editable=False
    )
    # How often the user has signed out: an automatic return is good until the next time.
    sign_outs: int = columns.PositiveIntegerField(default=0, editable=False)

    objects: ClassVar[ConnectionManager] = ConnectionManager()

    class Meta:
        verbose_name: ClassVar[Any] = _("LeadExec connection")
        verbose_name_plural: ClassVar[Any] = _("LeadExec connections")
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["app_id", "refresh_after", "id"], name="leadexec_due"),
        ]
        # Not unique=True, for which PostgreSQL gets a second index that each refresh has to write.
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["identity"], name="leadexec_one_row_per_account"),
            models.UniqueConstraint(fields=["fingerprint"], name="leadexec_one_row_per_token"),
            # Without these a row is never refreshed, found or rotated, and looks well all the same.
            models.CheckConstraint(
                condition=models.Q(
                    Exact(Length("refresh_token"), 0),
                    Exact(Length("access_token"), 0),
                    status=Status.REVOKED,
                    fingerprint=None,
                    identity=None,
                )
                | models.Q(
                    ~models.Q(fingerprint=""),
                    status__in=LIVE,
                    fingerprint__isnull=False,
                    identity__isnull=False,
                    refresh_after__isnull=False,
                ),
                name="leadexec_row_is_complete",
            ),
        ]
        permissions: ClassVar[list[tuple[str, Any]]] = [
            ("revoke_leadexecconnection", _("Can revoke LeadExec connections"))
        ]

    def __str__(self) -> str:
        names = {"number": self.pk, "status": self.get_status_display()}
        return gettext("LeadExec connection %(number)s (%(status)s)") % names

    def complete(self) -> None:
        """Fill in what follows from the token and the user. The row is due for refresh at once.

        Raises FieldError if there is no refresh token, or if a revoked row has one.
        """
        if self.status == Status.REVOKED:
            if self.refresh_token or self.access_token:
                raise FieldError("A LeadExecConnection that is revoked holds no tokens.")
            self.become_revoked(self.revoked_at or timezone.now())
            return
        if not self.refresh_token:
            raise FieldError("A LeadExecConnection needs a refresh_token, unless it is revoked.")
        self.app_id = self.app_id or get_settings().app_id
        if not self.fingerprint:
            self.fingerprint = crypto.fingerprint(self.refresh_token.decrypt())
        if not self.identity:
            self.identity = crypto.identity_of(self.app_id, self.account_id, self.user_id)
        self.refresh_after = self.refresh_after or timezone.now()

    # What an answer makes of the row, in memory. write_claimed() stores it.

    def record_success(self, access_token: str | Secret, expires_at: float) -> None:
        """A fresh access token, good until ``expires_at`` (epoch seconds)."""
        now = time.time()
        self.status = self.Status.ACTIVE
        self.access_token = access_token
        self.expires_at = from_timestamp(expires_at)
        self.refresh_after = seconds_from_now(refresh_wait(expires_at - now))
        self.refreshed_at = from_timestamp(now)
        self.rejected_at = None
        self.attempts = 0
        self.last_error = ""
        self.version += 1

    def record_unverified(self) -> None:
        """A token that nobody has asked the provider about yet. It is due at once."""
        self.status = Status.ACTIVE
        self.access_token = Secret("")
        self.expires_at = None
        self.refresh_after = timezone.now()
        self.rejected_at, self.attempts, self.last_error = None, 0, ""
        self.version += 1

    def record_refusal(self, reason: str) -> bool:
        """The provider's explicit no. It is asked again after an hour, then daily, for 30 days.

        Returns whether these 30 days are over, so that the connection ends. Only a no of the
        provider ends it: an answer that is missing, or not believed, never does.
        """
        now = timezone.now()
        if self.status != self.Status.REJECTED:
            self.version += 1
        self.status = self.Status.REJECTED
        wait = FIRST_WAIT_AFTER_REFUSAL if self.rejected_at is None else DAY
        self.rejected_at = self.rejected_at or now
        self.refresh_after = seconds_from_now(wait * jitter(0.9, 1))
        self.attempts += 1
        self.last_error = storable(f"Refused: {reason}")
        return self.rejected_at <= now - REJECTED_FOR

    def record_failure(self, reason: str, retry_after: float | None = None) -> None:
        """No usable answer. It says nothing about the token and only puts off the next try.

        ``retry_after``: seconds the provider asked to wait.
        """
        self.put_off(reason, retry_after, first=FIRST_WAIT, longest=LONGEST_WAIT)
        self.last_error = storable(f"Not refreshed: {reason}")

    def become_revoked(self, at: datetime) -> None:
        """What ``erase()`` makes of the stored row."""
        for name, value in columns_of_revoked(at).items():
            setattr(self, name, value)
        self.version += 1
        self.mark_as_stored()

    def lives(self, min_ttl: float) -> bool:
        """Whether the stored access token is good for at least ``min_ttl`` more seconds."""
        return (
            bool(self.access_token)
            and self.expires_at is not None
            and self.expires_at >= seconds_from_now(min_ttl)
        )

    def was_refreshed_within(self, seconds: float) -> bool:
        """Whether the stored access token is not older than that."""
        if self.refreshed_at is None:
            return False
        return time.time() - self.refreshed_at.timestamp() < seconds


def refresh_wait(lifetime: float) -> float:
    """Seconds until a token with that lifetime (seconds) is refreshed: REFRESH_MARGIN earlier.

    Never in the first half of the lifetime: a provider that gives tokens a short life would
    otherwise be asked without end. The jitter spreads tokens that were made at the same time.
    """
    return max(lifetime - get_settings().refresh_margin * jitter(1, 1.25), lifetime / 2)


def _revoke_what_is_deleted(instance: LeadExecConnection, using: str, **kwargs: Any) -> None:
    # Only a revocation sets it. One that the object knows of by itself may be rolled back.
    if instance.as_read("revoked_at") is None:
        LeadExecConnection.objects.using(using).filter(pk=instance.pk).move_to_outbox()


def _watch_deletions(sender: type[models.Model], **kwargs: Any) -> None:
    """Also revoke what is deleted as a proxy or a child of the model, which sends as itself."""
    if issubclass(sender, LeadExecConnection):
        pre_delete.connect(_revoke_what_is_deleted, sender=sender)


pre_delete.connect(_revoke_what_is_deleted, sender=LeadExecConnection)
class_prepared.connect(_watch_deletions)
