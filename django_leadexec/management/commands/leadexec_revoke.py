import json
import sys
from argparse import ArgumentParser
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from ...conf import get_settings
from ...mass_revocation import MassRevocation, RevocationReport
from ...querysets import chunks
from ...routing import database_of
from ...user_names import UserNames
from ..arguments import number
from ..exit_codes import exit_2_if_unreadable, exit_2_on_failure
from ..progress import progress_bar
from ..stopping import Stop, stop_on_signals


class Command(BaseCommand):
    help = (
        "Revokes the LeadExec connections of some users, or of all. All use of them stops before "
        "LeadExec is asked to revoke. It can be stopped and run again at any time. Exits with 0 "
        "when LeadExec has confirmed all, 1 when some are still queued (the refresh command sends "
        "them) or a user is unknown, 2 when it could not run or no retry can help."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--user",
            action="append",
            default=[],
            metavar="NAME",
            help="a user, by what they log in with; may be given again",
        )
        parser.add_argument(
            "--users-from", metavar="FILE", help="a file that names a user on each line"
        )
        parser.add_argument("--all", action="store_true", help="the connections of all users")
        parser.add_argument("--no-input", action="store_true", help="don't ask for confirmation")
        parser.add_argument(
            "--seconds",
            type=number("seconds"),
            default=60.0,
            metavar="S",
            help="send revocations to LeadExec for S seconds at most (default: %(default)g)",
        )
        parser.add_argument(
            "--json", action="store_true", help="print the counts as one JSON object, last"
        )
        parser.add_argument("--database", metavar="ALIAS", help="the database to work on")

    def handle(self, *args: Any, **flags: Any) -> None:
        chooses_users = bool(flags["user"] or flags["users_from"])
        if flags["all"] == chooses_users:
            raise CommandError(
                "Say whose connections: --user, --users-from, or --all alone.", returncode=2
            )
        using = flags["database"] or database_of()
        stop = Stop()
        with exit_2_on_failure():
            connections[using].ensure_connection()
            keys, unknown = None, 0
            if not flags["all"]:
                keys, unknown = self._find_users(_names(flags), using)
            with progress_bar(self, flags["verbosity"]) as bar:
                revocation = MassRevocation(using, keys, stop=stop, progress=bar.update)
                if not flags["no_input"]:
                    self._confirm(revocation.count())
                with stop_on_signals(stop, get_settings().timeout):
                    report = revocation.run(flags["seconds"])
        self._print(report, unknown, as_json=flags["json"])
        exit_2_if_unreadable(report.unreadable)
        if unknown or not report.is_done():
            raise CommandError(
                f"{unknown} users are unknown, {report.left} connections are not revoked yet, and "
                f"{report.queued} revocations are queued for the refresh command.",
                returncode=1,
            )

    def _find_users(self, names: list[str], using: str) -> tuple[list[object], int]:
        """The keys of these users, and how many names have none. Each of those is printed."""
        users, keys, unknown = UserNames(using), [], 0
        for part in chunks(names):
            for name, found in users.find(part).items():
                keys += [user.pk for user in found]
                if not found:
                    unknown += 1
                    self.stderr.write(f"There is no user {name!r}.")
        return keys, unknown

    def _confirm(self, count: int) -> None:
        if not sys.stdin.isatty():
            raise CommandError(
                "Nobody can be asked for confirmation here: use --no-input.", returncode=2
            )
        self.stderr.write(
            f"Connections to end: {count}. Their users have to connect again. Type yes to go on:"
        )
        with suppress(EOFError):
            if input().strip().lower() == "yes":
                return
        raise CommandError("Nothing was revoked.", returncode=2)

    def _print(self, report: RevocationReport, unknown: int, *, as_json: bool) -> None:
        if as_json:
            self.stdout.write(json.dumps({**asdict(report), "unknown_users": unknown}))
        else:
            self.stdout.write(
                f"{report.revoked} revoked, {report.confirmed} of the revocations confirmed by "
                f"LeadExec, {report.queued} queued, in {report.seconds:.1f} s."
            )


def _names(flags: dict[str, Any]) -> list[str]:
    """The users that the flags name, each once."""
    lines: Iterable[str] = []
    if flags["users_from"]:
        try:
            lines = Path(flags["users_from"]).read_text("utf-8-sig").splitlines()
        except OSError as error:
            raise CommandError(
                f"--users-from can't be read: {error.strerror}", returncode=2
            ) from None
        except UnicodeDecodeError:
            raise CommandError("--users-from must be UTF-8.", returncode=2) from None
    return [*dict.fromkeys(filter(None, map(str.strip, [*flags["user"], *lines])))]
