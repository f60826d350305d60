"""Django REST framework's own tokens (rest_framework.authtoken) say who calls the site's API."""

from typing import Any

from rest_framework.authentication import TokenAuthentication
from rest_framework.decorators import api_view, authentication_classes, permission_classes
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from django_leadexec.decorators import leadexec_required

from .scenario import Browser, make_connection_of, path


@api_view(["GET"])
@authentication_classes([TokenAuthentication])
@permission_classes([IsAuthenticated])
@leadexec_required
def token_of_caller(request: Request) -> Response:
    return Response({"token": request.leadexec_connection.get_access_token()})


def ask(key: str = "") -> Any:
    headers = {"Authorization": f"Token {key}"} if key else {}
    return Browser().client.get(path("api"), headers=headers)


def key_of(username: str) -> str:
    log_in = {"username": username, "password": "secret"}
    return str(Browser().client.post(path("api-token"), log_in).json()["token"])


def more() -> dict[str, Any]:
    make_connection_of("ada", "acme-2")
    of_ada, of_root = ask(key_of("ada")), ask(key_of("root"))
    where = of_root.json().get("connect_url")
    return {
        "ada gets ada's connection": of_ada.json() == {"token": "stored-access-for-acme-2"},
        "root has none": (of_root.status_code, where) == (403, "/leadexec/connect/"),
        "a wrong key is the API's matter": ask("wrong").json() == {"detail": "Invalid token."},
        "so is who has no key": ask().status_code == 401,
    }
