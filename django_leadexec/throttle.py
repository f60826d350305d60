"""How often one visitor may make us call the provider."""

import hashlib
import time

from django.core.cache import cache
from django.http import HttpRequest

from .conf import get_settings, parse_rate
from .exceptions import LeadExecError


class Throttled(LeadExecError):
    """``CALLBACK_RATE`` is used up. ``retry_after``: seconds until the next period."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("Too many attempts. Please try again later.")
        self.retry_after = retry_after


def spend(request: HttpRequest) -> None:
    """Count one provider call against the client's address and its session.

    Behind a proxy, ``REMOTE_ADDR`` is the proxy's unless the site's own middleware mends it.
    Raises Throttled.
    """
    limit, period = parse_rate(get_settings().callback_rate)
    window, passed = divmod(int(time.time()), period)
    for visitor in (request.META.get("REMOTE_ADDR"), request.session.session_key):
        if visitor:
            # Hashed: the session's key is a secret, and a cache is often shared.
            digest = hashlib.sha256(visitor.encode()).hexdigest()
            key = f"django_leadexec:calls:{window}:{digest}"
            cache.add(key, 0, timeout=period)
            try:
                count = cache.incr(key)
            except ValueError:  # it expired, or was evicted, since the line before
                continue
            if count > limit:
                raise Throttled(period - passed)
