"""Key rotation: all stored tokens, and their fingerprints, are made again with the first key.

A row that a worker holds is waited for. A row that nobody holds gets a new lease, so that a worker
whose lease has ended can't write a late answer under an old key. Each batch is a transaction of
its own, so a rotation may be stopped at any time and started again.
"""

import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from . import crypto
from .clock import monotonic
from .conflicts import retry_on_deadlock
from .exceptions import DecryptionFailed
from .fields import Ciphertext
from .leases import released, writing
from .models import LeadExecConnection, PendingRevocation

# Rows in one transaction.
BATCH = 200
# Seconds to wait for rows that others hold: longer than the refresh command holds a batch.
PATIENCE = 120

Row = LeadExecConnection | PendingRevocation


@dataclass
class Tally:
    """How many rows were rotated, and why the others were not.

    ``current``: the first key was in use already. ``unreadable``: no key opens them. ``busy``: a
    worker held them all the time, or another transaction had them locked.
    """

    rotated: int = 0
    current: int = 0
    unreadable: int = 0
    busy: int = 0

    def add(self, other: "Tally") -> None:
        for name, count in asdict(other).items():
            setattr(self, name, getattr(self, name) + count)


def rotate_keys(using: str) -> Iterator[Tally]:
    """Rotate the connections and the outbox of a database. Yields the tally after each batch."""
    tally = Tally()
    for model in (LeadExecConnection, PendingRevocation):
        rows = model._default_manager.using(using).filter(fingerprint__isnull=False)
        busy: set[int] = set()
        cursor = 0
        while window := list(
            rows.filter(pk__gt=cursor).order_by("pk").values_list("pk", flat=True)[:BATCH]
        ):
            cursor = window[-1]
            busy |= _rotate(model, window, using, tally)
            yield tally
        wait_until = monotonic() + PATIENCE
        while busy and monotonic() < wait_until:
            time.sleep(1)
            busy = _rotate(model, sorted(busy), using, tally)
        tally.busy += len(busy)
        yield tally


def _rotate(
    model: type[LeadExecConnection] | type[PendingRevocation],
    keys: list[int],
    using: str,
    tally: Tally,
) -> set[int]:
    """Rotate these rows. Returns the primary keys of those that somebody else holds."""
    manager = model._default_manager.using(using)
    wanted = manager.filter(pk__in=keys, fingerprint__isnull=False).order_by("pk")

    def rotate() -> tuple[set[int], Tally]:
        done = Tally()
        lease_id = uuid.uuid4().hex
        with writing(model, using):
            busy = set(wanted.values_list("pk", flat=True))
            for row in wanted.free().unlocked(no_key=False):
                busy.discard(row.pk)
                if values := _values(row, done):
                    # The new lease makes a late answer of an earlier holder lose.
                    manager.filter(pk=row.pk).write(
                        **values, lease_id=lease_id, lease_until=released()
                    )
        return busy, done

    busy, done = retry_on_deadlock(using, rotate)
    tally.add(done)
    return busy


def _values(row: Row, tally: Tally) -> dict[str, str]:
    """The columns to write: none if the row is current or can't be decrypted."""
    old: dict[str, str] = {"refresh_token": row.refresh_token}
    if isinstance(row, LeadExecConnection):
        old["access_token"] = row.access_token
    try:
        new = {
            name: Ciphertext(crypto.rotate(text))
            for name, text in old.items()
            if text and not crypto.is_current(text)
        }
        fingerprint = crypto.fingerprint(row.refresh_token.decrypt())
    except DecryptionFailed:
        tally.unreadable += 1
        return {}
    if not new and fingerprint == row.fingerprint:
        tally.current += 1
        return {}
    tally.rotated += 1
    return {**new, "fingerprint": fingerprint}
