import socket
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management import BaseCommand, CommandError, call_command
from django.utils import timezone

from django_leadexec.models import LeadExecConnection, PendingRevocation

from .prepare_demo import HOST


class Command(BaseCommand):
    help = "Runs refresh_leadexec_tokens beside the demo, and shows what it did."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--all", action="store_true", help="refresh the connections that are not due, too"
        )

    def handle(self, *, all: bool, **options: Any) -> None:
        self.check_server()
        before = describe_all()
        flag = " --all" if all else ""
        self.stdout.write(f"\nmanage.py refresh_leadexec_tokens{flag} says:\n")
        error = None
        try:
            call_command("refresh_leadexec_tokens", all=all, stdout=self.stdout)
        except CommandError as raised:
            error = raised
        after = describe_all()
        self.stdout.write("\nWhat it did:\n")
        width = max(map(len, before | after), default=0)
        for name in before | after:
            was, now = before.get(name, "-"), after.get(name, "-")
            text = f"{now} (as before)" if was == now else f"{was} -> {now}"
            self.stdout.write(f"  {name:{width}}  {text}")
        if error:
            raise error

    def check_server(self) -> None:
        port = settings.DEMO_PORT
        try:
            socket.create_connection((HOST, port), timeout=5).close()
        except OSError:
            raise CommandError(
                f"No demo is running on port {port}. Start it in another terminal: "
                f"make demo PORT={port}"
            ) from None


def describe_all() -> dict[str, str]:
    """Each connection in a few words, by its user; and what LeadExec is still to be told."""
    rows = LeadExecConnection.objects.select_related("user").order_by("pk")
    found = {f"{row.user.get_username()} #{row.pk}": describe(row) for row in rows}
    found["revocations to be told"] = str(PendingRevocation.objects.count())
    return found


def describe(row: LeadExecConnection) -> str:
    words = [row.status]
    if row.status == row.Status.ACTIVE and row.expires_at:
        minutes = (row.expires_at - timezone.now()).total_seconds() / 60
        words.append(f"token good for {minutes:.0f} min" if minutes > 0 else "token expired")
    if row.last_error:
        words.append(row.last_error)
    return ", ".join(words)
