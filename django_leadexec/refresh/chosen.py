"""Work on rows that a person has selected, while that person waits: N seconds at most."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from django.db.models import Count, Q
from django.utils import timezone

from ..conf import get_settings
from ..conflicts import retry_on_deadlock
from ..leases import writing
from ..models import ConnectionQuerySet, LeadExecConnection, PendingRevocation
from ..outbox import OutboxQuerySet
from ..querysets import RevokedBatch, chunks
from .options import Options
from .refresher import Refresher

# How many revocations are sent while somebody waits. In ten seconds a run sends fewer.
MOST_SENT = 2_000


@dataclass(frozen=True, kw_only=True)
class ChosenReport:
    """How many of the selected connections were refreshed, and why the others were not.

    ``rejected``: the provider said no. ``failed``: no usable answer. ``revoked``: they hold no
    token. ``foreign``: they belong to another application ID. ``left``: not asked about, because
    the time was over or another worker held them. ``everybody_refused``: the provider said no to
    all, so its answers were not stored.
    """

    refreshed: int
    rejected: int
    failed: int
    revoked: int
    foreign: int
    left: int
    everybody_refused: bool


def refresh_chosen(chosen: ConnectionQuerySet, seconds: float) -> ChosenReport:
    """Refresh the selected connections, due or not, within that many seconds.

    Raises ImproperlyConfigured and database errors.
    """
    is_revoked = Q(status=LeadExecConnection.Status.REVOKED)
    is_mine = Q(app_id=get_settings().app_id)
    before = chosen.aggregate(
        mine=Count("pk", filter=is_mine & ~is_revoked),
        foreign=Count("pk", filter=~is_mine & ~is_revoked),
        revoked=Count("pk", filter=is_revoked),
    )
    options = Options(
        using=chosen.db,
        chosen=chosen,
        revocations=None,
        everything=True,
        seconds=seconds,
        hard_deadline=True,
    )
    report = Refresher(options).run()
    asked = report.refreshed + report.rejected + report.failed
    return ChosenReport(
        refreshed=report.refreshed,
        rejected=report.rejected,
        failed=report.failed,
        revoked=before["revoked"],
        foreign=before["foreign"],
        left=max(before["mine"] - asked, 0),
        everybody_refused=report.everybody_refused,
    )


def send_batch(batch: RevokedBatch, seconds: float) -> int:
    """Send the revocations of one transaction within that many seconds, after its commit.

    Returns how many the provider has not confirmed yet, to this process or to another.
    Raises ImproperlyConfigured and database errors.
    """
    _send(batch.entries(), seconds)
    return batch.entries().count()


def send_chosen(keys: Sequence[int], using: str, seconds: float) -> tuple[int, int]:
    """Send the revocations with these keys within that many seconds, due or not, in this order.

    What is not reached is due from now on, unless others have it locked. Returns how many the
    provider has confirmed, here or for another process, and how many are queued. Raises
    ImproperlyConfigured and database errors.
    """
    outbox, now = PendingRevocation.objects.using(using), timezone.now()
    for part in chunks(keys):
        retry_on_deadlock(using, partial(_make_due, outbox.filter(pk__in=part), now))
    sent = outbox.filter(pk__in=keys[:MOST_SENT])
    _send(sent, seconds)
    confirmed = len(keys[:MOST_SENT]) - sent.count()
    return confirmed, len(keys) - confirmed


def _make_due(entries: OutboxQuerySet, at: datetime) -> None:
    """Entries that others have locked stay as they are."""
    with writing(PendingRevocation, entries.db):
        unlocked = list(entries.order_by("pk").unlocked())
        entries.with_keys_of(unlocked).write(retry_after=at)


def _send(entries: OutboxQuerySet, seconds: float) -> None:
    options = Options(
        using=entries.db, chosen=None, revocations=entries, seconds=seconds, hard_deadline=True
    )
    Refresher(options).run()
