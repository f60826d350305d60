"""The bar that shows a person at a terminal how far a command is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.base import BaseCommand
from tqdm import tqdm


@contextmanager
def progress_bar(
    command: BaseCommand, verbosity: int, count: Callable[[], int] | None = None
) -> Iterator[Any]:
    """A bar for rows, silent where stderr is no terminal. ``count`` tells how many there will be.

    It is called only if somebody sees the bar.
    """
    is_seen = command.stderr.isatty() and verbosity > 0
    # Not through Django's wrapper, which ends each of the bar's updates with a new line.
    stderr: Any = command.stderr._out
    total = count() if count and is_seen else None
    with tqdm(total=total, unit="row", disable=not is_seen, file=stderr) as bar:
        yield bar
