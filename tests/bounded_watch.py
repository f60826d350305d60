"""A --watch that a test ends."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from django_leadexec.refresh import Refresher

from .concurrency.threads import join


@contextmanager
def stopping_in_time(refresher: Refresher, seconds: float = 60) -> Iterator[None]:
    """A watch that never sees what it waits for must end all the same."""
    timer = threading.Timer(seconds, refresher.stop.set)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        join(timer)
