"""How the sandbox is told to misbehave, and what it has seen."""

import math
import time
from collections import Counter
from collections.abc import Iterable

from django.db.models import F
from django.http import HttpResponse, JsonResponse

from .models import AccessToken, CallCount, Fault, digest

EVERYTHING = "*"
_CHUNK = 400  # SQLite bounds the number of parameters in a statement


def set_fault(
    kind: str,
    tokens: str | Iterable[str] | None = None,
    *,
    seconds: float = 0,
    call: str = "",
) -> None:
    """Misbehave from now on: for one refresh token, for several, or (None) for all.

    `kind` is one of `Fault.Kind`; `call` limits it to "refresh" or "disconnect". `seconds` is how
    long a slow answer takes, or what Retry-After says on a 503 or 429. A fault replaces an earlier
    one of the same scope; one for a token wins over the one for all.
    """
    if tokens is None:
        set_fault_scopes(kind, [EVERYTHING], seconds=seconds, call=call)
    else:
        several = [tokens] if isinstance(tokens, str) else tokens
        set_fault_scopes(kind, [digest(token) for token in several], seconds=seconds, call=call)


def set_fault_scopes(kind: str, scopes: list[str], *, seconds: float, call: str) -> None:
    """The same by token digest, as the control page knows no tokens."""
    if kind not in Fault.Kind.values or call not in Fault.Call.values:
        raise ValueError(f"No such fault: {kind!r} for {call!r}.")
    for start in range(0, len(scopes), _CHUNK):
        chunk = set(scopes[start : start + _CHUNK])
        Fault.objects.filter(scope__in=chunk).delete()
        Fault.objects.bulk_create(
            Fault(scope=scope, kind=kind, call=call, seconds=seconds) for scope in chunk
        )


def clear_faults() -> None:
    """Behave again."""
    Fault.objects.all().delete()


def current_fault(token: str, call: str) -> Fault | None:
    """The fault that applies to this call, if any."""
    scopes = [EVERYTHING, digest(token)]
    faults = Fault.objects.filter(scope__in=scopes, call__in=["", call])
    return max(faults, key=lambda fault: fault.scope != EVERYTHING, default=None)


def misbehave(fault: Fault) -> HttpResponse | None:
    """The faulty answer; None when the call should go on (a slow one, after its sleep)."""
    headers = {"Retry-After": str(math.ceil(fault.seconds))} if fault.seconds else {}
    match fault.kind:
        case Fault.Kind.UNAVAILABLE:
            return HttpResponse("Service Unavailable", status=503, headers=headers)
        case Fault.Kind.THROTTLE:
            return JsonResponse({"message": "Too many requests"}, status=429, headers=headers)
        case Fault.Kind.HTML:
            return HttpResponse("<!doctype html><title>Maintenance</title><h1>Back soon</h1>")
        case Fault.Kind.HALF:
            return HttpResponse('{"valid": true, "refre', content_type="application/json")
        case Fault.Kind.SLOW:
            time.sleep(fault.seconds)
    return None


def count(call: str, outcome: str) -> None:
    """Count one call, right under concurrency: the database does the addition."""
    row = CallCount.objects.filter(name=f"{call} {outcome}")
    if not row.update(total=F("total") + 1):
        CallCount.objects.bulk_create([CallCount(f"{call} {outcome}")], ignore_conflicts=True)
        row.update(total=F("total") + 1)


def counts(call: str) -> Counter[str]:
    """Calls of one sort ("refresh" or "disconnect") by outcome: "ok", "refused" or a fault kind."""
    rows = CallCount.objects.filter(name__startswith=f"{call} ")
    return Counter({row.name.removeprefix(f"{call} "): row.total for row in rows})


def reset_counts() -> None:
    """Count from zero."""
    CallCount.objects.all().delete()


def expire_access_tokens() -> None:
    """Make both APIs answer 401 to every access token handed out so far."""
    AccessToken.objects.all().delete()
