"""The outbox: refresh tokens that the provider still has to be told to revoke."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Self

from django.db import models, transaction
from django.utils import timezone
from django.utils.translation import gettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from .claims import Claim
from .columns import columns
from .conf import DAY
from .conflicts import waits_of_skipping
from .fields import EncryptedTextField, storable
from .guarded import GuardedRow
from .leases import LeasedQuerySet, released, retried_on_deadlock

if TYPE_CHECKING:
    from .models import LeadExecConnection

# Seconds before the second try; the wait then doubles, up to a day.
FIRST_WAIT = 30
# After that, status and admin point to an entry. It is still tried once a day.
OVERDUE_AFTER = timedelta(days=30)


def overdue_since() -> datetime:
    """An entry is overdue if its revocation was requested then, or earlier."""
    return timezone.now() - OVERDUE_AFTER


class OutboxQuerySet(LeasedQuerySet["PendingRevocation"]):
    """Finds the entries that are due, and writes them only under the lease they were taken with."""

    def overdue(self) -> Self:
        """Entries that the provider has not confirmed for 30 days."""
        return self.filter(requested_at__lte=overdue_since())

    def of(self, connection_key: int) -> Self:
        """The entries of this connection: one, or two if its row was restored from a backup."""
        return self.filter(connection_key=connection_key).order_by("-pk")

    @retried_on_deadlock
    def write_claimed(self, claim: Claim["PendingRevocation"], *, confirmed: bool) -> bool:
        """Delete the entry once the provider has confirmed, else store when to try again.

        False if somebody else has locked the entry, so that nothing was done.
        """
        entry = claim.row
        with transaction.atomic(using=self.db), waits_of_skipping(self.db):
            if self.lock_or_skip([claim]):
                return False
            still_ours = self.with_keys_of([entry]).filter(lease_id=claim.lease_id)
            if confirmed:
                still_ours.delete()
            else:
                still_ours.write(
                    attempts=entry.attempts,
                    last_error=entry.last_error,
                    retry_after=entry.retry_after,
                    lease_until=released(),
                )
        return True


if TYPE_CHECKING:

    class OutboxManager(models.Manager["PendingRevocation"]):
        """What ``from_queryset`` makes, for type checkers that do not run it."""

        # Without stubs of Django, pyright would take it for a descriptor that yields anything.
        def __get__(self, instance: Any, cls: Any = None) -> Self: ...
        def get_queryset(self) -> OutboxQuerySet: ...
        def all(self) -> OutboxQuerySet: ...
        def using(self, alias: str | None) -> OutboxQuerySet: ...
        def filter(self, *args: Any, **kwargs: Any) -> OutboxQuerySet: ...
        def exclude(self, *args: Any, **kwargs: Any) -> OutboxQuerySet: ...
        def order_by(self, *field_names: Any) -> OutboxQuerySet: ...
        def overdue(self) -> OutboxQuerySet: ...
        def of(self, connection_key: int) -> OutboxQuerySet: ...

else:
    OutboxManager = models.Manager.from_queryset(OutboxQuerySet)


class PendingRevocation(GuardedRow):
    """A refresh token the provider still has to be told to revoke."""

    schedule = "retry_after"
    own_columns: ClassVar[frozenset[str]] = frozenset(
        {
            *("connection_key", "app_id", "refresh_token", "fingerprint", "batch"),
            *("lease_id", "lease_until"),
        }
    )
    free_columns: ClassVar[frozenset[str]] = frozenset(
        {"requested_at", "retry_after", "attempts", "last_error"}
    )

    # No foreign key, because the entry outlives a connection that is deleted.
    connection_key: int = columns.BigIntegerField(editable=False)
    app_id: str = columns.CharField(_("application ID"), max_length=100)
    refresh_token: EncryptedTextField = EncryptedTextField(editable=False)
    fingerprint: str = columns.CharField(max_length=64, editable=False)
    # Names the one call of move_to_outbox() that wrote this entry, and others with it.
    batch: str = columns.CharField(max_length=32, editable=False)
    requested_at: datetime = columns.DateTimeField(pgettext_lazy("date", "requested"))
    retry_after: datetime = columns.DateTimeField(_("next try"), db_index=True)
    attempts: int = columns.PositiveIntegerField(_("attempts"), default=0)
    last_error: str = columns.CharField(_("last error"), max_length=255, blank=True, default="")

    objects: ClassVar[OutboxManager] = OutboxManager()

    class Meta:
        verbose_name: ClassVar[Any] = _("pending revocation")
        verbose_name_plural: ClassVar[Any] = _("pending revocations")
        permissions: ClassVar[list[tuple[str, Any]]] = [
            ("release_pendingrevocation", _("Can let go of pending revocations"))
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["connection_key"], name="leadexec_outbox_connection"),
            models.Index(fields=["fingerprint"], name="leadexec_outbox_token"),
        ]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(
                condition=~models.Q(fingerprint=""), name="leadexec_outbox_entry_has_fingerprint"
            )
        ]

    def __str__(self) -> str:
        return gettext("pending revocation %(number)s") % {"number": self.pk}

    def is_overdue(self) -> bool:
        """Whether the provider has not confirmed it for 30 days."""
        return self.requested_at <= overdue_since()

    @classmethod
    def of_connection(cls, row: "LeadExecConnection", batch: str, at: datetime) -> Self:
        """A new entry, unsaved. The ciphertext is taken over as it is, which needs no key."""
        return cls(
            connection_key=row.pk,
            app_id=row.app_id,
            refresh_token=row.refresh_token,
            fingerprint=row.fingerprint or "",
            batch=batch,
            requested_at=at,
            retry_after=at,
        )

    def complete(self) -> None:
        """Nothing follows from other columns: ``of_connection()`` fills in all of them."""

    def record_failure(self, reason: str, retry_after: float | None = None) -> None:
        """Put off the next try. ``retry_after``: seconds the provider asked to wait."""
        self.put_off(reason, retry_after, first=FIRST_WAIT, longest=DAY)
        self.last_error = storable(f"Not revoked: {reason}")
