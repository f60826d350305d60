"""A visitor's browser, for tests of the views."""

import json
import threading
from collections.abc import Callable
from typing import Any

from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.urls import reverse

CALLBACK, CONFIRM, DISCONNECT, CONNECT = (
    f"/leadexec/{name}/" for name in ("callback", "confirm", "disconnect", "connect")
)
LOGIN = "django.contrib.auth.backends.ModelBackend"
# In seconds since the epoch: far from midnight, where a day of CALLBACK_RATE begins.
NOON = 20_000 * 86_400 + 43_200


def post(client: Client, token: object, gesture: object = True, **more: Any) -> Any:
    body = {"refreshToken": token, "gesture": gesture} | more
    return client.post(
        reverse("leadexec:callback"), json.dumps(body), content_type="application/json"
    )


def assert_error(response: Any, status: int, code: str) -> None:
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert response.json()["error"]["message"]


def link_shown(client: Client) -> str:
    """What the confirm page's form calls the link it shows; "" if there is none to confirm."""
    page = client.get(reverse("leadexec:confirm"))
    return str(page.context["link"]) if page.status_code == 200 else ""


def agree(client: Client, link: str | None = None) -> Any:
    """Press Connect on the confirm page: on the one that is there now, or one seen before."""
    link = link_shown(client) if link is None else link
    return client.post(reverse("leadexec:confirm"), {"confirm": "yes", "link": link})


def user_of(client: Client) -> str | None:
    """The name of the user this browser is logged in as."""
    pk = client.session.get("_auth_user_id")
    return get_user_model().objects.get(pk=pk).username if pk else None


def elsewhere(do: Callable[[], object]) -> None:
    """Use the database as another process would, also from within the stand-in's event loop."""

    def run() -> None:
        try:
            do()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def csrf_token(client: Client) -> str:
    return str(client.get("/page/").context["csrf_token"])


def send(client: Client, token: str = "attackers", **options: Any) -> Any:
    body = json.dumps({"refreshToken": token, "gesture": True})
    return client.post(CALLBACK, body, content_type="application/json", **options)
