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
from django.utils.translation import gettext, ngettext

from . import pending_link
from .conf import get_settings
from .models import LeadExecConnection
from .pages import find_template
from .pending_link import PendingLink
from .state import csrf_header, is_signed_in, live_connections
from .visitor_mark import mark_of

logger: logging.Logger = logging.getLogger(__name__)

# The forms that Intl.PluralRules names, each with a number that takes it in every language of the
# catalogues, as a test in a browser confirms. So the script needs no rules of its own.
PLURAL_EXAMPLES = {"zero": 0, "one": 1, "two": 2, "few": 3, "many": 11, "other": 100}


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
    *,
    request: HttpRequest,
    label: str = "",
    next_url: str = "",
    css_class: str = "",
    load: str = "page",
) -> SafeString:
    """The button, or for a connected user the state and a Disconnect form.

    Costs no query for an anonymous visitor and one for a logged-in user. For an anonymous visitor
    it sets no cookie. ``load`` is "page", or "click": then nothing of LeadExec's is fetched before
    the visitor asks. Raises TemplateSyntaxError for any other.
    """
    if load not in ("page", "click"):
        raise TemplateSyntaxError(f'leadexec_button: load is "page" or "click", not {load!r}.')
    if _is_second(request):
        return SafeString("")
    conf = get_settings()
    signed_in = is_signed_in(request)
    connections = live_connections(request, conf.app_id) if signed_in else []
    active = [row for row in connections if row.status == LeadExecConnection.Status.ACTIVE]
    reconnect = bool(connections) and not active
    if reconnect:
        label = label or gettext("Reconnect LeadExec")
    elif signed_in:
        label = label or gettext("Connect LeadExec")
    texts = connected_texts() if active else button_texts()
    if reconnect:
        # The note above the button says what there is to do; our button takes LeadExec's place.
        texts |= {"recognized": "", "continue": label}
    html: SafeString = find_template("django_leadexec/button.html").render(
        {
            "request": request,
            "active": active,
            "reconnect": reconnect,
            "waiting": _waiting_link(request) if signed_in and not active else None,
            "button_id": conf.button_id,
            "script_url": conf.script_url,
            "stylesheet_url": conf.stylesheet_url,
            "load": load,
            "label": label or gettext("Sign in with LeadExec"),
            "texts": texts,
            "next_url": next_url,
            "css_class": css_class,
            "csrf_header": csrf_header(),
            # From here and not from the cookie, which CSRF_USE_SESSIONS does away with and
            # CSRF_COOKIE_HTTPONLY hides from scripts. It sets a cookie: the script gets a
            # stranger's from leadexec:state when it is needed.
            "csrf_token": get_token(request) if signed_in else "",
            "visitor": mark_of(request.user if signed_in else None),
            "csp_nonce": read_nonce(request),
            "debug": settings.DEBUG,
        }
    )
    return html


def _waiting_link(request: HttpRequest) -> PendingLink | None:
    """The link to finish, for visitors whose log-in did not lead them back to the confirm page.

    A log-in that waits for an e-mail to be verified is one.
    """
    return pending_link.find(request) if hasattr(request, "session") else None


def button_texts() -> dict[str, str]:
    """What leadexec.js says, by the name it has in the wrapper's data-text-… attributes."""
    return {
        "loading": gettext("Loading LeadExec…"),
        "ready": gettext("LeadExec is ready. Please press the button again."),
        "busy": gettext("Connecting…"),
        "connected": gettext("You are connected with LeadExec."),
        "signed-in": gettext("You are signed in. Reload the page to go on."),
        "recognized": gettext("LeadExec recognizes you in this browser."),
        "continue": gettext("Continue with LeadExec"),
        "retry": gettext("Try again"),
        "reload": gettext("Reload"),
        "refused": gettext("Nothing was connected."),
        "refused-because": gettext("Nothing was connected. LeadExec says: %s"),
        "script": gettext(
            "LeadExec could not be loaded; the network or a content blocker may be in the way. "
            "Press the button to try again."
        ),
        "no-answer": gettext(
            "LeadExec has not answered. If you see no window of LeadExec's, press the button to "
            "try again."
        ),
        "page": gettext(
            "This button does not work on this page. Please tell the people who run this site."
        ),
        "network": gettext("This site could not be reached. Check your connection and try again."),
        "csrf": gettext("This page has expired. Reload it and try again."),
        **throttled_texts(),
        "throttled-a-while": gettext("Too many attempts. Try again later."),
        "unexpected": gettext("Something went wrong. Reload the page and try again."),
    }


def throttled_text(seconds: int) -> str:
    """What the script says to somebody who has to wait, with %s for the seconds."""
    text = ngettext(
        "Too many attempts. Try again in %(seconds)s second.",
        "Too many attempts. Try again in %(seconds)s seconds.",
        seconds,
    )
    return text % {"seconds": "%s"}


def throttled_texts() -> dict[str, str]:
    """One text for each form of a number in this language that differs from "other"."""
    texts = {form: throttled_text(number) for form, number in PLURAL_EXAMPLES.items()}
    other = texts["other"]
    return {
        f"throttled-{form}": text
        for form, text in texts.items()
        if form == "other" or text != other
    }


def connected_texts() -> dict[str, str]:
    texts = button_texts()
    needed = {name: texts[name] for name in ("connected", "network", "unexpected")}
    return needed | {"disconnecting": gettext("Disconnecting…")}


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
