"""For operators and monitors: whether refreshes and revocations keep up."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count, Min, Q
from django.utils import timezone

from .conf import get_settings
from .crypto import UNREADABLE
from .models import LeadExecConnection, PendingRevocation
from .outbox import overdue_since


@dataclass(frozen=True)
class Status:
    """Counts of connections by state, and of what is late. Times are in seconds.

    ``overdue``: active connections whose refresh is due, or whose access token has ended; a failed
    refresh is put off, but the token ends all the same. ``overdue_seconds``: how late the first of
    them is. ``expired``: those whose access token has ended. ``unreadable``, and
    ``revocations_unreadable``: rows whose token opened with none of ENCRYPTION_KEYS when they were
    last tried. ``oldest_revocation_seconds``: the age of the oldest pending revocation, or None.
    ``revocations_overdue``: pending revocations that LeadExec has not confirmed for 30 days. They
    are still tried once a day.
    """

    active: int
    rejected: int
    revoked: int
    other_application: int
    overdue: int
    overdue_seconds: float
    expired: int
    unreadable: int
    rejected_last_day: int
    pending_revocations: int
    revocations_overdue: int
    revocations_unreadable: int
    oldest_revocation_seconds: float | None


def read_status(using: str) -> Status:
    """The status of a database. Reads each table once. Raises ImproperlyConfigured."""
    conf, now = get_settings(), timezone.now()
    status = LeadExecConnection.Status
    mine, active, rejected, revoked = (
        Q(app_id=conf.app_id),
        *(Q(status=value) for value in (status.ACTIVE, status.REJECTED, status.REVOKED)),
    )
    due, expired = mine & active & Q(refresh_after__lte=now), mine & active & Q(expires_at__lte=now)
    yesterday = now - timedelta(days=1)
    # One query, because the table may be large.
    counts = LeadExecConnection.objects.using(using).aggregate(
        active=Count("pk", filter=active),
        rejected=Count("pk", filter=rejected),
        revoked=Count("pk", filter=revoked),
        other_application=Count("pk", filter=~mine & ~revoked),
        overdue=Count("pk", filter=due | expired),
        due_since=Min("refresh_after", filter=due),
        expired=Count("pk", filter=expired),
        expired_since=Min("expires_at", filter=expired),
        unreadable=Count("pk", filter=mine & ~revoked & Q(last_error__endswith=UNREADABLE)),
        rejected_last_day=Count("pk", filter=mine & rejected & Q(rejected_at__gte=yesterday)),
    )
    outbox = PendingRevocation.objects.using(using).aggregate(
        count=Count("pk"),
        overdue=Count("pk", filter=Q(requested_at__lte=overdue_since())),
        unreadable=Count("pk", filter=Q(last_error__endswith=UNREADABLE)),
        since=Min("requested_at"),
    )
    late_since = filter(None, [counts.pop("due_since"), counts.pop("expired_since")])
    return Status(
        overdue_seconds=_seconds_since(min(late_since, default=None), now) or 0.0,
        pending_revocations=outbox["count"],
        revocations_overdue=outbox["overdue"],
        revocations_unreadable=outbox["unreadable"],
        oldest_revocation_seconds=_seconds_since(outbox["since"], now),
        **counts,
    )


def _seconds_since(since: datetime | None, now: datetime) -> float | None:
    return None if since is None else round((now - since).total_seconds(), 1)
