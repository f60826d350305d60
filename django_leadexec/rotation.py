"""Key rotation: all stored tokens, and the fingerprints made of them, under the first key.

Each row is taken under its lease, so no refresh in flight can bring back what was written under an
old key; and in small transactions, so it may be stopped at any moment and started again.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from django.db import transaction

from . import crypto
from .exceptions import DecryptionFailed
from .fields import Ciphertext
from .models import LeadExecConnection, PendingRevocation, released

BATCH = 200
LEASE = 60
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
    busy = set(wanted.values_list("pk", flat=True))
    claimed = wanted.all().claim(len(keys), LEASE)
    with transaction.atomic(using=using):
        for row in claimed:
            busy.discard(row.pk)
            values = _values(row, tally)
            # Only while the lease is ours: a row authorized anew meanwhile has a newer token.
            mine = manager.filter(pk=row.pk, lease_id=row.lease_id)
            mine.update(**values, lease_until=released())
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
