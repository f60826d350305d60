import json
import math
from argparse import ArgumentParser, ArgumentTypeError
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from ...refresh import UNREADABLE_MESSAGE
from ...routing import database_of
from ...status import read_status
from ..exit_codes import exit_2_if_unreadable, exit_2_on_failure


class Command(BaseCommand):
    help = (
        "Counts the LeadExec connections in each state, and shows how late refreshes and "
        "revocations are. For monitors: exits with 1 if a refresh is later than --max-overdue "
        "allows, with 2 when it can't find out, or, with --max-overdue, when stored tokens can be "
        "decrypted with none of LEADEXEC['ENCRYPTION_KEYS']."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.add_argument(
            "--max-overdue",
            type=_seconds,
            metavar="S",
            help="exit with 1 if a refresh is overdue by more than S seconds, with 2 if some "
            "tokens can be decrypted with no key",
        )
        parser.add_argument("--database", metavar="ALIAS", help="the database to read")

    def handle(self, *args: Any, **flags: Any) -> None:
        with exit_2_on_failure():
            status = read_status(flags["database"] or database_of())
        if flags["json"]:
            self.stdout.write(json.dumps(asdict(status)))
        else:
            for name, value in asdict(status).items():
                self.stdout.write(f"{name.replace('_', ' '):<28}{'-' if value is None else value}")
        limit, unreadable = flags["max_overdue"], status.unreadable + status.revocations_unreadable
        if unreadable and limit is None:
            self.stderr.write(UNREADABLE_MESSAGE.format(count=unreadable))
        else:
            exit_2_if_unreadable(unreadable)
        if limit is not None and status.overdue_seconds > limit:
            raise CommandError(
                f"A refresh is overdue by {status.overdue_seconds:.0f} s, more than {limit:g} s.",
                returncode=1,
            )


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (seconds := float(text)) < math.inf:
            return seconds
    raise ArgumentTypeError(f"{text!r} is not a number of seconds.")
