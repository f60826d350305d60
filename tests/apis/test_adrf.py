"""leadexec_required on async views of Django REST framework, by adrf."""

import sys
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import AsyncClient, Client, override_settings
from django.urls import include, path
from django.utils.decorators import method_decorator
from rest_framework.decorators import authentication_classes
from rest_framework.response import Response

from django_leadexec.decorators import leadexec_required
from django_leadexec.exceptions import AuthorizationRejected

from ..factories import make_connection, make_user
from ..needs import import_or_skip
from .drf_urls import WAYS_IN

views = import_or_skip("adrf.views")
decorators = import_or_skip("adrf.decorators")

pytestmark = pytest.mark.django_db(transaction=True)


async def answer(request: Any) -> Response:
    if "refuse" in request.query_params:
        raise AuthorizationRejected("no")
    return Response({"connection": request.leadexec_connection.pk})


@decorators.api_view(["GET"])
@authentication_classes(WAYS_IN)
@leadexec_required
async def function(request: Any) -> Response:
    return await answer(request)


class ByMethod(views.APIView):  # type: ignore[name-defined]
    authentication_classes = WAYS_IN

    @method_decorator(leadexec_required)
    async def get(self, request: Any) -> Response:
        return await answer(request)


class ByFunction(views.APIView):  # type: ignore[name-defined]
    authentication_classes = WAYS_IN

    async def get(self, request: Any) -> Response:
        response: Response = await leadexec_required(answer)(request)
        return response


urlpatterns = [
    path("api/function/", function),
    path("api/method/", ByMethod.as_view()),
    path("api/function-of-method/", ByFunction.as_view()),
    path("leadexec/", include("django_leadexec.urls")),
]


@pytest.fixture(autouse=True)
def site() -> Any:
    with override_settings(ROOT_URLCONF=__name__):
        yield


# Before 3.12, Django's method_decorator can't mark a method as async in a way that adrf sees.
METHOD = pytest.param(
    "method",
    marks=pytest.mark.skipif(
        sys.version_info < (3, 12), reason="adrf takes it from Python 3.12 on"
    ),
)


@pytest.fixture(params=["function", METHOD, "function-of-method"])
def url(request: pytest.FixtureRequest) -> str:
    return f"/api/{request.param}/"


def as_user(user: Any) -> dict[str, str]:
    return {"Authorization": f"Token {user.username}"}


def test_a_user_whom_the_api_authenticates_gets_their_connection(url: str) -> None:
    row = make_connection()
    assert Client().get(url, headers=as_user(row.user)).json() == {"connection": row.pk}


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_others_get_a_401_or_403(url: str, kind: type[Client | AsyncClient]) -> None:
    client: Any = kind()
    get = async_to_sync(client.get) if kind is AsyncClient else client.get
    assert get(url).status_code == 401
    assert get(url).json()["error"]["code"] == "login_required"
    assert get(url, headers=as_user(make_user())).json()["error"]["code"] == "not_connected"
    response = get(f"{url}?refuse", headers=as_user(make_connection().user))
    assert (response.status_code, response.json()["error"]["code"]) == (403, "not_connected")
