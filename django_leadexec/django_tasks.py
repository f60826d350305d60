"""The refresh as a task of Django's own task framework (Django 6.0 and later).

Many workers may run it at once: they share the rows by claiming them.
"""

from typing import Any

from django.tasks import TaskContext, task

from .refresh import Counts, refresh_due


@task(takes_context=True)
def refresh_tokens(
    context: "TaskContext[..., Any]",
    /,
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
    enqueue = context.task_result.task.enqueue
    return refresh_due(copies, enqueue, workers=workers, seconds=seconds, rate=rate)
