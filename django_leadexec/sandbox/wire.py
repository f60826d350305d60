import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from django.http import HttpResponse, JsonResponse

Payload = dict[str, Any]

_CALLBACK = re.compile(r"[A-Za-z_$][\w$]*(\.[A-Za-z_$][\w$]*)*", re.ASCII)


def _us(when: datetime) -> str:
    clock = f"{when.hour % 12 or 12}:{when:%M:%S %p}"
    return f"{when.month}/{when.day}/{when.year} {clock}"


# The readings of expireDate that docs/protocol.md lists, all in UTC.
DATE_FORMATS: dict[str, Callable[[datetime], str]] = {
    "iso": lambda when: f"{when:%Y-%m-%dT%H:%M:%SZ}",
    "microsoft": lambda when: f"/Date({int(when.timestamp() * 1000)})/",
    "us": _us,
}


def expire_date(when: datetime, style: str) -> str:
    """Write an aware datetime the way the provider might."""
    return DATE_FORMATS[style](when.astimezone(UTC))


def is_callback_name(name: str) -> bool:
    """Whether a JSONP callback is a plain dotted name, so that it can't be a script."""
    return len(name) <= 100 and _CALLBACK.fullmatch(name) is not None


def reply(payload: Payload, callback: str = "") -> HttpResponse:
    """JSON, or JSONP when a (validated) callback name is given."""
    if not callback:
        return JsonResponse(payload)
    script = f"{callback}({json.dumps(payload)});"
    return HttpResponse(script, content_type="application/javascript; charset=utf-8")
