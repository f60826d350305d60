"""Revoke the connections of some users, or of all, for example after an incident."""

import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from .clock import monotonic
from .conflicts import LOCK_INTERVAL, LOCK_PATIENCE, retry_on_deadlock
from .crypto import UNREADABLE
from .leases import writing
from .models import LeadExecConnection, PendingRevocation
from .outbox import OutboxQuerySet
from .querysets import CHUNK_SIZE, ConnectionQuerySet, RevokedBatch, chunks
from .refresh import Options, Refresher


@dataclass
class RevocationReport:
    """What was done. ``revoked``: connections that can't be used any more, from now on.

    ``confirmed``: revocations that LeadExec has confirmed in this run. ``queued``: those of these
    users that it has not confirmed yet, earlier ones too. ``unreadable``: those of the ``queued``
    whose token opens with none of ENCRYPTION_KEYS. ``left``: connections that were not
    reached before the run was stopped, or that others had locked all the time.
    """

    revoked: int = 0
    confirmed: int = 0
    queued: int = 0
    unreadable: int = 0
    left: int = 0
    seconds: float = 0.0

    def is_done(self) -> bool:
        return not (self.queued or self.left)


class MassRevocation:
    """Revokes connections of a database: of these users, by their keys, or of all for None.

    ``stop`` may be set from any thread or signal handler. ``progress`` is told how many connections
    have been revoked.
    """

    def __init__(
        self,
        using: str,
        user_keys: Iterable[Any] | None,
        *,
        stop: threading.Event,
        progress: Callable[[int], object] = lambda count: None,
    ) -> None:
        self.using = using
        self.user_keys: list[Any] | None = (
            None if user_keys is None else sorted(set(user_keys), key=str)
        )
        self.stop = stop
        self.progress = progress
        self._batch_name = uuid.uuid4().hex

    def count(self) -> int:
        """How many connections there are to revoke."""
        return sum(rows.count() for rows in self._parts())

    def run(self, seconds: float) -> RevocationReport:
        """Revoke all, then send the revocations for that many seconds. The rest stays queued.

        All use of a connection stops before anybody is called. Raises ImproperlyConfigured and
        database errors; what is revoked by then stays so.
        """
        began, report = monotonic(), RevocationReport()
        self._revoke_parts(report)
        give_up_at = monotonic() + LOCK_PATIENCE
        # What is left after a pass, others have locked.
        while report.left and not self.stop.is_set() and monotonic() < give_up_at:
            self.stop.wait(LOCK_INTERVAL)
            self._revoke_parts(report)
        report.confirmed = self._send(seconds)
        for entries in self._waiting():
            report.queued += entries.count()
            report.unreadable += entries.filter(last_error__endswith=UNREADABLE).count()
        report.seconds = round(monotonic() - began, 3)
        return report

    def _revoke_parts(self, report: RevocationReport) -> None:
        for rows in self._parts():
            report.revoked += self._revoke(rows)
        report.left = self.count()

    def _parts(self) -> Iterator[ConnectionQuerySet]:
        """The live connections, in query sets that name few enough users for one statement."""
        rows = LeadExecConnection.objects.using(self.using).live()
        if self.user_keys is None:
            yield rows
        else:
            for keys in chunks(self.user_keys):
                yield rows.filter(user__in=keys)

    def _revoke(self, rows: ConnectionQuerySet) -> int:
        """Revoke in transactions of a few hundred rows each, so that no lock is held for long."""
        revoked, last = 0, 0
        everything = LeadExecConnection.objects.using(self.using)
        while not self.stop.is_set():
            keys = list(
                rows.filter(pk__gt=last).order_by("pk").values_list("pk", flat=True)[:CHUNK_SIZE]
            )
            if not keys:
                break
            last = keys[-1]
            batch = retry_on_deadlock(
                self.using, partial(self._revoke_unlocked, everything.filter(pk__in=keys))
            )
            count = len(batch.connection_keys)
            revoked += count
            self.progress(count)
        return revoked

    def _revoke_unlocked(self, rows: ConnectionQuerySet) -> RevokedBatch:
        """Revoke those of these rows that no transaction of the site has locked."""
        with writing(LeadExecConnection, self.using):
            unlocked = list(rows.order_by("pk").unlocked(no_key=False))
            return rows.with_keys_of(unlocked).move_to_outbox(self._batch_name)

    def _send(self, seconds: float) -> int:
        """Tell LeadExec, for that many seconds; how many revocations it has confirmed."""
        ends_at, confirmed = monotonic() + seconds, 0
        for entries in self._waiting():
            options = Options(
                using=self.using,
                chosen=None,
                revocations=entries,
                seconds=max(ends_at - monotonic(), 0),
            )
            report = Refresher(options, stop=self.stop).run()
            confirmed += report.revoked
            if report.outage:
                break
        return confirmed

    def _waiting(self) -> Iterator[OutboxQuerySet]:
        """What is to be told to LeadExec: what was revoked here, and earlier ones of the users."""
        outbox = PendingRevocation.objects.using(self.using)
        if self.user_keys is None:
            yield outbox
            return
        yield outbox.filter(batch=self._batch_name)
        earlier = outbox.exclude(batch=self._batch_name)
        connections = LeadExecConnection.objects.using(self.using)
        for keys in chunks(self.user_keys):
            theirs = connections.filter(user__in=keys)
            yield earlier.filter(connection_key__in=theirs.values("pk"))
