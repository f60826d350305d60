"""One visit to a site that another package shares, from the first click to the disconnect.

Prints what came of it as one JSON object.
"""

import contextlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import django
from django.conf import settings

NEIGHBOUR = os.environ["LEADEXEC_TEST_NEIGHBOUR"]
if NEIGHBOUR == "gevent":
    from gevent import monkey

    monkey.patch_all()
elif NEIGHBOUR == "opentelemetry":
    from .opentelemetry import trace_everything

    trace_everything()
elif NEIGHBOUR == "pymysql":
    import pymysql

    pymysql.install_as_MySQLdb()


def path(name: str, *args: object) -> str:
    """The path of a named page, without what the web server takes off."""
    from django.urls import reverse

    return reverse(name, args=args).removeprefix(settings.FORCE_SCRIPT_NAME or "")


class Browser:
    """A visitor's browser on the site. It asks for what a script asks for, CSRF token included."""

    def __init__(self) -> None:
        from django.test import Client

        self.client = Client(enforce_csrf_checks=True)

    def state(self) -> Any:
        return self.client.get(path("leadexec:state")).json()

    def post(self, token: str, **changes: Any) -> Any:
        """The callback's answer to a click, as JSON."""
        return self.ask(token, **changes).json()

    def ask(self, token: str, **changes: Any) -> Any:
        state = self.state()
        body = {"token": token, "gesture": True, "visitor": state["visitor"]} | changes
        return self.client.post(
            path("leadexec:callback"),
            json.dumps(body),
            content_type="application/json",
            headers={"X-CSRFToken": state["csrf_token"]},
        )

    def submit(self, url: str, **fields: Any) -> Any:
        token = self.state()["csrf_token"]
        return self.client.post(url, fields | {"csrfmiddlewaretoken": token})

    def confirm(self) -> Any:
        """Press Connect on the page that a new link leads to."""
        page = self.client.get(path("leadexec:confirm"))
        hidden = dict(re.findall(r'name="(\w+)" value="([^"]+)"', page.content.decode()))
        fields = {name: hidden[name] for name in ("link", "visitor")}
        return self.submit(path("leadexec:confirm"), confirm="yes", **fields)

    def page(self) -> str:
        return str(self.client.get(path("page")).content.decode())


def make_connection_of(username: str, token: str) -> None:
    """A connection whose account is the token's part before the dash."""
    from django.contrib.auth import get_user_model

    from tests.factories import make_connection

    user = get_user_model()._default_manager.get(username=username)
    make_connection(token, user=user, account_id=token.partition("-")[0])


def visit() -> dict[str, Any]:
    """What each step of an ordinary visit came to."""
    from django.contrib.auth import get_user_model
    from django.core.management import call_command

    from django_leadexec.models import LeadExecConnection

    users: Any = get_user_model()._default_manager
    user = users.create_user("ada", "ada@example.org", "secret")
    browser = Browser()
    seen: dict[str, Any] = {}
    backend = "django.contrib.auth.backends.ModelBackend"
    seen["a stranger's page has the button"] = "le-app-button" in browser.page()
    browser.client.force_login(user, backend)
    seen["posted"] = browser.post("acme-1")["status"]
    seen["confirmed"] = browser.confirm().status_code
    row = LeadExecConnection.objects.get(user=user)
    seen["connected"] = [row.status, row.account_id, "acme" in browser.page()]
    LeadExecConnection.objects.write(expires_at=row.created_at, refresh_after=row.created_at)
    call_command("refresh_leadexec_tokens", verbosity=0)
    row.refresh_from_db()
    seen["refreshed"] = row.lives(3_000)
    seen["token"] = row.get_access_token()
    browser.client.logout()
    seen["signed in"] = [browser.post("acme-1")["status"], "Signed in as ada" in browser.page()]
    admin = Browser()
    admin.client.force_login(users.create_superuser("root", "root@example.org", "secret"), backend)
    admin_pages = [
        path("admin:index"),
        path("admin:django_leadexec_leadexecconnection_changelist"),
        path("admin:django_leadexec_leadexecconnection_change", row.pk),
        path("admin:django_leadexec_pendingrevocation_changelist"),
    ]
    seen["admin"] = [admin.client.get(page).status_code for page in admin_pages]
    browser.submit(path("leadexec:disconnect"))
    row.refresh_from_db()
    seen["disconnected"] = [row.status, str(row.refresh_token)]
    return seen


@contextlib.contextmanager
def provider() -> Iterator[str]:
    """Its address."""
    command = [sys.executable, "-m", "tests.neighbours.provider"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        yield process.stdout.readline().strip()
        process.communicate("")


def main() -> None:
    django.setup()
    from django.core.management import call_command
    from django.test.utils import get_runner, setup_test_environment

    from tests.sockets import apis_at

    setup_test_environment()
    runner = get_runner(settings)(verbosity=0, interactive=False)
    databases = runner.setup_databases()
    try:
        call_command("check", fail_level="ERROR", stdout=io.StringIO(), stderr=io.StringIO())
        with provider() as url:
            settings.DEBUG = True
            settings.LEADEXEC |= {"BASE_URL": url} | apis_at(url)
            seen = visit()
            name = f"tests.neighbours.{NEIGHBOUR}"
            if importlib.util.find_spec(name):
                seen |= importlib.import_module(name).more()
    finally:
        if NEIGHBOUR != "pgbouncer":
            # It keeps its connections, and a database with connections can't be dropped.
            runner.teardown_databases(databases)
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main()
