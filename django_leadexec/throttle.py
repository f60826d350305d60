"""How often one visitor may make us call the provider."""

import hashlib
import ipaddress
import logging
import time

from django.core.cache import cache
from django.http import HttpRequest

from .conf import get_settings
from .exceptions import LeadExecError, ProviderUnavailable
from .setting_rules import parse_rate

logger: logging.Logger = logging.getLogger(__name__)


class Throttled(LeadExecError):
    """``CALLBACK_RATE`` is used up. ``retry_after``: seconds until the next period."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("Too many attempts. Please try again later.")
        self.retry_after = retry_after


def consume(request: HttpRequest) -> None:
    """Count one post against the client's address and its session.

    Behind a proxy, ``REMOTE_ADDR`` is the proxy's, unless a middleware of the site corrects it.
    Raises Throttled. Raises ProviderUnavailable when the cache is down, because posts that are not
    counted have no limit.
    """
    limit, period = parse_rate(get_settings().callback_rate)
    window, passed = divmod(int(time.time()), period)
    visitors = {"network": _network(request), "session": request.session.session_key}
    for kind, visitor in visitors.items():
        if visitor:
            # Hashed, because the session's key is a secret and a cache is often shared. With the
            # kind, because some session engines accept any key that a cookie names, and it could
            # name another visitor's address.
            digest = hashlib.sha256(f"{kind}:{visitor}".encode()).hexdigest()
            count = _count(f"django_leadexec:calls:{window}:{digest}", period)
            if count is None:
                raise ProviderUnavailable("CALLBACK_RATE can't be counted, as the cache fails.")
            if count > limit:
                raise Throttled(period - passed)


def _network(request: HttpRequest) -> str:
    """The client's address; for IPv6 its network, as one home has 2 to the power of 64 addresses.

    All clients without an address, as behind a Unix socket, count as one.
    """
    address: str = request.META.get("REMOTE_ADDR") or "unknown"
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is None:
        return str(ipaddress.IPv6Address(int(ip) >> 64 << 64))
    return address


def _count(key: str, period: int) -> int | None:
    """The count, this call included; None if the cache fails."""
    try:
        cache.add(key, 0, timeout=period)
        return cache.incr(key)
    except ValueError:  # the cache has dropped it since the line before
        return 0
    except Exception as error:  # noqa: BLE001 - each kind of cache has its own errors
        logger.error("The cache that counts for CALLBACK_RATE fails: %s.", type(error).__name__)
        return None
