"""Lets the package see commits inside a ``TestCase``, whose own transaction never commits.

There, ``revoke()`` would find itself in a transaction for ever, and no signal would be sent. While
this is in force the test's transaction does not count. What the package does after a commit is
done when the site's outermost ``atomic()`` block has ended well. The site's own ``on_commit``
callbacks are left to ``captureOnCommitCallbacks``.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from django.db import connections, transaction

from .. import commits

logger: logging.Logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Work:
    """A callback of the package's, to tell it from the site's."""

    do: Callable[[], object]

    def __call__(self) -> None:
        self.do()


@contextmanager
def visible_commits() -> Iterator[None]:
    """Treat a transaction of ``TestCase``, or of pytest-django's ``db``, as if it was not there."""
    leave: Any = transaction.Atomic.__exit__

    def leave_and_do(self: transaction.Atomic, *error: Any) -> None:
        leave(self, *error)
        _do_what_waited(self.using)

    with (
        mock.patch.object(commits, "is_in_transaction", _is_in_transaction),
        mock.patch.object(commits, "after_commit", _after_commit),
        mock.patch.object(transaction.Atomic, "__exit__", leave_and_do),
    ):
        yield


def _is_of_a_test(block: transaction.Atomic) -> bool:
    # Django's own mark, by which it allows durable blocks in a TestCase.
    return getattr(block, "_from_testcase", False)


def _is_in_transaction(using: str) -> bool:
    database = connections[using]
    if not database.in_atomic_block:
        return False
    return not all(map(_is_of_a_test, database.atomic_blocks))


def _after_commit(work: Callable[[], object], using: str | None) -> None:
    transaction.on_commit(_Work(work), using=using, robust=True)
    _do_what_waited(using)


def _do_what_waited(using: str | None) -> None:
    database = transaction.get_connection(using)
    blocks = database.atomic_blocks
    if not blocks or not all(map(_is_of_a_test, blocks)) or database.needs_rollback:
        return
    waiting = [entry for entry in database.run_on_commit if isinstance(entry[1], _Work)]
    database.run_on_commit = [entry for entry in database.run_on_commit if entry not in waiting]
    for entry in waiting:
        try:
            entry[1]()
        except Exception:
            # As Django treats robust callbacks.
            logger.exception("A callback after a commit failed.")
