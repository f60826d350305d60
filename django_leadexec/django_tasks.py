"""The refresh as a task of Django's own task framework (Django 6.0 and later).

Many workers may run it at once: they share the rows by claiming them.
"""

from typing import Any

from django.tasks import TaskContext, task

from .refresh import Counts, Options, refresh_due
from .refresh.options import TASK_SECONDS


@task(takes_context=True)
def refresh_tokens(
    context: "TaskContext[..., Any]",
    /,
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
    enqueue = context.task_result.task.enqueue
    return refresh_due(copies, enqueue, workers=workers, seconds=seconds, rate=rate)
