"""The refresh as a Celery task; ``autodiscover_tasks()`` finds it. Imports only with Celery.

Many workers may run it at once, and a redelivered message does no harm: they share the rows by
claiming them.
"""

from typing import Any

from celery import shared_task

from .refresh import Counts, Options, refresh_due
from .refresh.options import TASK_SECONDS


@shared_task(bind=True, name="django_leadexec.refresh_tokens", acks_late=True, ignore_result=False)
def refresh_tokens(
    self: Any,
    *,
    workers: int = Options.workers,
    seconds: float = TASK_SECONDS,
    rate: float | None = None,
    copies: int = 1,
) -> Counts:
    """Refresh what is due, and send pending revocations to LeadExec. Returns the counts.

    ``workers``: calls to LeadExec at a time at most. ``seconds``: how long it may take; the next
    task does the rest. ``rate``: calls a second at most. ``copies``: how many tasks work together,
    this one included. It enqueues the others in the queue that it came from.
    Raises ValueError, naming the option, for one that is out of range.
    """

    def enqueue(**options: object) -> None:
        self.apply_async(kwargs=options, **_route_of(self.request.delivery_info or {}))

    return refresh_due(copies, enqueue, workers=workers, seconds=seconds, rate=rate)


def _route_of(delivery: dict[str, Any]) -> dict[str, Any]:
    """The route of a message, to send another one the same way."""
    key = delivery.get("routing_key")
    if exchange := delivery.get("exchange"):
        return {"exchange": exchange, "routing_key": key}
    return {"queue": key} if key else {}
