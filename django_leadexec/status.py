"""What an operator looks at: whether refreshes and revocations keep up."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count, Min
from django.utils import timezone

from .conf import get_settings
from .models import LeadExecConnection, PendingRevocation


@dataclass(frozen=True)
class Status:
    """Counts of connections by state and of what is late. Times are in seconds.

    ``overdue``: active connections whose time to be refreshed has come, ``overdue_seconds`` ago for
    the first. ``expired``: active ones whose access token has ended, those that wait out a failure
    included. ``oldest_revocation_seconds``: since the oldest one still unconfirmed was asked for,
    or None. ``revocations_given_up``: not confirmed in 30 days, no longer tried.
    """

    active: int
    rejected: int
    revoked: int
    other_application: int
    overdue: int
    overdue_seconds: float
    expired: int
    rejected_last_day: int
    pending_revocations: int
    revocations_given_up: int
    oldest_revocation_seconds: float | None


def read_status(using: str) -> Status:
    """Read the status of a database. Raises ImproperlyConfigured."""
    conf, now = get_settings(), timezone.now()
    everything = LeadExecConnection.objects.using(using)
    counts = dict(everything.order_by().values_list("status").annotate(Count("pk")))
    mine = everything.filter(app_id=conf.app_id)
    late = mine.active().filter(refresh_after__lte=now)
    overdue = late.aggregate(count=Count("pk"), since=Min("refresh_after"))
    outbox = PendingRevocation.objects.using(using)
    oldest = outbox.aggregate(since=Min("requested_at"))["since"]
    return Status(
        active=counts.get("active", 0),
        rejected=counts.get("rejected", 0),
        revoked=counts.get("revoked", 0),
        other_application=everything.live().exclude(app_id=conf.app_id).count(),
        overdue=overdue["count"],
        overdue_seconds=_seconds_since(overdue["since"], now) or 0.0,
        expired=mine.active().filter(expires_at__lte=now).count(),
        rejected_last_day=mine.filter(
            status=LeadExecConnection.Status.REJECTED, rejected_at__gte=now - timedelta(days=1)
        ).count(),
        pending_revocations=outbox.count(),
        revocations_given_up=outbox.filter(retry_after=None).count(),
        oldest_revocation_seconds=_seconds_since(oldest, now),
    )


def _seconds_since(moment: datetime | None, now: datetime) -> float | None:
    return None if moment is None else round((now - moment).total_seconds(), 1)
