"""For views that need LeadExec."""

import inspect
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import wraps
from typing import Any, Concatenate, ParamSpec, cast, overload
from urllib.parse import urlencode

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import resolve_url
from django.utils.cache import add_never_cache_headers
from django.utils.translation import gettext as _

from .exceptions import AuthorizationRejected
from .lifecycle import usable_connection
from .models import LeadExecConnection
from .responses import answer_error, path_on_this_site, referring_page, wants_json

P = ParamSpec("P")


class LeadExecRequest(HttpRequest):
    """The request as a view under ``leadexec_required`` gets it. For annotations only."""

    leadexec_connection: LeadExecConnection


@overload
def leadexec_required(
    view: Callable[Concatenate[LeadExecRequest, P], Coroutine[Any, Any, HttpResponseBase]],
) -> Callable[Concatenate[HttpRequest, P], Coroutine[Any, Any, HttpResponseBase]]: ...
@overload
def leadexec_required(
    view: Callable[Concatenate[LeadExecRequest, P], HttpResponseBase],
) -> Callable[Concatenate[HttpRequest, P], HttpResponseBase]: ...
@overload
def leadexec_required(view: Callable[..., Any]) -> Callable[..., Any]: ...
def leadexec_required(view: Callable[..., Any]) -> Callable[..., Any]:
    """Give the view the user's active connection, as ``request.leadexec_connection``.

    A visitor who isn't logged in is redirected to the login page. A user without an active
    connection is redirected to ``leadexec:connect``, and back once they are connected. So is a
    user whose connection is refused during the view. htmx is told to redirect the whole page. A
    client that wants JSON, and whoever calls a view of Django REST framework or django-ninja, gets
    401 or 403 (docs/apis.md).

    Works for sync and async views. For an API's view it belongs below the API's own decorator, so
    that the API has authenticated the user before.
    """

    async def arun(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        answer = await sync_to_async(_attach)(request)
        if answer is None:
            try:
                return cast(HttpResponseBase, await view(request, *args, **kwargs))
            except AuthorizationRejected:
                answer = _not_connected(request)
        return answer

    def run(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        answer = _attach(request)
        if answer is None:
            try:
                return cast(HttpResponseBase, view(request, *args, **kwargs))
            except AuthorizationRejected:
                answer = _not_connected(request)
        return answer

    wrapped = wraps(view)(arun if _is_async(view) else run)
    if inspect.isfunction(view):
        # django-ninja reads annotations. Those that are texts have a meaning only in the view's own
        # module. Reading them can raise anything, and most views do not need it.
        with suppress(Exception):
            wrapped.__signature__ = inspect.signature(view, eval_str=True)  # type: ignore[attr-defined]
    return wrapped


def _is_async(view: Callable[..., Any]) -> bool:
    """Whether a view returns a coroutine. The ``dispatch`` of a class does so without a mark."""
    if iscoroutinefunction(view):
        return True
    inner: Any = view
    while inner is not None:
        method = getattr(inner, "func", inner)  # method_decorator makes a partial
        is_dispatch = getattr(method, "__name__", "") == "dispatch"
        if is_dispatch and getattr(getattr(method, "__self__", None), "view_is_async", False):
            return True
        inner = getattr(inner, "__wrapped__", None)
    return False


def _attach(request: HttpRequest) -> HttpResponseBase | None:
    user = _user_of(request)
    if not user.is_authenticated:
        return _not_logged_in(request)
    connection = usable_connection(user)
    if connection is None:
        return _not_connected(request)
    request.leadexec_connection = connection  # type: ignore[attr-defined]
    return None


def _user_of(request: HttpRequest) -> AbstractBaseUser | AnonymousUser:
    """Who is logged in, or whom the ``auth`` of a django-ninja operation has returned."""
    authenticated = getattr(request, "auth", None)
    if not request.user.is_authenticated and isinstance(authenticated, AbstractBaseUser):
        return authenticated
    return request.user


def _not_logged_in(request: HttpRequest) -> HttpResponseBase:
    if _is_htmx(request):
        page = _htmx_page(request)
        return _redirect_page(
            redirect_to_login(page).url if page else resolve_url(settings.LOGIN_URL)
        )
    if _is_for_an_api(request):
        return _answer_api(request, 401, "login_required", _("Please log in first."))
    return redirect_to_login(request.get_full_path())


def _not_connected(request: HttpRequest) -> HttpResponseBase:
    if _is_htmx(request):
        return _redirect_page(_connect_url(_htmx_page(request)))
    if _is_for_an_api(request):
        return _answer_api(request, 403, "not_connected", _("Please connect to LeadExec first."))
    return HttpResponseRedirect(_connect_url(request.get_full_path()))


def _connect_url(page: str) -> str:
    """The address of the page with the button, and from there back to ``page``, if it is known."""
    query = f"?{urlencode({'next': page})}" if page else ""
    return f"{resolve_url('leadexec:connect')}{query}"


# htmx


def _is_htmx(request: HttpRequest) -> bool:
    """Whether htmx asks for a part of a page. To restore one from its history, it asks for all."""
    headers = request.headers
    return "HX-Request" in headers and "HX-History-Restore-Request" not in headers


def _htmx_page(request: HttpRequest) -> str:
    """The page that htmx is on: after the login one wants to see that, and not the part."""
    return path_on_this_site(request, request.headers.get("HX-Current-URL"))


def _redirect_page(url: str) -> HttpResponse:
    # Browsers follow a redirect by themselves and show htmx only what lies behind it.
    response = HttpResponse(headers={"HX-Redirect": url})
    add_never_cache_headers(response)
    return response


# APIs


def _is_for_an_api(request: HttpRequest) -> bool:
    """Whether the client, or the view, has no use for a page."""
    match = request.resolver_match
    return (
        wants_json(request)
        or request.headers.get("X-Requested-With") == "XMLHttpRequest"
        # Django REST framework: its request has the one of Django, and its views have their class.
        or isinstance(getattr(request, "_request", None), HttpRequest)
        or hasattr(getattr(match and match.func, "cls", None), "authentication_classes")
        or (match is not None and "ninja" in match.app_names)
    )


def _answer_api(request: HttpRequest, status: int, code: str, message: str) -> HttpResponse:
    """The error, and where its visitor can connect. Back from there is the page they are on now."""
    url = _connect_url(referring_page(request))
    response = answer_error(status, code, message, connect_url=url)
    add_never_cache_headers(response)
    return response
