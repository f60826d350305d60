"""What a site can listen to. Each is sent after the commit, at most once, and robustly: a receiver
that fails harms nobody. Arguments: ``sender``, the model class, and ``connection``, the row."""

from typing import TYPE_CHECKING

from django.db import transaction
from django.dispatch import Signal

if TYPE_CHECKING:
    from .models import LeadExecConnection

connection_authorized = Signal()
connection_refreshed = Signal()
connection_rejected = Signal()
connection_revoked = Signal()


def announce(signal: Signal, connection: "LeadExecConnection") -> None:
    """Send ``signal`` for ``connection`` once its database has committed."""
    sender = type(connection)
    if signal.has_listeners(sender):
        transaction.on_commit(
            lambda: signal.send_robust(sender=sender, connection=connection),
            using=connection._state.db,
            robust=True,
        )
