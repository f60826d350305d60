import json
import math
from argparse import ArgumentParser, ArgumentTypeError
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from ...connections import database_of
from ...status import read_status
from .. import trouble


class Command(BaseCommand):
    help = (
        "Tells how the LeadExec connections are: how many there are in each state, how far "
        "refreshes and revocations are behind. For monitors: exits with 1 past --max-overdue, "
        "with 2 when it can't tell."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.add_argument(
            "--max-overdue",
            type=_seconds,
            metavar="S",
            help="exit with 1 if a refresh is overdue by more than S seconds",
        )
        parser.add_argument("--database", metavar="ALIAS", help="the database to look at")

    def handle(self, *args: Any, **flags: Any) -> None:
        with trouble.told():
            status = read_status(flags["database"] or database_of())
        if flags["json"]:
            self.stdout.write(json.dumps(asdict(status)))
        else:
            for name, value in asdict(status).items():
                self.stdout.write(f"{name.replace('_', ' '):<28}{'-' if value is None else value}")
        limit = flags["max_overdue"]
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
