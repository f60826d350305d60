"""The refresh as a Celery task; ``autodiscover_tasks()`` finds it. Imports only with Celery.

Many workers may run it at once, and a redelivered message does no harm: they share the rows by
claiming them.
"""

from typing import Any

from celery import shared_task

from .refresh import Counts, refresh_due


@shared_task(bind=True, name="django_leadexec.refresh_tokens", acks_late=True, ignore_result=False)
def refresh_tokens(
    self: Any,
    *,
    workers: int = 16,
    seconds: float = 240,
    rate: float | None = None,
    copies: int = 1,
) -> Counts:
    """Refresh what is due, and tell LeadExec of revocations; returns the counts.

    ``seconds``: how long it may take; what is left is the next one's. ``copies``: how many of
    these tasks work together, this one included; it enqueues the others where it came from.
    """

    def enqueue(**options: object) -> None:
        self.apply_async(kwargs=options, **_way_here(self.request.delivery_info or {}))

    return refresh_due(copies, enqueue, workers=workers, seconds=seconds, rate=rate)


def _way_here(delivery: dict[str, Any]) -> dict[str, Any]:
    """The route that a message took, to send another one the same way."""
    key = delivery.get("routing_key")
    if exchange := delivery.get("exchange"):
        return {"exchange": exchange, "routing_key": key}
    return {"queue": key} if key else {}
