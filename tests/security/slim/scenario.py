"""Signs in, links, returns and disconnects on a site whose users are ``slim.User``.

Prints the statuses of the answers, one a line.
"""

import json
import sys
import uuid
from typing import Any

import django
from django.conf import settings


def main() -> None:
    django.setup()
    from django.contrib.auth import get_user_model
    from django.core.management import call_command
    from django.test import Client
    from django.test.utils import setup_test_environment

    from tests.provider import Provider
    from tests.sockets import apis_at
    from tests.visitor import callback_body, confirmed

    setup_test_environment()
    call_command("migrate", run_syncdb=True, verbosity=0)

    def post(client: Client, token: str, gesture: bool) -> None:
        body = json.dumps(callback_body(client, token, gesture))
        answer = client.post("/leadexec/callback/", body, content_type="application/json").json()
        sys.stdout.write(f"{answer.get('status') or answer['error']['code']}\n")

    with Provider() as provider:
        settings.DEBUG = True
        settings.LEADEXEC |= {"BASE_URL": provider.url, "SIGN_IN": True} | apis_at(provider.url)
        users: Any = get_user_model()._default_manager
        user = users.create(id=uuid.uuid4(), handle="ada")
        client = Client()
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        post(client, "t", True)
        link = client.get("/leadexec/confirm/").context["link"]
        client.post("/leadexec/confirm/", confirmed(client, link))
        client.logout()
        post(client, "t", False)
        post(client, "t", True)
        del client.cookies["sessionid"]
        post(client, "t", False)
        client.post("/leadexec/disconnect/")
        post(Client(), "t", True)


if __name__ == "__main__":
    main()
