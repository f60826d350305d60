"""Many connections: refresh what is due, and tell the provider of revocations that wait.

``options`` says what to do, ``refresher`` runs it once or for ever. A run claims due rows, has
a pool of workers call the provider, and writes the answers in batches:

    refresher -> run -> turn -> work (what is due)
                             -> workers (threads) -> gate (pace, circuit_breaker) -> jobs (one call)
                             -> writer (answers to rows), refusals
"""

from .options import EVERYBODY_REFUSED, UNREADABLE_MESSAGE, Options, Report, check_number
from .refresher import Counts, Refresher, refresh_due

__all__ = [
    "EVERYBODY_REFUSED",
    "UNREADABLE_MESSAGE",
    "Counts",
    "Options",
    "Refresher",
    "Report",
    "check_number",
    "refresh_due",
]
