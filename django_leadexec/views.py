"""The HTTP doors: each turns a request into one call, and what comes of it into an answer."""

import json
import logging
import math
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, cast
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib import auth, messages
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.decorators import login_not_required, login_required
from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.views import redirect_to_login
from django.db import DatabaseError, transaction
from django.db import connections as databases
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    JsonResponse,
)
from django.middleware.csrf import CsrfViewMiddleware
from django.shortcuts import resolve_url
from django.urls import get_callable, reverse
from django.utils.cache import add_never_cache_headers
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.clickjacking import xframe_options_deny
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_http_methods, require_safe

from . import authorization, pending_link, returning, throttle
from .authorization import Connected, LinkWaiting, SignedIn, Visit
from .button import read_nonce
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
from .pages import render
from .secret import Secret

logger = logging.getLogger(__name__)

MAX_BODY = 16 * 1024

MALFORMED = gettext_lazy("The page sent something that can't be read.")
# The answer to each error, the most particular class first, with what the visitor is told. What
# the error itself says is for the log: "HTTP 503" helps nobody who came to sign in.
ERRORS: dict[type[LeadExecError], tuple[int, str, Any]] = {
    authorization.MalformedToken: (400, "malformed", MALFORMED),
    SignInForbidden: (
        403,
        "not_allowed",
        gettext_lazy("This user can't be signed in by LeadExec. Please log in another way."),
    ),
    authorization.UserDeleted: (
        403,
        "not_allowed",
        gettext_lazy("Your user no longer exists on this site. Please log in as another."),
    ),
    RevocationPending: (
        409,
        "revoking",
        gettext_lazy(
            "This authorization has been revoked here, and LeadExec is being told. "
            "Please try again in a moment."
        ),
    ),
    ConnectionConflict: (
        409,
        "conflict",
        gettext_lazy("This LeadExec account is connected to another user of this site."),
    ),
    AuthorizationRejected: (
        422,
        "rejected",
        gettext_lazy("LeadExec refuses this authorization. Please sign in with LeadExec again."),
    ),
    throttle.Throttled: (
        429,
        "throttled",
        gettext_lazy("Too many attempts. Please try again later."),
    ),
    ProviderUnavailable: (
        502,
        "unavailable",
        gettext_lazy("LeadExec does not answer as it should. Please try again in a moment."),
    ),
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

    # LoginRequiredMiddleware would send strangers away, and these views answer strangers, too.
    @login_not_required
    @csrf_exempt
    @wraps(view)
    def wrapped(request: HttpRequest) -> HttpResponseBase:
        if request.method != "POST":
            response: HttpResponseBase = _error(405, "method", _("Only POST is allowed here."))
            response.headers["Allow"] = "POST"
        elif reason := _CsrfCheck.fails(request):
            # Of a proxy that hides the site's scheme or host, only this reason tells.
            words = f"{request.path}: {reason}".encode("unicode_escape").decode()
            logger.warning("A post failed the CSRF check of %s", words)
            if has_form and not _wants_json(request):
                response = get_callable(settings.CSRF_FAILURE_VIEW)(request, reason=reason)
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
    posted = _read_token(request)
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
        # The page follows no address of another host, such as a LOGIN_URL there. Ours goes there.
        login_url = _safe(request, redirect_to_login(confirm_url).url)
        return _answer("login_required", login_url or confirm_url)
    return _answer("ignored")


def _sign_in(
    request: HttpRequest, verified: SignedIn, clicked: bool, next_url: str
) -> HttpResponse:
    user = auth.authenticate(request, verified=verified)
    if user is None:
        return _explain(SignInForbidden("This user can't be signed in by LeadExec."))
    try:
        auth.login(request, user)
    except DatabaseError:
        # It writes the time to the user's row, once the session is theirs.
        if authorization.still_exists(user):
            raise
        request.session.flush()
        request.user = AnonymousUser()
        deleted = authorization.UserDeleted("The user was deleted before their log-in.")
        return _explain(deleted)
    response = _answer("signed_in", next_url)
    if clicked:
        returning.remember(response, verified.connection)
    return response


@partial(_door, has_form=True)
def disconnect(request: HttpRequest) -> HttpResponseBase:
    """Revoke a connection of the user's own: the one named, or the only one there is."""
    posted: Any = request.POST
    if request.content_type == "application/json":
        posted = _read_json(request)
        if isinstance(posted, HttpResponse):
            return posted
    wanted, after = posted.get("connection"), _after(request, posted.get("next"))
    # A script may have posted more than is asked for, its token too: not for tracebacks.
    del posted
    if not request.user.is_authenticated:
        if _wants_json(request):
            return _error(403, "not_allowed", _("Please log in first."))
        return redirect_to_login(after)
    mine = LeadExecConnection.objects.using(database_of()).live().for_user(request.user)
    if wanted not in (None, ""):
        key = str(wanted)
        is_key = key.isascii() and key.isdigit() and len(key) < 19
        mine = mine.filter(pk=key) if is_key else mine.none()
    found = list(mine[:2])
    if len(found) != 1:
        if _wants_json(request):
            return _error(404, "not_found", _("There is no such connection."))
        raise Http404
    confirmed = found[0].revoke()
    status = "disconnected" if confirmed else "disconnecting"
    if _wants_json(request):
        response: HttpResponse = _answer(status, after)
    else:
        _say(
            request,
            _("LeadExec is disconnected.")
            if confirmed
            else _("LeadExec is disconnected here, and will be told as soon as it can be reached."),
        )
        response = HttpResponseRedirect(after)
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
    look_again = _("Please look again: another connection is waiting now.")
    undecided: LeadExecError | None = None
    if request.method == "POST":
        after = HttpResponseRedirect(waiting.next_url or _home())
        if request.POST.get("confirm") != "yes":
            pending_link.drop(request)
            return after
        if request.POST.get("link") != waiting.name:
            # Another tab has put another link in the place of the one that this page has shown.
            error, status = look_again, 409
        else:
            try:
                outcome = authorization.confirm(waiting, user, lambda: throttle.spend(request))
            except (ProviderUnavailable, throttle.Throttled) as problem:
                # It waits on.
                undecided, error = problem, _read_error(problem)[2]
                status = 429 if isinstance(problem, throttle.Throttled) else 503
            except LeadExecError as problem:
                pending_link.drop(request)
                _say(request, _read_error(problem)[2], messages.ERROR)
                return after
            else:
                if isinstance(outcome, Connected):
                    pending_link.drop(request)
                    _say(request, _("LeadExec is connected."), messages.SUCCESS)
                    return after
                # The token is for another account now than the page has shown.
                waiting = pending_link.keep(request, outcome, waiting.next_url)
                error, status = look_again, 409
    context = {
        "account_id": waiting.account_id,
        "site_user": user,
        "next_url": waiting.next_url,
        "link": waiting.name,
        "error": error,
        "csp_nonce": read_nonce(request),
    }
    response = render(request, "django_leadexec/confirm.html", context, status=status)
    _set_retry_after(response, undecided)
    return response


@never_cache
@login_required
@require_safe
def connect(request: HttpRequest) -> HttpResponse:
    """A page with the button, where ``leadexec_required`` sends who isn't connected."""
    next_url = _safe(request, request.GET.get("next")) or _home()
    if usable_connection(request.user) is not None:
        return HttpResponseRedirect(next_url)
    context = {"next_url": next_url, "csp_nonce": read_nonce(request)}
    return render(request, "django_leadexec/connect.html", context)


def _read_token(request: HttpRequest) -> tuple[str, bool, str | None] | HttpResponse:
    """The posted token, gesture and next; or the error to answer."""
    posted = _read_json(request)
    if isinstance(posted, HttpResponse):
        return posted
    token, gesture = posted.get("refreshToken"), posted.get("gesture")
    if not (isinstance(token, str) and isinstance(gesture, bool)):
        return _error(400, "malformed", str(MALFORMED))
    return Secret(token), gesture, posted.get("next")


def _read_json(request: HttpRequest) -> dict[str, Any] | HttpResponse:
    """The posted object, whose ``next``, if any, is a string; or the error to answer."""
    malformed = _error(400, "malformed", str(MALFORMED))
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
    if not (isinstance(data, dict) and isinstance(data.get("next", ""), str | None)):
        return malformed
    return data


def _answer(status: str, redirect: str = "") -> JsonResponse:
    return JsonResponse({"status": status, "redirect": redirect or None})


def _explain(error: LeadExecError) -> JsonResponse:
    response = _error(*_read_error(error))
    _set_retry_after(response, error)
    return response


def _read_error(error: LeadExecError) -> tuple[int, str, str]:
    """Status, code and message of the answer to an error. Logs the error's own words."""
    for kind, (status, code, message) in ERRORS.items():
        if isinstance(error, kind):
            logger.warning("A visitor's authorization ended as %r: %s", code, error)
            return status, code, str(message)
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


def _after(request: HttpRequest, wanted: str | None) -> str:
    """Where to go after a form: its ``next``, the page it stood on, or the site's home."""
    return _safe(request, wanted) or _safe(request, _page_before(request)) or _home()


def _page_before(request: HttpRequest) -> str:
    try:
        referer = urlsplit(request.META.get("HTTP_REFERER", ""))
    except ValueError:
        return ""
    page: str = referer._replace(scheme="", netloc="").geturl()
    return page if referer.netloc == request.get_host() else ""


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
