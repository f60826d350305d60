import socket
import time
from argparse import ArgumentParser
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import BaseCommand, CommandError, call_command
from django.db import DEFAULT_DB_ALIAS, OperationalError
from django.utils import timezone

from django_leadexec.conf import get_settings
from django_leadexec.leases import writing
from django_leadexec.linking import link
from django_leadexec.models import LeadExecConnection

HOST = "127.0.0.1"
LAST_PORT = 65535
PASSWORD = "demo"  # noqa: S105 - for a demo on one's own machine, and printed
NOT_WATCHED = """
Some connections need manage.py refresh_leadexec_tokens. In another terminal:
  make demo-refresh PORT={port}  runs it once, and shows what it did
  make demo-refresh PORT={port} ARGS=--all  the same, with those that are not due
Or stop this, and see it go on and on with make demo-watch PORT={port}.
"""
WATCHED = """
Beside it runs manage.py refresh_leadexec_tokens --watch. Access tokens live for three minutes here,
and each is refreshed after half of them. The command tells its counts every minute.
"""


class Command(BaseCommand):
    help = "Migrates, and makes the demo's users and connections. What is there already stays."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--check-port",
            action="store_true",
            help="stop if the port that the demo will be served on is taken",
        )
        parser.add_argument(
            "--watched",
            action="store_true",
            help="tell that refresh_leadexec_tokens --watch runs beside the demo",
        )

    def handle(self, *, check_port: bool, watched: bool, **options: Any) -> None:
        if not settings.DEBUG:
            raise CommandError("The demo's passwords are public: it needs DEBUG=on.")
        if check_port:
            self.check_port()
        try:
            call_command("migrate", interactive=False, verbosity=0)
        except OperationalError as error:
            raise CommandError(f"The database can't be used; see DATABASE_URL. {error}") from None
        users = get_user_model().objects
        if not users.filter(username="admin").exists():
            users.create_superuser("admin", password=PASSWORD)
        if not users.filter(username="demo").exists():
            users.create_user("demo", password=PASSWORD)
        if settings.SANDBOX:
            for account, change in STATES.items():
                self.connect(account, change)
        self.tell(watched)

    def check_port(self) -> None:
        port = settings.DEMO_PORT
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except PermissionError:
                fault, other = f"You may not open port {port}.", 8000
            except OSError:
                fault, other = f"Port {port} is taken.", port + 1 if port < LAST_PORT else port - 1
            else:
                return
        raise CommandError(f"{fault} Choose another: make demo PORT={other}")

    def connect(self, account: str, change: Callable[[LeadExecConnection], None]) -> None:
        """Make a user whose connection is in one of the states that can be met."""
        from django_leadexec.sandbox import provider
        from django_leadexec.sandbox.conf import get_options

        conf = get_settings()
        users = get_user_model().objects
        with writing(LeadExecConnection, DEFAULT_DB_ALIAS):
            if users.filter(username=account).exists():
                return
            (token,) = provider.create_grants(
                conf.app_id, account=account, button_id=conf.button_id
            )
            connection = link(
                users.create_user(account),
                conf.app_id,
                token,
                provider.refresh(token, conf.app_id)["authToken"],
                time.time() + get_options().access_token_lifetime,
                account_id=account,
                using=DEFAULT_DB_ALIAS,
            )
            change(connection)

    def tell(self, watched: bool) -> None:
        site = f"http://{HOST}:{settings.DEMO_PORT}"
        rows = [
            (f"{site}/", "the site: log in as demo, password demo"),
            (f"{site}/welcome/", "the same without a password, with LeadExec"),
            (f"{site}/admin/", "the admin: log in as admin, password demo"),
        ]
        if settings.SANDBOX:
            rows.append((f"{site}/sandbox/", "the sandbox that plays LeadExec"))
        width = max(len(address) for address, _ in rows)
        lines = [f"  {address:{width}}  {text}" for address, text in rows]
        self.stdout.write("\n".join(["", "The demo, until Ctrl-C:", *lines]))
        if settings.SANDBOX:
            self.stdout.write(WATCHED if watched else NOT_WATCHED.format(port=settings.DEMO_PORT))


def leave(connection: LeadExecConnection) -> None:
    """Active, with an access token for the hour."""


def expire(connection: LeadExecConnection) -> None:
    """Active, and due: its access token has run out."""
    past = timezone.now() - timedelta(minutes=5)
    rows = LeadExecConnection.objects.filter(pk=connection.pk)
    rows.update(expires_at=past, refresh_after=past)


def reject(connection: LeadExecConnection) -> None:
    """Refused by LeadExec, as its user has revoked it there."""
    from django_leadexec.sandbox import provider

    provider.disconnect(connection.refresh_token.decrypt().reveal())
    record(connection, lambda row: row.record_refusal("the refresh token was revoked"))


def fail(connection: LeadExecConnection) -> None:
    """Active, but LeadExec did not answer the last time."""
    record(connection, lambda row: row.record_failure("no answer within 10 s"))


def revoke(connection: LeadExecConnection) -> None:
    """Revoked here; LeadExec is still to be told."""
    LeadExecConnection.objects.filter(pk=connection.pk).move_to_outbox()


def record(connection: LeadExecConnection, outcome: Callable[[LeadExecConnection], object]) -> None:
    claims = LeadExecConnection.objects.filter(pk=connection.pk).claim(1, 60)
    for claim in claims:
        outcome(claim.row)
    LeadExecConnection.objects.write_claimed(claims)


STATES = {
    "maple-realty": leave,
    "cedar-lending": expire,
    "granite-homes": reject,
    "lakeside-auto": fail,
    "orchard-energy": revoke,
}
