"""Refreshes one connection in a page, and three by the admin's action, under the toolbar.

Prints one JSON object.
"""

import json
import sys

import django
from django.conf import settings


def main() -> None:
    django.setup()
    from django.core.management import call_command
    from django.test import Client

    from django_leadexec.models import LeadExecConnection
    from tests.factories import is_leased, make_connection, make_user
    from tests.provider import Provider
    from tests.sockets import apis_at

    call_command("migrate", run_syncdb=True, verbosity=0)
    with Provider() as provider:
        settings.LEADEXEC |= {"BASE_URL": provider.url} | apis_at(provider.url)
        make_connection("of-ada", user=make_user("ada"), expires_in=-1)
        page = Client().get("/token/")
        rows = [make_connection(f"token-{number}", expires_in=-1) for number in range(3)]
        admin = Client()
        admin.force_login(
            make_user("root", is_staff=True, is_superuser=True), settings.AUTHENTICATION_BACKENDS[0]
        )
        action = {"action": "refresh_selected", "_selected_action": [row.pk for row in rows]}
        answer = admin.post("/admin/django_leadexec/leadexecconnection/", action, follow=True)
        stored = LeadExecConnection.objects.all()
        sys.stdout.write(
            json.dumps(
                {
                    "page": page.status_code,
                    "has_toolbar": b"djDebug" in page.content,
                    "has_token": b"access-1-for-of-ada" in page.content,
                    "admin": answer.status_code,
                    "refreshes": provider.refreshes,
                    "fresh": sum(row.lives(60) for row in stored),
                    "leased": sum(map(is_leased, stored)),
                }
            )
        )


if __name__ == "__main__":
    main()
