"""The refresh as a Celery task; ``autodiscover_tasks()`` finds it. Imports only with Celery.

Many workers may run it at once, and a redelivered message does no harm: they share the rows by
claiming them.
"""

from celery import shared_task

from .refresh import Counts, refresh_due


@shared_task(name="django_leadexec.refresh_tokens", acks_late=True, ignore_result=False)
def refresh_tokens(
    *, workers: int = 16, seconds: float = 240, rate: float | None = None, copies: int = 1
) -> Counts:
    """Refresh what is due, and tell LeadExec of revocations; returns the counts.

    ``seconds``: how long it may take; what is left is the next one's. ``copies``: how many of
    these tasks work together, this one included; it enqueues the others.
    """
    for _ in range(copies - 1):
        refresh_tokens.delay(workers=workers, seconds=seconds, rate=rate)
    return refresh_due(workers=workers, seconds=seconds, rate=rate)
