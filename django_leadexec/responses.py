"""How the views answer: JSON, errors, redirects within the site."""

import logging
import math
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import resolve_url
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext_lazy

from .accounts import UserExists
from .authorization import MalformedToken
from .exceptions import (
    AuthorizationRejected,
    ConnectionBusy,
    ConnectionConflict,
    LeadExecError,
    ProviderUnavailable,
    RevocationPending,
    SignInForbidden,
    UnstorableAccount,
)
from .request_body import BodyTooLarge, MalformedBody
from .throttle import Throttled
from .verification import UserDeleted
from .visitor_mark import OtherVisitor

logger: logging.Logger = logging.getLogger(__name__)


class ErrorAnswer(NamedTuple):
    """What a visitor is told about an error. The error's own text is for the log."""

    status: int
    code: str
    message: Any


MALFORMED = ErrorAnswer(
    400, "malformed", gettext_lazy("The page sent something that can't be read.")
)

# The answer to each error. A class stands before those that it inherits from.
ERRORS: dict[type[LeadExecError], ErrorAnswer] = {
    MalformedBody: MALFORMED,
    MalformedToken: MALFORMED,
    BodyTooLarge: ErrorAnswer(413, "too_large", gettext_lazy("The page sent too much.")),
    SignInForbidden: ErrorAnswer(
        403,
        "not_allowed",
        gettext_lazy("This user can't be signed in by LeadExec. Please log in another way."),
    ),
    UserDeleted: ErrorAnswer(
        403,
        "not_allowed",
        gettext_lazy("Your user no longer exists on this site. Please log in as another."),
    ),
    OtherVisitor: ErrorAnswer(
        409,
        "reload",
        gettext_lazy(
            "This page was made for another visitor, or before you logged in or out. "
            "Please reload it and try again."
        ),
    ),
    UserExists: ErrorAnswer(
        409,
        "user_exists",
        gettext_lazy(
            "No user could be created for you, probably because there is one of that name. If that "
            "is you, please log in first."
        ),
    ),
    RevocationPending: ErrorAnswer(
        409,
        "revoking",
        gettext_lazy(
            "This authorization has been revoked here, but LeadExec has not confirmed it yet. "
            "Please try again in a minute."
        ),
    ),
    ConnectionConflict: ErrorAnswer(
        409,
        "conflict",
        gettext_lazy("This LeadExec account is connected to another user of this site."),
    ),
    AuthorizationRejected: ErrorAnswer(
        422,
        "rejected",
        gettext_lazy("LeadExec refuses this authorization. Please sign in with LeadExec again."),
    ),
    Throttled: ErrorAnswer(
        429, "throttled", gettext_lazy("Too many attempts. Please try again later.")
    ),
    ConnectionBusy: ErrorAnswer(
        503,
        "busy",
        gettext_lazy("This connection is in use just now. Please try again in a minute."),
    ),
    ProviderUnavailable: ErrorAnswer(
        502,
        "unavailable",
        gettext_lazy("LeadExec does not answer as it should. Please try again in a minute."),
    ),
}
# As for any other account of IDENTIFY's that is of no use.
ERRORS[UnstorableAccount] = ERRORS[ProviderUnavailable]


def answer(status: str, redirect: str = "") -> JsonResponse:
    """What was done, and the address where the page goes next, if any."""
    return JsonResponse({"status": status, "redirect": redirect or None})


def answer_error(status: int, code: str, message: str, **more: str) -> JsonResponse:
    """An HTTP status, a code for scripts and a message for the visitor."""
    return JsonResponse({"error": {"code": code, "message": message}, **more}, status=status)


def explain(error: LeadExecError) -> JsonResponse:
    """The answer to an error, by the table ``ERRORS``. Raises an error that is not in it."""
    status, code, message = read_error(error)
    response = answer_error(status, code, str(message))
    set_retry_after(response, error)
    return response


def read_error(error: LeadExecError) -> ErrorAnswer:
    """The line of ``ERRORS`` for an error. Logs the error's own text."""
    for kind, error_answer in ERRORS.items():
        if isinstance(error, kind):
            logger.warning("A visitor got the answer %r: %s", error_answer.code, error)
            return error_answer
    raise error


def set_retry_after(response: HttpResponse, error: LeadExecError | None) -> None:
    """Say when it is worth trying again, if the error knows."""
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        response.headers["Retry-After"] = str(math.ceil(retry_after))


def after_response(response: HttpResponse, do: Callable[[], object]) -> None:
    """Call ``do`` once the server has sent the response. It must be something that can be lost.

    Servers close a response when they have sent it, WSGI's and ASGI's. One that a middleware
    replaces, or that a killed process has not sent, is never closed.
    """
    close = response.close

    def do_and_close() -> None:
        # First: with the end of the request, which close() tells, databases may be closed.
        try:
            do()
        except Exception as error:  # noqa: BLE001 - the answer is out, and must be closed
            logger.error(
                "What was left to do after a response has failed: %s.", type(error).__name__
            )
        finally:
            close()

    response.close = do_and_close  # type: ignore[method-assign]


def wants_json(request: HttpRequest) -> bool:
    """Whether to answer in JSON. A form's Accept header names HTML before it."""
    return (
        request.content_type == "application/json"
        or request.get_preferred_type(["text/html", "application/json"]) == "application/json"
    )


# Redirects within the site


def safe_url(request: HttpRequest, url: str | None) -> str:
    """``url`` if it stays within the site, else ""."""
    if (
        url
        and url.isprintable()  # half a surrogate pair can't be redirected to
        and url_has_allowed_host_and_scheme(
            url, allowed_hosts={request.get_host()}, require_https=request.is_secure()
        )
    ):
        return url
    return ""


def url_after_form(request: HttpRequest, wanted: str | None) -> str:
    """Where to go after a form: its ``next``, else the page it was on, else the site's home."""
    return safe_url(request, wanted) or referring_page(request) or home()


def home() -> str:
    """Where the site sends a user after a login."""
    return resolve_url(settings.LOGIN_REDIRECT_URL)


def referring_page(request: HttpRequest) -> str:
    """The path of the page that the request comes from, if that is on this site, else ""."""
    return path_on_this_site(request, request.META.get("HTTP_REFERER"))


def path_on_this_site(request: HttpRequest, url: str | None) -> str:
    """The path of an address with this site's host, else ""."""
    try:
        parts = urlsplit(url or "")
    except ValueError:
        return ""
    if parts.netloc != request.get_host():
        return ""
    return safe_url(request, parts._replace(scheme="", netloc="").geturl())
