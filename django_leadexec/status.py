"""What an operator looks at: whether refreshes and revocations keep up."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count, Min, Q
from django.utils import timezone

from .conf import get_settings
from .models import LeadExecConnection, PendingRevocation


@dataclass(frozen=True)
class Status:
    """Counts of connections by state and of what is late. Times are in seconds.

    ``overdue``: active connections whose time to be refreshed has come, or whose access token has
    ended all the same, as a failure has put their refresh off; ``overdue_seconds`` ago for the
    first. ``expired``: those whose access token has ended. ``oldest_revocation_seconds``: since the
    oldest one still unconfirmed was asked for, or None. ``revocations_given_up``: not confirmed in
    30 days, no longer tried.
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
    """Read the status of a database: all its rows once. Raises ImproperlyConfigured."""
    conf, now = get_settings(), timezone.now()
    status = LeadExecConnection.Status
    mine, active, rejected, revoked = (
        Q(app_id=conf.app_id),
        *(Q(status=value) for value in (status.ACTIVE, status.REJECTED, status.REVOKED)),
    )
    due, expired = mine & active & Q(refresh_after__lte=now), mine & active & Q(expires_at__lte=now)
    yesterday = now - timedelta(days=1)
    # One pass over the table, which may be large, however much is asked of it.
    counts = LeadExecConnection.objects.using(using).aggregate(
        active=Count("pk", filter=active),
        rejected=Count("pk", filter=rejected),
        revoked=Count("pk", filter=revoked),
        other_application=Count("pk", filter=~mine & ~revoked),
        overdue=Count("pk", filter=due | expired),
        due_since=Min("refresh_after", filter=due),
        expired=Count("pk", filter=expired),
        expired_since=Min("expires_at", filter=expired),
        rejected_last_day=Count("pk", filter=mine & rejected & Q(rejected_at__gte=yesterday)),
    )
    outbox = PendingRevocation.objects.using(using).aggregate(
        count=Count("pk"),
        given_up=Count("pk", filter=Q(retry_after=None)),
        since=Min("requested_at"),
    )
    late_since = filter(None, [counts.pop("due_since"), counts.pop("expired_since")])
    return Status(
        overdue_seconds=_seconds_since(min(late_since, default=None), now) or 0.0,
        pending_revocations=outbox["count"],
        revocations_given_up=outbox["given_up"],
        oldest_revocation_seconds=_seconds_since(outbox["since"], now),
        **counts,
    )


def _seconds_since(moment: datetime | None, now: datetime) -> float | None:
    return None if moment is None else round((now - moment).total_seconds(), 1)
