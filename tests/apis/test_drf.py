"""leadexec_required on the views of Django REST framework."""

from typing import Any

import pytest
from django.test import Client, override_settings
from django.urls import include, path

from ..factories import make_connection, make_user
from ..visitor import LOGIN
from . import drf_urls

pytestmark = pytest.mark.django_db(transaction=True)

urlpatterns = [
    path("api/", include(drf_urls)),
    path("leadexec/", include("django_leadexec.urls")),
]
BELOW = ["function", "method", "set"]
ABOVE = ["dispatch", "above"]


@pytest.fixture(autouse=True)
def site() -> Any:
    with override_settings(ROOT_URLCONF=__name__):
        yield


def get(name: str, user: Any = None, client: Client | None = None, query: str = "") -> Any:
    headers = {"Authorization": f"Token {user.username}"} if user else {}
    return (client or Client()).get(f"/api/{name}/{query}", headers=headers)


@pytest.mark.parametrize("name", BELOW)
def test_a_user_whom_the_api_authenticates_gets_their_connection(name: str) -> None:
    row = make_connection()
    make_connection()
    response = get(name, row.user)
    assert (response.status_code, response.json()) == (200, {"connection": row.pk})


@pytest.mark.parametrize("name", BELOW + ABOVE)
def test_so_does_a_user_of_the_site(name: str, client: Client) -> None:
    row = make_connection()
    client.force_login(row.user, LOGIN)
    assert get(name, client=client).json() == {"connection": row.pk}


@pytest.mark.parametrize("name", BELOW + ABOVE)
def test_nobody_gets_a_401(name: str) -> None:
    response = get(name)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "login_required"
    assert response.json()["error"]["message"]
    assert response.json()["connect_url"] == "/leadexec/connect/"
    assert "no-store" in response["Cache-Control"]


@pytest.mark.parametrize("name", BELOW + ABOVE)
@pytest.mark.parametrize("status", [None, "rejected"])
def test_a_user_without_a_usable_connection_gets_a_403(
    name: str, status: str | None, client: Client
) -> None:
    user = make_user()
    if status:
        make_connection(user=user, status=status)
    client.force_login(user, LOGIN)
    response = client.get(f"/api/{name}/", headers={"Referer": "http://testserver/app/?page=2"})
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "not_connected"
    assert response.json()["connect_url"] == "/leadexec/connect/?next=%2Fapp%2F%3Fpage%3D2"


@pytest.mark.parametrize("name", BELOW + ABOVE)
def test_a_refusal_during_the_view_is_a_403_as_well(name: str, client: Client) -> None:
    client.force_login(make_connection().user, LOGIN)
    response = get(name, client=client, query="?refuse")
    assert (response.status_code, response.json()["error"]["code"]) == (403, "not_connected")


@pytest.mark.parametrize("name", BELOW)
def test_a_user_whom_the_api_does_not_know_is_its_own_matter(name: str) -> None:
    response = Client().get(f"/api/{name}/", headers={"Authorization": "Token nobody"})
    assert response.status_code == 401
    assert response.json() == {"detail": "Nobody has this token."}


def test_a_browser_at_an_api_gets_json_too() -> None:
    response = Client().get("/api/function/", headers={"Accept": "text/html,*/*"})
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "login_required"


def test_the_address_of_another_site_is_no_page_to_come_back_to() -> None:
    response = Client().get("/api/function/", headers={"Referer": "https://evil.test/x"})
    assert response.json()["connect_url"] == "/leadexec/connect/"
