"""A visitor's browser, for tests of the views."""

import json
from collections.abc import Callable
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user, get_user_model
from django.http import HttpRequest
from django.test import Client
from django.urls import reverse

from django_leadexec.visitor_mark import mark_of

from .concurrency.threads import begin

CALLBACK, CONFIRM, DISCONNECT, CONNECT, STATE = (
    f"/leadexec/{name}/" for name in ("callback", "confirm", "disconnect", "connect", "state")
)
LOGIN = "django.contrib.auth.backends.ModelBackend"
# In seconds since the epoch: far from midnight, where a day of CALLBACK_RATE begins.
NOON = 20_000 * 86_400 + 43_200


def mark_for(client: Client) -> str:
    """What a page that this browser loads now would have as its mark."""
    cookie = client.cookies.get(settings.SESSION_COOKIE_NAME)
    request = HttpRequest()
    # Not client.session, which makes a session where there is none.
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(cookie and cookie.value)
    return mark_of(get_user(request))


def callback_body(client: Client, token: object = "t", gesture: object = True, **more: Any) -> Any:
    """What a page of this browser's posts to the callback."""
    return {"token": token, "gesture": gesture, "visitor": mark_for(client)} | more


def post(client: Client, token: object, gesture: object = True, **more: Any) -> Any:
    body = callback_body(client, token, gesture, **more)
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
    return client.post(reverse("leadexec:confirm"), confirmed(client, link))


def confirmed(client: Client, link: str) -> dict[str, str]:
    """What the confirm page's form posts for a yes."""
    return {"confirm": "yes", "link": link, "visitor": mark_for(client)}


def user_of(client: Client) -> str | None:
    """The name of the user this browser is logged in as."""
    pk = client.session.get("_auth_user_id")
    return get_user_model().objects.get(pk=pk).username if pk else None


def elsewhere(do: Callable[[], object]) -> None:
    """Use the database as another process would, also from within the stand-in's event loop."""
    begin(do).returned()


def csrf_token(client: Client, **options: Any) -> str:
    return str(client.get(STATE, **options).json()["csrf_token"])


def send(client: Client, token: str = "attackers", **options: Any) -> Any:
    body = json.dumps(callback_body(client, token))
    return client.post(CALLBACK, body, content_type="application/json", **options)
