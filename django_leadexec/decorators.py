"""For views that need LeadExec."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import resolve_url
from django.utils.http import urlencode

from .connections import usable_connection
from .exceptions import AuthorizationRejected

View = TypeVar("View", bound=Callable[..., Any])


def leadexec_required(view: View) -> View:
    """Give the view the user's active connection, as ``request.leadexec_connection``.

    A visitor who isn't logged in is sent to the login page; one without a usable connection, or
    whose connection turns out to be refused during the view, to ``leadexec:connect``, and back
    once connected. Works for sync and async views.
    """

    if iscoroutinefunction(view):

        @wraps(view)
        async def awrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            away = await sync_to_async(_attach)(request)
            if away is None:
                try:
                    return cast(HttpResponseBase, await view(request, *args, **kwargs))
                except AuthorizationRejected:
                    away = _to_connect(request)
            return away

        return cast(View, awrapped)

    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        away = _attach(request)
        if away is None:
            try:
                return cast(HttpResponseBase, view(request, *args, **kwargs))
            except AuthorizationRejected:
                away = _to_connect(request)
        return away

    return cast(View, wrapped)


def _attach(request: HttpRequest) -> HttpResponseBase | None:
    if not request.user.is_authenticated:
        return redirect_to_login(request.get_full_path())
    connection = usable_connection(request.user)
    if connection is None:
        return _to_connect(request)
    request.leadexec_connection = connection  # type: ignore[attr-defined]
    return None


def _to_connect(request: HttpRequest) -> HttpResponseBase:
    query = urlencode({"next": request.get_full_path()})
    return HttpResponseRedirect(f"{resolve_url('leadexec:connect')}?{query}")
