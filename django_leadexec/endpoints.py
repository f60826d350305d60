"""How a view takes a post: as JSON, or as a form, with Django's CSRF check."""

import logging
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.db import connections as databases
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.middleware.csrf import CsrfViewMiddleware
from django.urls import get_callable
from django.utils.cache import add_never_cache_headers
from django.utils.translation import gettext as _
from django.views.decorators.csrf import csrf_exempt

from .exceptions import LeadExecError
from .request_body import take_json
from .responses import answer_error, explain, wants_json

logger: logging.Logger = logging.getLogger(__name__)

View = Callable[..., HttpResponseBase]
JsonView = Callable[[HttpRequest, Mapping[str, Any]], HttpResponseBase]


def json_endpoint(
    fields: Mapping[str, Any], *, has_form: bool = False
) -> Callable[[JsonView], Callable[[HttpRequest], HttpResponseBase]]:
    """For a view that takes a JSON object with these ``fields``, each key with its type.

    The view is called with the request and the posted values. It allows POST only, checks CSRF,
    is never cached, and runs outside of ATOMIC_REQUESTS, because it may wait for the provider and
    a call must not hold a transaction open. Errors are JSON.

    ``has_form``: the view takes forms as well as JSON. Browsers then get the site's own page for a
    CSRF failure, and scripts still get JSON.
    """

    def decorate(view: JsonView) -> Callable[[HttpRequest], HttpResponseBase]:
        # Anonymous visitors may post, too. LoginRequiredMiddleware would redirect them.
        @login_not_required
        @csrf_exempt
        @wraps(view)
        def wrapped(request: HttpRequest) -> HttpResponseBase:
            response = _call(view, request, fields, has_form)
            add_never_cache_headers(response)
            return response

        return outside_transactions(wrapped)

    return decorate


def _call(
    view: JsonView, request: HttpRequest, fields: Mapping[str, Any], has_form: bool
) -> HttpResponseBase:
    posted: Mapping[str, Any] = {}
    unreadable: LeadExecError | None = None
    is_form = has_form and request.content_type != "application/json"
    if not is_form:
        # Before anything else can fail: an error tracker would send the body along with the error.
        try:
            posted = take_json(request, fields)
        except LeadExecError as error:
            unreadable = error
    if request.method != "POST":
        response = answer_error(405, "method", _("Only POST is allowed here."))
        response.headers["Allow"] = "POST"
        return response
    reason = _CsrfCheck.fails(request)
    if reason is not None:
        return _answer_csrf_failure(request, reason, has_form)
    if unreadable is not None:
        return explain(unreadable)
    if is_form:
        posted = {key: request.POST.get(key) for key in fields}
    return view(request, posted)


class _CsrfCheck(CsrfViewMiddleware):
    """Django's own check. It returns the reason of a failure in place of a response."""

    def _reject(self, request: HttpRequest, reason: str) -> Any:
        return reason

    @classmethod
    def fails(cls, request: HttpRequest) -> str | None:
        check = cls(lambda request: HttpResponse())
        check.process_request(request)
        # Without the view, whose csrf_exempt would end the check. That mark is for the middleware.
        reason: Any = check.process_view(request, None, (), {})  # type: ignore[arg-type]
        return None if reason is None else str(reason)


def _answer_csrf_failure(request: HttpRequest, reason: str, has_form: bool) -> HttpResponseBase:
    # The log is the only place that says when a proxy hides the site's scheme or host.
    text = f"{request.path}: {reason}".encode("unicode_escape").decode()
    logger.warning("A post failed the CSRF check of %s", text)
    if has_form and not wants_json(request):
        page: HttpResponseBase = get_callable(settings.CSRF_FAILURE_VIEW)(request, reason=reason)
        return page
    return answer_error(403, "csrf", _("This page has expired. Please reload it and try again."))


def outside_transactions(view: View) -> View:
    """Keep a view out of ATOMIC_REQUESTS on every database."""
    for alias in databases:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view
