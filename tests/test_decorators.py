"""leadexec_required, for sync and async views."""

import asyncio
from typing import Any

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from django.views import View

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
    async def get(self, request: HttpRequest) -> HttpResponse:
        return await show_async(request)


# Before Python 3.12, inspect doesn't know that Django has marked this function as async.
show_by_class = leadexec_required(Show.as_view())


def call(view: Any, user: Any) -> Any:
    request = RequestFactory().get("/leads/?page=2")
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
