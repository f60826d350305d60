"""Key rotation: all stored tokens, and the fingerprints made of them, under the first key.

Rows that somebody holds are waited for, and the others change hands, so that no refresh in flight
can bring back what was written under an old key. All in small transactions, each of which leaves
nothing behind if it is stopped, so the rotation may be stopped at any moment and started again.
"""

import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from . import crypto
from .exceptions import DecryptionFailed
from .fields import Ciphertext
from .models import (
    LeadExecConnection,
    PendingRevocation,
    despite_deadlocks,
    released,
    writing,
)

BATCH = 200
# Long enough for a batch of the refresh command to be done with the rows it holds.
PATIENCE = 120

Row = LeadExecConnection | PendingRevocation


@dataclass
class Tally:
    """``current``: was under the first key already. ``busy``: held by a refresh all the while."""

    rotated: int = 0
    current: int = 0
    unreadable: int = 0
    busy: int = 0

    def add(self, other: "Tally") -> None:
        for name, count in asdict(other).items():
            setattr(self, name, getattr(self, name) + count)


def rotate_keys(using: str) -> Iterator[Tally]:
    """Rotate connections and outbox of a database; yields the tally after each batch."""
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
        give_up_at = time.monotonic() + PATIENCE
        while busy and time.monotonic() < give_up_at:
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
    """Rotate these rows; returns the keys of those that somebody else holds."""
    manager = model._default_manager.using(using)
    wanted = manager.filter(pk__in=keys, fingerprint__isnull=False).order_by("pk")

    def rotate() -> tuple[set[int], Tally]:
        done = Tally()
        lease_id = uuid.uuid4().hex
        with writing(using):
            busy = set(wanted.values_list("pk", flat=True))
            for row in wanted.free().locked(skip=True):
                busy.discard(row.pk)
                if values := _values(row, done):
                    # Whoever held it before, and is late with an answer, has lost it with this.
                    manager.filter(pk=row.pk).update(
                        **values, lease_id=lease_id, lease_until=released()
                    )
        return busy, done

    busy, done = despite_deadlocks(using, rotate)
    tally.add(done)
    return busy


def _values(row: Row, tally: Tally) -> dict[str, str]:
    """The columns to write; none if the row is current or can't be read."""
    old: dict[str, str] = {"refresh_token": row.refresh_token_ciphertext}
    if isinstance(row, LeadExecConnection):
        old["access_token"] = row.access_token_ciphertext
    try:
        new = {
            name: Ciphertext(crypto.rotate(text))
            for name, text in old.items()
            if text and not crypto.is_current(text)
        }
        fingerprint = crypto.fingerprint(row.refresh_token)
    except DecryptionFailed:
        tally.unreadable += 1
        return {}
    if not new and fingerprint == row.fingerprint:
        tally.current += 1
        return {}
    tally.rotated += 1
    return {**new, "fingerprint": fingerprint}
