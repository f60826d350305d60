"""The sign-in button: one function behind the template tag and the Jinja2 global."""

import logging
from typing import Any, Protocol

import django
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.middleware.csrf import get_token
from django.template import TemplateSyntaxError
from django.utils.safestring import SafeString
from django.utils.translation import gettext

from .conf import get_settings
from .models import LeadExecConnection
from .pages import find_template

logger = logging.getLogger(__name__)


class TemplateContext(Protocol):
    """What the contexts of both template languages can do."""

    def get(self, key: str, /) -> Any: ...


def request_from(context: TemplateContext) -> HttpRequest:
    """The request of a Django or Jinja2 template context."""
    # A RequestContext knows its request even without the context processor and inside an
    # {% include … only %}.
    request = context.get("request") or getattr(context, "request", None)
    if request is None:
        raise ImproperlyConfigured(
            "leadexec_button needs `request` in the template's context: render with "
            "render(request, …), keep 'django.template.context_processors.request' in the "
            "context_processors of TEMPLATES, and import Jinja2 macros `with context`."
        )
    return request  # type: ignore[no-any-return]


def render_button(
    *, request: HttpRequest, label: str = "", next_url: str = "", css_class: str = ""
) -> SafeString:
    """The button, or for a connected user the state and a Disconnect form.

    Costs no query for an anonymous visitor and one for a logged-in user.
    """
    if _is_second(request):
        return SafeString("")
    conf = get_settings()
    connections = _live_connections(request, conf.app_id)
    active = [row for row in connections if row.status == LeadExecConnection.Status.ACTIVE]
    html: SafeString = find_template("django_leadexec/button.html").render(
        {
            "request": request,
            "active": active,
            "reconnect": bool(connections) and not active,
            "button_id": conf.button_id,
            "script_url": conf.script_url,
            "stylesheet_url": conf.stylesheet_url,
            "label": label or gettext("Sign in with LeadExec"),
            "texts": _texts(),
            "next_url": next_url,
            "css_class": css_class,
            "csrf_header": settings.CSRF_HEADER_NAME.removeprefix("HTTP_").replace("_", "-"),
            # From here and not from the cookie, which CSRF_USE_SESSIONS does away with and
            # CSRF_COOKIE_HTTPONLY hides from scripts.
            "csrf_token": get_token(request),
            "csp_nonce": read_nonce(request),
        }
    )
    return html


def _texts() -> dict[str, str]:
    """What leadexec.js says, by the name it has in the wrapper's data-text-… attributes."""
    return {
        "busy": gettext("Connecting…"),
        "connected": gettext("You are connected with LeadExec."),
        "signed-in": gettext("You are signed in. Reload the page to go on."),
        "recognized": gettext("LeadExec recognizes you in this browser."),
        "continue": gettext("Continue with LeadExec"),
        "retry": gettext("Try again"),
        "refused": gettext("Nothing was connected."),
        "refused-because": gettext("Nothing was connected. LeadExec says: %s"),
        "script": gettext(
            "LeadExec could not be loaded; the network or a content blocker may be in the way. "
            "Press the button to try again."
        ),
        "network": gettext("This site could not be reached. Check your connection and try again."),
        "csrf": gettext("This page has expired. Reload it and try again."),
        "throttled": gettext("Too many attempts. Try again in %s seconds."),
        "throttled-a-while": gettext("Too many attempts. Try again later."),
        "unexpected": gettext("Something went wrong. Reload the page and try again."),
    }


def _live_connections(request: HttpRequest, app_id: str) -> list[LeadExecConnection]:
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return []
    rows = LeadExecConnection.objects.for_user(user).live().filter(app_id=app_id)
    return list(rows.only("status", "account_id").order_by("pk"))


def _is_second(request: HttpRequest) -> bool:
    # The provider's script looks for one element by its id, so a second button would be dead.
    if not hasattr(request, "_leadexec_button"):
        request._leadexec_button = True  # type: ignore[attr-defined]
        return False
    if settings.DEBUG:
        raise TemplateSyntaxError(
            "leadexec_button is used twice on this page. LeadExec's script takes over one button "
            "a page: keep one leadexec_button, and link to it from elsewhere."
        )
    # A path can hold line ends, which would make up lines of the log.
    path = request.path.encode("unicode_escape").decode()
    logger.warning("A second leadexec_button on %s was left out: one a page.", path)
    return True


def read_nonce(request: HttpRequest) -> str | None:
    """The nonce of the page's Content-Security-Policy, whoever makes it, or None."""
    nonce = getattr(request, "csp_nonce", None)  # django-csp
    if nonce is None and django.VERSION >= (6, 0):
        from django.middleware.csp import get_nonce

        nonce = get_nonce(request)
    # Both make the nonce at first use, and are false until then.
    return None if nonce is None else str(nonce)
