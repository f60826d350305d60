"""What a page knows about its visitor: their connections, and what the button talks to."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.middleware.csrf import get_token
from django.urls import reverse

from .conf import get_settings
from .models import LeadExecConnection
from .visitor_mark import mark_of


def describe(request: HttpRequest) -> dict[str, Any]:
    """What the tag writes into a page, for pages that were made without it.

    They may be the same for every stranger, and so can hold no CSRF token.
    """
    conf = get_settings()
    signed_in = is_signed_in(request)
    rows = live_connections(request, conf.app_id) if signed_in else []
    return {
        "button_id": conf.button_id,
        "script_url": conf.script_url,
        "stylesheet_url": conf.stylesheet_url,
        "callback_url": reverse("leadexec:callback"),
        "disconnect_url": reverse("leadexec:disconnect"),
        "csrf_header": csrf_header(),
        "csrf_token": get_token(request),
        "visitor": mark_of(request.user if signed_in else None),
        "connections": [
            {
                "id": row.pk,
                "account_id": row.account_id,
                "status": row.status,
                "since": row.created_at.isoformat(),
            }
            for row in rows
        ],
    }


def csrf_header() -> str:
    """The name of the header for the CSRF token, as scripts write it."""
    return settings.CSRF_HEADER_NAME.removeprefix("HTTP_").replace("_", "-")


def is_signed_in(request: HttpRequest) -> bool:
    """Whether the visitor is logged in. A request without a user counts as anonymous.

    For a visitor without a session the answer is the same for everybody. So this look at the
    session adds no ``Vary: Cookie`` then, and a cache may keep the page.
    """
    session: Any = getattr(request, "session", None)
    is_untouched = not getattr(session, "accessed", True) and session.is_empty()
    user = getattr(request, "user", None)
    signed_in = user is not None and user.is_authenticated
    if is_untouched and not signed_in:
        session.accessed = False
    return signed_in


def live_connections(request: HttpRequest, app_id: str) -> list[LeadExecConnection]:
    """The logged-in visitor's connections of this application that are not revoked. One query."""
    rows = LeadExecConnection.objects.for_user(request.user).live().filter(app_id=app_id)
    return list(rows.only("status", "account_id", "created_at").order_by("pk"))
