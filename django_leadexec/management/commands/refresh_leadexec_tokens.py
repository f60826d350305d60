import json
import threading
import time
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from ...conf import get_settings
from ...models import PendingRevocation
from ...refresh import EVERYBODY_REFUSED, Options, Refresher, Report
from ...refresh.due import count_due
from ...routing import database_of
from ..arguments import number
from ..exit_codes import exit_2_if_unreadable, exit_2_on_failure
from ..progress import progress_bar
from ..stopping import Stop, stop_on_signals

# Seconds. With more, --watch would refresh the same tokens again and again.
MAX_WITHIN_OF_WATCH = 1_800
# Seconds between two lines of counts that --watch prints.
HEARTBEAT = 60.0


class Command(BaseCommand):
    help = (
        "Refreshes LeadExec access tokens that are about to expire, and sends LeadExec the "
        "revocations that it has not confirmed yet. Exits with 0 when all is done, 1 when some are "
        "left to retry, 2 when it could not run or no retry can help."
    )
    # A faulty configuration exits with 2; Django's checks would exit with 1.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--within",
            type=number("within"),
            metavar="S",
            help="refresh what expires within S seconds (default: REFRESH_MARGIN); "
            f"{MAX_WITHIN_OF_WATCH} at most with --watch, and not with --all",
        )
        parser.add_argument(
            "--all",
            action="store_true",
            help="refresh every active and rejected connection, due or not",
        )
        parser.add_argument(
            "--workers",
            type=number("workers"),
            default=Options.workers,
            metavar="N",
            help="calls under way at once (default: %(default)s)",
        )
        parser.add_argument(
            "--batch-size",
            type=number("batch_size"),
            default=Options.batch_size,
            metavar="N",
            help="rows claimed and written at a time (default: %(default)s)",
        )
        parser.add_argument(
            "--limit",
            type=number("limit"),
            metavar="N",
            help="process N rows of each kind at most",
        )
        parser.add_argument(
            "--rate", type=number("rate"), metavar="N", help="make N calls a second at most"
        )
        parser.add_argument("--dry-run", action="store_true", help="only count what is due")
        parser.add_argument(
            "--watch",
            action="store_true",
            help="go on until stopped, refreshing what falls due; print the counts every minute; "
            "not with --all, --limit or --dry-run",
        )
        parser.add_argument(
            "--json", action="store_true", help="print the counts as one JSON object, last"
        )
        parser.add_argument("--database", metavar="ALIAS", help="the database to work on")

    def handle(self, *args: Any, **flags: Any) -> None:
        _refuse_contradictions(flags)
        with exit_2_on_failure():
            self._run(flags)

    def _run(self, flags: dict[str, Any]) -> None:
        options = Options.for_all(
            flags["database"] or database_of(),
            everything=flags["all"],
            watching=flags["watch"],
            **{name: flags[name] for name in ("within", "workers", "batch_size", "limit", "rate")},
        )
        connections[options.using].ensure_connection()
        if flags["dry_run"]:
            self._print_due(options, flags["json"])
            return
        stop = Stop()
        with stop_on_signals(stop, get_settings().timeout):
            run = self._watch if flags["watch"] else self._once
            total = run(options, stop, flags)
        self._print(total, flags)
        if not flags["watch"]:
            _exit_unless_done(total)

    def _once(self, options: Options, stop: threading.Event, flags: dict[str, Any]) -> Report:
        with progress_bar(self, flags["verbosity"], lambda: sum(_count_due(options))) as bar:
            return Refresher(options, stop=stop, progress=bar.update).run()

    def _watch(self, options: Options, stop: threading.Event, flags: dict[str, Any]) -> Report:
        total = Report()

        def beat(report: Report) -> None:
            total.add(report)
            if not stop.is_set():
                self._print(report, flags)

        Refresher(options, stop=stop).watch(beat, every=HEARTBEAT)
        return total

    def _print(self, report: Report, flags: dict[str, Any]) -> None:
        if flags["json"]:
            self.stdout.write(json.dumps(asdict(report)))
        elif flags["verbosity"] > 0:
            self.stdout.write(_describe(report))
        # Without this, a pipe would hold back the lines of an hour.
        self.stdout.flush()

    def _print_due(self, options: Options, as_json: bool) -> None:
        refreshes, revocations = _count_due(options)
        if as_json:
            pending = PendingRevocation.objects.using(options.using).count()
            counts = {**asdict(Report(pending=pending)), "due": refreshes}
            self.stdout.write(json.dumps({**counts, "due_revocations": revocations}))
        else:
            self.stdout.write(f"Due: {refreshes} to refresh, {revocations} to revoke.")


def _refuse_contradictions(flags: dict[str, Any]) -> None:
    problem = ""
    if flags["watch"] and (flags["dry_run"] or flags["all"] or flags["limit"]):
        problem = (
            "--watch goes on for ever, so it can't be combined with --dry-run, --all or --limit."
        )
    elif flags["watch"] and (flags["within"] or 0) > MAX_WITHIN_OF_WATCH:
        problem = (
            "--watch would refresh the same tokens again and again with a --within of more than "
            f"{MAX_WITHIN_OF_WATCH} seconds, half of a token's life."
        )
    elif flags["all"] and flags["within"] is not None:
        problem = "--all and --within exclude each other: use one of them."
    if problem:
        raise CommandError(problem, returncode=2)


def _exit_unless_done(report: Report) -> None:
    if report.everybody_refused:
        raise CommandError(EVERYBODY_REFUSED, returncode=2)
    exit_2_if_unreadable(report.unreadable)
    if report.failed or report.left:
        raise CommandError(
            f"{report.failed} failed and {report.left} were left; they are tried again.",
            returncode=1,
        )


def _count_due(options: Options) -> tuple[int, int]:
    return count_due(options, get_settings(), time.time())


def _describe(report: Report) -> str:
    text = (
        f"{report.refreshed} refreshed, {report.rejected} rejected, {report.failed} failed, "
        f"{report.skipped} skipped, {report.revoked} revoked, {report.pending} revocations "
        f"pending, in {report.seconds:.1f} s."
    )
    notes = {
        f"{report.left} left for the next run.": report.left,
        f"{report.held} held by others.": report.held,
        f"{report.unreadable} can be decrypted with no key.": report.unreadable,
        "LeadExec is out of reach.": report.outage,
        "LeadExec refuses everybody.": report.everybody_refused,
        "The database is out of reach.": report.database_failed,
    }
    return " ".join([text, *(note for note, holds in notes.items() if holds)])
