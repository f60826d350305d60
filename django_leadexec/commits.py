"""Whether a caller's transaction is open, and work that waits for its commit.

Call these by ``commits.…``: ``testing`` replaces them, so that the transaction around a test does
not count as one of the caller's.
"""

from collections.abc import Callable

from django.db import connections, transaction


def is_in_transaction(using: str) -> bool:
    """Whether the code that runs now is inside a transaction on this database."""
    return connections[using].in_atomic_block


def after_commit(work: Callable[[], object], using: str | None) -> None:
    """Do ``work`` once the transaction has committed, or now if there is none.

    An exception in it is logged, and harms nobody else.
    """
    transaction.on_commit(work, using=using, robust=True)
