"""leadexec_required on the operations of django-ninja."""

from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import AsyncClient, Client, override_settings
from django.urls import include, path

from ..factories import make_connection, make_user
from ..needs import import_or_skip
from ..visitor import LOGIN

import_or_skip("ninja")

from . import ninja_urls  # noqa: E402 - it imports ninja

pytestmark = pytest.mark.django_db(transaction=True)

urlpatterns = [
    path("api/", ninja_urls.api.urls),
    path("leadexec/", include("django_leadexec.urls")),
]


@pytest.fixture(autouse=True)
def site() -> Any:
    with override_settings(ROOT_URLCONF=__name__):
        yield


@pytest.fixture(params=["sync", "async", "async at an ASGI server"])
def get(request: pytest.FixtureRequest) -> Any:
    """Ask the sync operation, or the async one behind either kind of server."""
    name = request.param.split()[0]

    def get(user: Any = None, query: str = "", **headers: str) -> Any:
        client = AsyncClient() if "ASGI" in request.param else Client()
        if user:
            client.force_login(user, LOGIN)
        ask = async_to_sync(client.get) if isinstance(client, AsyncClient) else client.get
        return ask(f"/api/{name}{query}", headers=headers)

    return get


def test_a_user_gets_their_connection(get: Any) -> None:
    row = make_connection()
    assert get(row.user, "?page=3").json() == {"connection": row.pk, "page": 3}


def test_parameters_are_checked_as_they_are_annotated(get: Any) -> None:
    assert get(make_connection().user, "?page=three").status_code == 422


def test_nobody_gets_a_401(get: Any) -> None:
    response = get()
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "login_required"
    assert response.json()["connect_url"] == "/leadexec/connect/"


def test_a_user_without_a_connection_gets_a_403(get: Any) -> None:
    response = get(make_user(), Referer="http://testserver/app/")
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "not_connected"
    assert response.json()["connect_url"] == "/leadexec/connect/?next=%2Fapp%2F"


@pytest.mark.parametrize("debug", [False, True])
def test_a_refusal_during_the_operation_is_a_403_as_well(get: Any, debug: bool) -> None:
    with override_settings(DEBUG=debug):
        response = get(make_connection().user, "?page=0")
    assert (response.status_code, response.json()["error"]["code"]) == (403, "not_connected")


def test_a_body_is_read_as_it_is_annotated(client: Client) -> None:
    row = make_connection()
    client.force_login(row.user, LOGIN)
    response = client.post("/api/body", {"page": 4}, content_type="application/json")
    assert response.json() == {"connection": row.pk, "page": 4}


def test_the_user_whom_an_operations_auth_returns_counts() -> None:
    row = make_connection()
    headers = {"Authorization": f"Bearer {row.user.username}"}
    assert Client().get("/api/bearer", headers=headers).json()["connection"] == row.pk
    headers = {"Authorization": f"Bearer {make_user().username}"}
    assert Client().get("/api/bearer", headers=headers).status_code == 403
    assert Client().get("/api/bearer").json() == {"detail": "Unauthorized"}


def test_djangos_own_session_is_an_auth_too(client: Client) -> None:
    row = make_connection()
    client.force_login(row.user, LOGIN)
    assert client.get("/api/session").json()["connection"] == row.pk
