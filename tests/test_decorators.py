"""leadexec_required, for sync and async views."""

import asyncio
import json
from typing import Any

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.test import RequestFactory
from django.utils.decorators import method_decorator
from django.views import View
from pytest_django import Settings

from django_leadexec.decorators import leadexec_required
from django_leadexec.exceptions import AuthorizationRejected

from .factories import make_connection, make_user

pytestmark = pytest.mark.django_db(transaction=True)


@leadexec_required
def show(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(request.leadexec_connection.pk))  # type: ignore[attr-defined]


@leadexec_required
async def show_async(request: HttpRequest) -> HttpResponse:
    await asyncio.sleep(0)
    return HttpResponse(str(request.leadexec_connection.pk))  # type: ignore[attr-defined]


@leadexec_required
def be_refused(request: HttpRequest) -> HttpResponse:
    raise AuthorizationRejected("no")


@leadexec_required
async def be_refused_async(request: HttpRequest) -> HttpResponse:
    raise AuthorizationRejected("no")


class Show(View):
    async def get(self, request: HttpRequest) -> HttpResponseBase:
        return await show_async(request)


# Before Python 3.12, inspect doesn't know that Django has marked this function as async.
show_by_class = leadexec_required(Show.as_view())


def call(view: Any, user: Any, **headers: str) -> Any:
    request = RequestFactory().get("/leads/?page=2", headers=headers)
    request.user = user
    if iscoroutinefunction(view):
        return async_to_sync(view)(request)
    return view(request)


VIEWS = [show, show_async, show_by_class]
REFUSED = [be_refused, be_refused_async]


@pytest.mark.parametrize("view", VIEWS)
def test_the_view_gets_the_users_connection(view: Any) -> None:
    row = make_connection()
    assert call(view, row.user).content == str(row.pk).encode()


@pytest.mark.parametrize("view", VIEWS)
def test_the_anonymous_are_sent_to_log_in(view: Any) -> None:
    response = call(view, AnonymousUser())
    assert response["Location"] == "/accounts/login/?next=/leads/%3Fpage%3D2"


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("status", [None, "rejected", "revoked"])
def test_without_a_usable_connection_one_is_sent_to_connect(view: Any, status: str | None) -> None:
    user = make_user()
    if status:
        make_connection(user=user, status=status)
    response = call(view, user)
    assert response["Location"] == "/leadexec/connect/?next=%2Fleads%2F%3Fpage%3D2"


@pytest.mark.parametrize("view", REFUSED)
def test_a_refusal_during_the_view_leads_there_too(view: Any) -> None:
    response = call(view, make_connection().user)
    assert response["Location"].startswith("/leadexec/connect/")


# htmx

HTMX = {"HX-Request": "true"}
ON_A_PAGE = HTMX | {"HX-Current-URL": "http://testserver/leads/?page=2#list"}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("is_logged_in", [False, True])
def test_htmx_is_told_to_redirect_the_whole_page(view: Any, is_logged_in: bool) -> None:
    response = call(view, make_user() if is_logged_in else AnonymousUser(), **ON_A_PAGE)
    assert response.status_code == 200
    assert response.content == b""
    assert "Location" not in response
    assert "no-store" in response["Cache-Control"]
    assert response["HX-Redirect"] == (
        "/leadexec/connect/?next=%2Fleads%2F%3Fpage%3D2%23list"
        if is_logged_in
        else "/accounts/login/?next=/leads/%3Fpage%3D2%23list"
    )


@pytest.mark.parametrize("view", REFUSED)
def test_a_refusal_during_the_view_redirects_htmx_too(view: Any) -> None:
    response = call(view, make_connection().user, **ON_A_PAGE)
    assert response["HX-Redirect"].startswith("/leadexec/connect/?next=%2Fleads")


@pytest.mark.parametrize(
    "page",
    [
        "",
        "https://evil.test/leads/",
        "http://testserver.evil.test/",
        "http://testserver@evil.test/",
        "http://testserver//evil.test/",
        "http://testserver:8000/",
        "//evil.test/",
        "/leads/",
        "javascript:alert(1)",
        "http://[",
    ],
)
def test_only_a_page_of_this_site_is_come_back_to(page: str) -> None:
    response = call(show, make_user(), **HTMX, **{"HX-Current-URL": page})
    assert response["HX-Redirect"] == "/leadexec/connect/"
    response = call(show, AnonymousUser(), **HTMX, **{"HX-Current-URL": page})
    assert response["HX-Redirect"] == "/accounts/login/"


def test_a_login_page_on_another_host_is_redirected_to(settings: Settings) -> None:
    settings.LOGIN_URL = "https://accounts.test/login?site=1"
    response = call(show, AnonymousUser(), **ON_A_PAGE)
    assert response["HX-Redirect"].startswith("https://accounts.test/login?site=1&next=/leads/")


def test_htmx_that_restores_a_page_from_its_history_is_redirected_as_a_browser() -> None:
    headers = ON_A_PAGE | {"HX-History-Restore-Request": "true"}
    assert call(show, make_user(), **headers)["Location"].startswith("/leadexec/connect/")


# Clients that want JSON

WANTING_JSON: dict[str, dict[str, str]] = {
    "by its Accept header": {"Accept": "application/json"},
    "rather than HTML": {"Accept": "text/html;q=0.5, application/json"},
    "as a script of old": {"X-Requested-With": "XMLHttpRequest"},
    "as it sends some": {"Content-Type": "application/json"},
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("headers", WANTING_JSON.values(), ids=WANTING_JSON)
def test_who_wants_json_gets_401_or_403(view: Any, headers: dict[str, str]) -> None:
    response = call(view, AnonymousUser(), **headers)
    assert response.status_code == 401
    assert json.loads(response.content) == {
        "error": {"code": "login_required", "message": "Please log in first."},
        "connect_url": "/leadexec/connect/",
    }
    response = call(view, make_user(), Referer="http://testserver/leads/", **headers)
    assert response.status_code == 403
    assert json.loads(response.content) == {
        "error": {"code": "not_connected", "message": "Please connect to LeadExec first."},
        "connect_url": "/leadexec/connect/?next=%2Fleads%2F",
    }


@pytest.mark.parametrize("view", REFUSED)
def test_a_refusal_during_the_view_is_a_403_for_them(view: Any) -> None:
    response = call(view, make_connection().user, Accept="application/json")
    assert response.status_code == 403


@pytest.mark.parametrize("accept", ["text/html,*/*;q=0.8", "*/*", "text/html, application/json"])
def test_a_browser_is_redirected(accept: str) -> None:
    assert call(show, make_user(), Accept=accept).status_code == 302


# Classes


class ShowSync(View):
    def get(self, request: HttpRequest) -> HttpResponseBase:
        return show(request)


@method_decorator(leadexec_required, name="dispatch")
class ByDispatch(ShowSync):
    pass


@method_decorator(leadexec_required, name="dispatch")
class ByDispatchAsync(Show):
    pass


class ByMethod(View):
    @method_decorator(leadexec_required)
    def get(self, request: HttpRequest) -> HttpResponse:
        if "refuse" in request.GET:
            raise AuthorizationRejected("no")
        return HttpResponse(str(request.leadexec_connection.pk))  # type: ignore[attr-defined]


class RefusedByDispatchAsync(View):
    async def get(self, request: HttpRequest) -> HttpResponse:
        raise AuthorizationRejected("no")


CLASSES = {kind.__name__: kind.as_view() for kind in (ByDispatch, ByDispatchAsync, ByMethod)}


@pytest.mark.parametrize("view", CLASSES.values(), ids=CLASSES)
def test_the_method_of_a_class_gets_the_connection(view: Any) -> None:
    row = make_connection()
    assert call(view, row.user).content == str(row.pk).encode()


@pytest.mark.parametrize("view", CLASSES.values(), ids=CLASSES)
def test_who_asks_a_class_and_is_not_connected_is_sent_to_connect(view: Any) -> None:
    assert call(view, make_user())["Location"].startswith("/leadexec/connect/")
    assert call(view, make_user(), **ON_A_PAGE)["HX-Redirect"].startswith("/leadexec/connect/")
    assert call(view, AnonymousUser())["Location"].startswith("/accounts/login/")


def test_a_refusal_in_an_async_class_whose_dispatch_is_decorated_is_answered() -> None:
    view = method_decorator(leadexec_required, name="dispatch")(RefusedByDispatchAsync).as_view()
    response = call(view, make_connection().user)
    assert response["Location"].startswith("/leadexec/connect/")
