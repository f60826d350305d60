"""The HTTP doors: each turns a request into one call, and what comes of it into an answer."""

import json
import math
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, cast
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib import auth, messages
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import redirect_to_login
from django.db import connections as databases
from django.db import transaction
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    JsonResponse,
)
from django.middleware.csrf import CsrfViewMiddleware
from django.shortcuts import get_object_or_404, render, resolve_url
from django.urls import reverse
from django.utils.cache import add_never_cache_headers
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.views.csrf import csrf_failure
from django.views.decorators.cache import never_cache
from django.views.decorators.clickjacking import xframe_options_deny
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_GET, require_http_methods

from . import authorization, pending_link, returning, throttle
from .authorization import Connected, LinkWaiting, SignedIn, Visit
from .connections import database_of, usable_connection
from .exceptions import (
    AuthorizationRejected,
    ConnectionConflict,
    LeadExecError,
    ProviderUnavailable,
    RevocationPending,
    SignInForbidden,
)
from .models import LeadExecConnection
from .secret import Secret

MAX_BODY = 16 * 1024

# The answer to each error, the most particular class first.
ERRORS: dict[type[LeadExecError], tuple[int, str]] = {
    authorization.MalformedToken: (400, "malformed"),
    SignInForbidden: (403, "not_allowed"),
    RevocationPending: (409, "revoking"),
    ConnectionConflict: (409, "conflict"),
    AuthorizationRejected: (422, "rejected"),
    throttle.Throttled: (429, "throttled"),
    ProviderUnavailable: (502, "unavailable"),
}

View = Callable[..., HttpResponseBase]


class _CsrfCheck(CsrfViewMiddleware):
    """Django's own check, which hands back the reason of a failure and leaves the answer to us."""

    def _reject(self, request: HttpRequest, reason: str) -> Any:
        return reason

    @classmethod
    def fails(cls, request: HttpRequest) -> str | None:
        check = cls(lambda request: HttpResponse())
        check.process_request(request)
        # No view, so that its own csrf_exempt, which keeps the site's middleware out, isn't heeded.
        reason: Any = check.process_view(request, None, (), {})  # type: ignore[arg-type]
        return None if reason is None else str(reason)


def _door(view: View, *, has_form: bool = False) -> View:
    """For views that post and may wait for the provider: POST only, CSRF checked, never cached,
    and outside of ATOMIC_REQUESTS on every database, as a call may not hold a transaction open.
    ``has_form``: it is for forms as well as for scripts, which always get JSON."""

    @csrf_exempt
    @wraps(view)
    def wrapped(request: HttpRequest) -> HttpResponseBase:
        if request.method != "POST":
            response: HttpResponseBase = _error(405, "method", _("Only POST is allowed here."))
            response.headers["Allow"] = "POST"
        elif reason := _CsrfCheck.fails(request):
            if has_form and not _wants_json(request):
                response = csrf_failure(request, reason=reason)
            else:
                message = _("This page has expired. Please reload it and try again.")
                response = _error(403, "csrf", message)
        else:
            response = view(request)
        add_never_cache_headers(response)
        return response

    return _outside_transactions(wrapped)


def _outside_transactions(view: View) -> View:
    for alias in databases:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view


@_door
def callback(request: HttpRequest) -> HttpResponse:
    """Take the token that ``AuthorizeResult`` brought. Answers JSON, never with a token in it."""
    posted = _read_json(request)
    if isinstance(posted, HttpResponse):
        return posted
    refresh_token, clicked, wanted = posted
    next_url = _safe(request, wanted)
    visit = Visit(
        user=request.user,
        clicked=clicked,
        returning=lambda: returning.returning_connection(request),
        spend=lambda: throttle.spend(request),
    )
    try:
        outcome = authorization.authorize(refresh_token, visit)
    except LeadExecError as error:
        return _explain(error)
    if isinstance(outcome, SignedIn):
        return _sign_in(request, outcome, clicked, next_url)
    if isinstance(outcome, Connected):
        return _answer("connected", next_url)
    if isinstance(outcome, LinkWaiting):
        pending_link.keep(request, outcome, next_url)
        confirm_url = reverse("leadexec:confirm")
        if request.user.is_authenticated:
            return _answer("confirm_required", confirm_url)
        return _answer("login_required", redirect_to_login(confirm_url).url)
    return _answer("ignored")


def _sign_in(
    request: HttpRequest, verified: SignedIn, clicked: bool, next_url: str
) -> HttpResponse:
    user = auth.authenticate(request, verified=verified)
    if user is None:
        return _explain(SignInForbidden("This user can't be signed in by LeadExec."))
    auth.login(request, user)
    response = _answer("signed_in", next_url)
    if clicked:
        returning.remember(response, verified.connection)
    return response


@partial(_door, has_form=True)
def disconnect(request: HttpRequest) -> HttpResponseBase:
    """Revoke a connection of the user's own: the one named, or the only one there is."""
    if not request.user.is_authenticated:
        if _wants_json(request):
            return _error(403, "not_allowed", _("Please log in first."))
        return redirect_to_login(_after(request))
    live = LeadExecConnection.objects.using(database_of()).live().for_user(request.user)
    if wanted := request.POST.get("connection", ""):
        if not (wanted.isascii() and wanted.isdigit() and len(wanted) < 19):
            raise Http404
        mine = [get_object_or_404(live, pk=wanted)]
    else:
        mine = list(live[:2])
    if len(mine) != 1:
        raise Http404
    confirmed = mine[0].revoke()
    status = "disconnected" if confirmed else "disconnecting"
    if _wants_json(request):
        response: HttpResponse = _answer(status, _after(request))
    else:
        _say(
            request,
            _("LeadExec is disconnected.")
            if confirmed
            else _("LeadExec is disconnected here, and will be told as soon as it can be reached."),
        )
        response = HttpResponseRedirect(_after(request))
    returning.forget(response)
    return response


@_outside_transactions
@never_cache
@xframe_options_deny
@login_required
@csrf_protect
@require_http_methods(["GET", "HEAD", "POST"])
def confirm(request: HttpRequest) -> HttpResponseBase:
    """Finish a link after login: the page names both sides, and only its POST links."""
    waiting = pending_link.find(request)
    user = cast(AbstractBaseUser, request.user)
    if waiting is None:
        _say(request, _("There is no LeadExec connection waiting; please start again."))
        return HttpResponseRedirect(_home())
    error, status = "", 200
    undecided: LeadExecError | None = None
    if request.method == "POST":
        after = HttpResponseRedirect(waiting.next_url or _home())
        if request.POST.get("confirm") != "yes":
            pending_link.drop(request)
            return after
        if request.POST.get("link") != waiting.name:
            # Another tab has put another link in the place of the one that this page has shown.
            error, status = _("Please look again: another connection is waiting now."), 409
        else:
            try:
                authorization.confirm(waiting.refresh_token, user, lambda: throttle.spend(request))
            except (ProviderUnavailable, throttle.Throttled) as problem:
                # It waits on.
                undecided, error = problem, str(problem)
                status = 429 if isinstance(problem, throttle.Throttled) else 503
            except LeadExecError as problem:
                pending_link.drop(request)
                _say(request, str(problem), messages.ERROR)
                return after
            else:
                pending_link.drop(request)
                _say(request, _("LeadExec is connected."), messages.SUCCESS)
                return after
    context = {
        "account_id": waiting.account_id,
        "site_user": user,
        "next_url": waiting.next_url,
        "link": waiting.name,
        "error": error,
    }
    response = render(request, "django_leadexec/confirm.html", context, status=status)
    _set_retry_after(response, undecided)
    return response


@never_cache
@login_required
@require_GET
def connect(request: HttpRequest) -> HttpResponse:
    """A page with the button, where ``leadexec_required`` sends who isn't connected."""
    next_url = _safe(request, request.GET.get("next")) or _home()
    if usable_connection(request.user) is not None:
        return HttpResponseRedirect(next_url)
    context = {"next_url": next_url}
    return render(request, "django_leadexec/connect.html", context)


def _read_json(request: HttpRequest) -> tuple[str, bool, str | None] | HttpResponse:
    """The posted token, gesture and next; or the error to answer."""
    malformed = _error(400, "malformed", _("The page sent something that can't be read."))
    if request.content_type != "application/json":
        return malformed
    try:
        # Not request.body, which is all of it: what Content-Length says need not be so.
        body = request.read(MAX_BODY + 1)
        if len(body) > MAX_BODY:
            return _error(413, "too_large", _("The page sent too much."))
        data = json.loads(body)
    except (ValueError, RecursionError, OSError):
        return malformed
    if not isinstance(data, dict):
        return malformed
    token, gesture, wanted = (data.get(key) for key in ("refreshToken", "gesture", "next"))
    if not (
        isinstance(token, str)
        and isinstance(gesture, bool)
        and (wanted is None or isinstance(wanted, str))
    ):
        return malformed
    return Secret(token), gesture, wanted


def _answer(status: str, redirect: str = "") -> JsonResponse:
    return JsonResponse({"status": status, "redirect": redirect or None})


def _explain(error: LeadExecError) -> JsonResponse:
    for kind, (status, code) in ERRORS.items():
        if isinstance(error, kind):
            response = _error(status, code, str(error))
            _set_retry_after(response, error)
            return response
    raise error


def _set_retry_after(response: HttpResponse, error: LeadExecError | None) -> None:
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        response.headers["Retry-After"] = str(math.ceil(retry_after))


def _error(status: int, code: str, message: str) -> JsonResponse:
    return JsonResponse({"error": {"code": code, "message": message}}, status=status)


def _wants_json(request: HttpRequest) -> bool:
    # A form's own Accept header names HTML first; the callback is only ever called by script.
    return (
        request.content_type == "application/json"
        or request.get_preferred_type(["text/html", "application/json"]) == "application/json"
    )


def _after(request: HttpRequest) -> str:
    """Where to go after a form: its ``next``, the page it stood on, or the site's home."""
    return (
        _safe(request, request.POST.get("next")) or _safe(request, _page_before(request)) or _home()
    )


def _page_before(request: HttpRequest) -> str:
    try:
        referer = urlsplit(request.META.get("HTTP_REFERER", ""))
    except ValueError:
        return ""
    return referer.path if referer.netloc == request.get_host() else ""


def _safe(request: HttpRequest, url: str | None) -> str:
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


def _home() -> str:
    return resolve_url(settings.LOGIN_REDIRECT_URL)


def _say(request: HttpRequest, text: str, level: int = messages.INFO) -> None:
    messages.add_message(request, level, text, fail_silently=True)
