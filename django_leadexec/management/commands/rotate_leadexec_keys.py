import json
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from ...conf import get_settings
from ...rotation import Tally, rotate_keys
from ...routing import database_of
from ..exit_codes import exit_2_if_unreadable, exit_2_on_failure


class Command(BaseCommand):
    help = (
        "Encrypts all stored tokens with the first of LEADEXEC['ENCRYPTION_KEYS']. Put the new key "
        "last and deploy, put it first and deploy, run this, then remove the old key. It can be "
        "stopped and run again at any time. Exits with 1 if some rows were in use, with 2 when it "
        "could not run or no key opens some rows."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--json", action="store_true", help="print the counts as one JSON object, last"
        )
        parser.add_argument("--database", metavar="ALIAS", help="the database to work on")

    def handle(self, *args: Any, **flags: Any) -> None:
        tally = Tally()
        with exit_2_on_failure():
            get_settings()
            for tally in rotate_keys(flags["database"] or database_of()):
                if flags["verbosity"] > 1:
                    self.stderr.write(f"{tally.rotated + tally.current} rows done …")
        if flags["json"]:
            self.stdout.write(json.dumps(asdict(tally)))
        else:
            self.stdout.write(
                f"{tally.rotated} rotated, {tally.current} were under the first key already, "
                f"{tally.unreadable} unreadable, {tally.busy} in use."
            )
        exit_2_if_unreadable(tally.unreadable)
        if tally.busy:
            raise CommandError(
                "Keep the old keys: rows in use need another run of this command.", returncode=1
            )
