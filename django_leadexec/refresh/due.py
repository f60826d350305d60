"""What is due. The command, the runs and the waits between them all ask here."""

from django.db.models import Q

from ..clock import from_timestamp
from ..conf import Settings
from ..models import ConnectionQuerySet, PendingRevocation
from ..outbox import OutboxQuerySet
from .options import Options


def due_connections(options: Options, conf: Settings, at: float) -> ConnectionQuerySet:
    """The connections that a run begun ``at`` (epoch seconds) has to refresh, in order.

    A row counts once a run: what the run has written is no longer due for it.
    Raises ValueError if the options leave connections out.
    """
    rows = _wanted(options, conf, at)
    is_ahead = options.everything or _shift(options, conf) > 0
    return rows.free(untouched_since=at) if is_ahead else rows


def _wanted(options: Options, conf: Settings, at: float) -> ConnectionQuerySet:
    """``due_connections``, and those that others are refreshing."""
    if options.chosen is None:
        raise ValueError("These options leave connections out.")
    rows = options.chosen.live().filter(app_id=conf.app_id)
    if options.everything:
        return rows.order_by("pk")
    shift = _shift(options, conf)
    rows = rows.due(from_timestamp(at + shift))
    if shift <= 0:
        return rows
    # A longer margin takes rows earlier only if they are well. A row that has failed keeps its
    # own time.
    return rows.filter(Q(attempts=0) | Q(refresh_after__lte=from_timestamp(at)))


def _shift(options: Options, conf: Settings) -> float:
    """By how many seconds rows are taken earlier than with REFRESH_MARGIN."""
    return 0.0 if options.within is None else options.within - conf.refresh_margin


def due_revocations(options: Options, at: float) -> OutboxQuerySet:
    """The outbox entries that a run begun ``at`` (epoch seconds) has to send, in order.

    Entries of another application are sent as well: their users have asked for it, and the
    disconnect call names no application.
    """
    if options.revocations is None:
        return PendingRevocation.objects.none()
    return options.revocations.due(from_timestamp(at))


def count_due(options: Options, conf: Settings, at: float) -> tuple[int, int]:
    """How many connections and outbox entries are due and held by nobody."""
    revocations = due_revocations(options, at).free().count()
    if options.chosen is None:
        return 0, revocations
    return due_connections(options, conf, at).free().count(), revocations


def count_held(options: Options, conf: Settings, at: float, own: set[str]) -> int:
    """How many connections and outbox entries are due and held, but not by the ``own`` leases."""
    held = due_revocations(options, at).held().exclude(lease_id__in=own).count()
    if options.chosen is not None:
        held += _wanted(options, conf, at).held().exclude(lease_id__in=own).count()
    return held


def count_foreign(options: Options, conf: Settings, at: float) -> int:
    """How many due connections belong to another application ID. They are never called."""
    if options.chosen is None:
        return 0
    due = options.chosen.live().order_by()
    if not options.everything:
        due = due.filter(refresh_after__lte=from_timestamp(at))
    # Two ranges of the index. A condition "is not" would read all of it.
    return due.filter(app_id__gt=conf.app_id).count() + due.filter(app_id__lt=conf.app_id).count()
