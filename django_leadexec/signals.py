"""What a site can listen to. Each is sent after the commit, at most once, and robustly: a receiver
that fails harms nobody. Arguments: ``sender``, the model class, and ``connection``, the row."""

from typing import TYPE_CHECKING

from django.dispatch import Signal

from . import commits

if TYPE_CHECKING:
    from .models import LeadExecConnection

connection_authorized: Signal = Signal()
connection_refreshed: Signal = Signal()
connection_rejected: Signal = Signal()
connection_revoked: Signal = Signal()


def send_after_commit(signal: Signal, connection: "LeadExecConnection") -> None:
    """Send ``signal`` for ``connection`` once its database has committed."""
    sender = type(connection)
    if signal.has_listeners(sender):
        # Receivers are the site's code. What they change in the row and save is judged from here.
        connection.mark_as_stored()
        commits.after_commit(
            lambda: signal.send_robust(sender=sender, connection=connection), connection._state.db
        )
