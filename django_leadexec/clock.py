"""Points in time, waits that grow, and waits that differ from one worker to the next."""

import random
import sys
import time
from datetime import UTC, datetime, timedelta

from django.conf import settings

# Windows has no other. In a tuple, because freezegun replaces functions that are attributes of a
# module.
_MONOTONIC_OF_WINDOWS = (time.monotonic,)
# A float overflows after 1,024 doublings, which an outage of a day can reach.
MAX_DOUBLINGS = 16


def monotonic() -> float:
    """``time.monotonic`` that also counts on in a test that has stopped the clocks.

    freezegun stops ``time.monotonic``, too. A wait that ends by a stopped clock never ends.
    """
    if sys.platform == "win32":
        return _MONOTONIC_OF_WINDOWS[0]()
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def from_timestamp(seconds: float) -> datetime:
    """Seconds since the epoch as the kind of datetime that ``USE_TZ`` asks for."""
    return datetime.fromtimestamp(seconds, UTC if settings.USE_TZ else None)


def seconds_from_now(seconds: float) -> datetime:
    """The datetime that many seconds after now.

    It always compares as later than now. Without ``USE_TZ``, local time repeats one hour in
    autumn, and converting the later timestamp could give an earlier local time. A row would then
    be due for a whole hour. With the sum made in local time it is one hour late instead, once.
    """
    return from_timestamp(time.time()) + timedelta(seconds=seconds)


def backoff(attempts: int, *, first: float, longest: float) -> float:
    """Seconds to wait after ``attempts`` failures in a row: ``first``, then doubling."""
    return min(first * 2.0 ** min(attempts - 1, MAX_DOUBLINGS), longest)


def jitter(least: float, most: float) -> float:
    """A random number in this range, so that many workers do not all act at the same moment."""
    return random.uniform(least, most)  # noqa: S311  # nosec B311 # protects nothing secret
