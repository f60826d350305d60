"""The views. Each turns a request into one call, and the outcome into an answer."""

from collections.abc import Mapping
from types import NoneType
from typing import Any, cast
from urllib.parse import urljoin, urlsplit

from django.contrib import messages
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.decorators import login_not_required, login_required
from django.contrib.auth.views import redirect_to_login
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    JsonResponse,
)
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.clickjacking import xframe_options_deny
from django.views.decorators.csrf import csrf_protect, ensure_csrf_cookie
from django.views.decorators.http import require_http_methods, require_safe

from . import authorization, pending_link, returning, throttle
from .authorization import Connected, LinkWaiting, SignedIn, Visit
from .button import read_nonce, render_button
from .endpoints import json_endpoint, outside_transactions
from .exceptions import ConnectionBusy, LeadExecError, ProviderUnavailable
from .lifecycle import usable_connection
from .own_connection import is_disconnected, own_connection
from .pages import render
from .pending_link import PendingLink
from .request_body import TOKEN
from .responses import (
    after_response,
    answer,
    answer_error,
    explain,
    home,
    read_error,
    safe_url,
    set_retry_after,
    url_after_form,
    wants_json,
)
from .revocation import start_revocation
from .secret import Secret
from .sign_in import sign_in
from .state import describe
from .visitor_mark import is_mark_of, mark_of, require_mark_of

ADDRESS = (str, NoneType)


@json_endpoint(
    {
        TOKEN: Secret,
        "gesture": bool,
        "visitor": (str, NoneType),
        "next": ADDRESS,
        # The path of a page that goes to `next` once the visitor is connected.
        "page": ADDRESS,
    }
)
def callback(request: HttpRequest, posted: Mapping[str, Any]) -> HttpResponse:
    """Take the token that ``AuthorizeResult`` brought. Answers JSON, never with a token in it."""
    clicked, next_url = posted["gesture"], safe_url(request, posted["next"])
    visit = Visit(
        user=request.user,
        clicked=clicked,
        returning=lambda: returning.connection_to_return_to(request),
        consume=lambda: throttle.consume(request),
    )
    try:
        require_mark_of(request.user, posted["visitor"])
        outcome = authorization.authorize(posted[TOKEN], visit)
        if isinstance(outcome, SignedIn):
            sign_in(request, outcome)
    except LeadExecError as error:
        return explain(error)
    if isinstance(outcome, SignedIn):
        response = answer("signed_in", next_url)
        if clicked:
            returning.remember(response, outcome.connection)
        return response
    if isinstance(outcome, Connected):
        if clicked and _leads_elsewhere(safe_url(request, posted["page"]), next_url):
            # That page may be without the tag, whose script says it otherwise, in the same words.
            _add_message(request, _("You are connected with LeadExec."), messages.SUCCESS)
        return answer("connected", next_url)
    if isinstance(outcome, LinkWaiting):
        pending_link.keep(request, outcome, next_url)
        confirm_url = reverse("leadexec:confirm")
        if request.user.is_authenticated:
            return answer("confirm_required", confirm_url)
        # The page follows no address of another host, and LOGIN_URL may be one. The confirm page
        # redirects to it.
        login_url = safe_url(request, redirect_to_login(confirm_url).url)
        return answer("login_required", login_url or confirm_url)
    return answer("ignored")


@json_endpoint({"connection": object, "next": ADDRESS}, has_form=True)
def disconnect(request: HttpRequest, posted: Mapping[str, Any]) -> HttpResponseBase:
    """Revoke a connection of the user's own: the one named, or the only one there is."""
    after = url_after_form(request, posted["next"])
    if not request.user.is_authenticated:
        if wants_json(request):
            return answer_error(403, "not_allowed", _("Please log in first."))
        return redirect_to_login(after)
    connection = own_connection(request.user, posted["connection"])
    if connection is not None:
        # The visitor is answered first: LeadExec may be slow, and the use has ended already.
        try:
            send = start_revocation(connection)
        except ConnectionBusy as error:
            return _explain_busy(request, error, after)
        text = _("LeadExec is disconnected.")
        response = _answer_disconnect(request, "disconnected", text, after)
        after_response(response, send)
    elif is_disconnected(request.user, posted["connection"]):
        text = _("LeadExec was disconnected already.")
        response = _answer_disconnect(request, "already_disconnected", text, after)
    elif wants_json(request):
        return answer_error(404, "not_found", _("There is no such connection."))
    else:
        raise Http404
    returning.forget(response)
    return response


def _explain_busy(request: HttpRequest, error: ConnectionBusy, after: str) -> HttpResponse:
    if wants_json(request):
        return explain(error)
    _add_message(request, str(read_error(error).message), messages.ERROR)
    return HttpResponseRedirect(after)


def _answer_disconnect(request: HttpRequest, status: str, text: str, after: str) -> HttpResponse:
    if wants_json(request):
        return JsonResponse({"status": status, "message": text, "redirect": after})
    _add_message(request, text)
    return HttpResponseRedirect(after)


@outside_transactions
@never_cache
@xframe_options_deny
@login_required
@csrf_protect
@require_http_methods(["GET", "HEAD", "POST"])
def confirm(request: HttpRequest) -> HttpResponseBase:
    """Finish a link after login: the page names both sides, and only its POST links."""
    waiting = pending_link.find(request)
    if waiting is None:
        _add_message(request, _("There is no LeadExec connection waiting; please start again."))
        return HttpResponseRedirect(home())
    if request.method != "POST":
        return _confirm_page(request, waiting)
    after = HttpResponseRedirect(waiting.next_url or home())
    if request.POST.get("confirm") != "yes":
        pending_link.drop(request)
        return after
    user = cast(AbstractBaseUser, request.user)
    is_shown = request.POST.get("link") == waiting.name
    if not is_shown or not is_mark_of(user, request.POST.get("visitor")):
        # A callback in another tab has replaced the link that this page has shown, or the session
        # is not the one that the page was made for.
        return _other_link_page(request, waiting)
    try:
        outcome = authorization.confirm(waiting, user, lambda: throttle.consume(request))
    except (ProviderUnavailable, throttle.Throttled) as error:
        # The link goes on waiting, so that the visitor can try again.
        found = read_error(error)
        response = _confirm_page(request, waiting, str(found.message), found.status)
        set_retry_after(response, error)
        return response
    except LeadExecError as error:
        pending_link.drop(request)
        _add_message(request, str(read_error(error).message), messages.ERROR)
        return after
    if isinstance(outcome, LinkWaiting):
        # The token is now for another account than the page has shown.
        return _other_link_page(request, pending_link.keep(request, outcome, waiting.next_url))
    pending_link.drop(request)
    _add_message(request, _("LeadExec is connected."), messages.SUCCESS)
    return after


def _other_link_page(request: HttpRequest, waiting: PendingLink) -> HttpResponse:
    text = _("Please look again: another connection is waiting now.")
    return _confirm_page(request, waiting, text, 409)


def _confirm_page(
    request: HttpRequest, waiting: PendingLink, error: str = "", status: int = 200
) -> HttpResponse:
    context = {
        "account_id": waiting.account_id,
        "site_user": request.user,
        "next_url": waiting.next_url,
        "link": waiting.name,
        "visitor": mark_of(request.user),
        "error": error,
        "csp_nonce": read_nonce(request),
    }
    return render(request, "django_leadexec/confirm.html", context, status=status)


# LoginRequiredMiddleware would send strangers away, and the button is for them, too.
@login_not_required
@never_cache
@ensure_csrf_cookie
@require_safe
def state(request: HttpRequest) -> JsonResponse:
    """Answer as JSON what a page without the tag needs. Sets the CSRF cookie.

    With ``?button`` the tag's own markup comes along; it takes ``label``, ``next`` and ``load``.
    """
    found = describe(request)
    if "button" in request.GET:
        found["button"] = render_button(
            request=request,
            label=request.GET.get("label", ""),
            next_url=request.GET.get("next", ""),
            load="click" if request.GET.get("load") == "click" else "page",
        )
    return JsonResponse(found)


@never_cache
@xframe_options_deny
@login_required
@require_safe
def connect(request: HttpRequest) -> HttpResponse:
    """A page with the button. ``leadexec_required`` sends users here who are not connected."""
    next_url = safe_url(request, request.GET.get("next")) or home()
    if usable_connection(request.user) is not None:
        return HttpResponseRedirect(next_url)
    context = {"next_url": next_url, "csp_nonce": read_nonce(request)}
    return render(request, "django_leadexec/connect.html", context)


def _leads_elsewhere(page: str, next_url: str) -> bool:
    """Whether ``next_url``, seen from the page of this path, is another page."""
    return bool(page) and urlsplit(urljoin(page, next_url)).path != page


def _add_message(request: HttpRequest, text: str, level: int = messages.INFO) -> None:
    messages.add_message(request, level, text, fail_silently=True)
