"""Posts tokens to a site whose errors a tracker reports.

Prints a JSON list with a list for each post: the case, the length of the token, the status of the
answer, how many reports were made, and what of them gives the token away.
"""

import json
import secrets
import sys
import threading
from collections.abc import Callable
from io import BytesIO
from typing import Any

import django
from django.conf import settings

from ...concurrency.threads import join

LENGTHS = (20, 54, 2_000)
CSRF = "c" * 32


def call(
    session_key: str, visitor: str, token: str, csrf: str, execute: Callable[..., Any] | None
) -> int:
    """Post as a web server would: no frame but the server's own is above the site's."""
    body = json.dumps({"token": token, "gesture": True, "visitor": visitor}).encode()
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/leadexec/callback/",
        "SERVER_NAME": "testserver",
        "SERVER_PORT": "80",
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_COOKIE": f"sessionid={session_key}; csrftoken={CSRF}",
        "HTTP_X_CSRFTOKEN": csrf,
        "wsgi.input": BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.url_scheme": "http",
    }
    statuses: list[str] = []
    thread = threading.Thread(target=serve, args=(environ, statuses, execute))
    thread.start()
    join(thread)
    return int(statuses[0].split()[0])


def serve(environ: dict[str, Any], statuses: list[str], execute: Callable[..., Any] | None) -> None:
    from django.core.handlers.wsgi import WSGIHandler
    from django.db import connection

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        statuses.append(status)

    try:
        connection.ensure_connection()
        if execute is not None:
            connection.execute_wrappers.append(execute)
        WSGIHandler()(environ, start_response).close()
    finally:
        connection.close()


def main() -> None:
    from . import trackers
    from .settings import TRACKER

    if TRACKER == "sentry_sdk":
        trackers.start_sentry()
    django.setup()
    from django.contrib.auth import get_user_model
    from django.core.management import call_command
    from django.db import OperationalError
    from django.test import Client

    from django_leadexec.visitor_mark import mark_of
    from tests.provider import Provider
    from tests.security.leak_recorder import Saboteur

    from .. import canaries
    from .site import faults

    if TRACKER != "sentry_sdk":
        # The first handler makes the middleware, which configures the tracker.
        from django.core.handlers.wsgi import WSGIHandler

        WSGIHandler()
        getattr(trackers, f"start_{TRACKER}")()
    call_command("migrate", verbosity=0)
    results: list[Any] = []

    def fail_always(*args: Any) -> Any:
        raise OperationalError("The database is down.")

    with Provider() as provider:
        settings.DEBUG = True
        settings.LEADEXEC |= {
            "BASE_URL": provider.url,
            "ACCOUNT_API_URL": provider.url,
            "DATA_API_URL": provider.url,
        }
        client = Client()
        user = get_user_model().objects.create_user("ada")
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        session_key = str(client.session.session_key)

        def post(
            case: str,
            length: int,
            fault: set[str] = frozenset(),  # type: ignore[assignment]
            csrf: str = CSRF,
            execute: Callable[..., Any] | None = None,
        ) -> None:
            token = secrets.token_hex(length // 2)
            trackers.sent.clear()
            faults.clear()
            faults.update(fault)
            status = call(session_key, mark_of(user), token, csrf, execute)
            leaks = canaries.find("\n".join(trackers.sent), token)
            results.append([case, length, status, len(trackers.sent), leaks])

        for length in LENGTHS:
            post("identify", length, {"identify"})
            post("identify, body read", length, {"identify", "reads the body"})
            post("expired CSRF", length, csrf="d" * 32)
            post("expired CSRF, body read", length, {"reads the body"}, csrf="d" * 32)
            post("down", length, execute=fail_always)
            if TRACKER != "elasticapm":
                # The request fails before our view can take the token from it. Elastic's agent,
                # told to record bodies, then sends the JSON as it is; SECURITY.md says so.
                post("down, user asked for", length, {"asks for the user"}, execute=fail_always)
            saboteur, nth = Saboteur(1, OperationalError), 1
            while saboteur.left <= 0 or nth == 1:
                saboteur = Saboteur(nth, OperationalError)
                post(f"statement {nth}", length, execute=saboteur)
                nth += 1
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main()
