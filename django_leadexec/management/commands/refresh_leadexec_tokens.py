import _thread
import json
import signal
import threading
import time
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connections
from tqdm import tqdm

from ...conf import get_settings
from ...connections import database_of
from ...models import PendingRevocation
from ...refresh import (
    EVERYBODY_REFUSED,
    NUMBERS,
    Options,
    Refresher,
    Report,
    check_number,
    due_connections,
    due_revocations,
)
from .. import trouble

# Seconds. With more, --watch would ask again about what it has just refreshed, without end.
MAX_WITHIN_OF_WATCH = 1_800
HEARTBEAT = 60.0


class Command(BaseCommand):
    help = (
        "Refreshes LeadExec access tokens that are about to expire, and tells LeadExec of "
        "revocations it has not confirmed yet. Exits with 0 when all is done, 1 when some are "
        "left to retry, 2 when it could not run."
    )
    # A faulty configuration exits with 2; Django's checks would exit with 1.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--within",
            type=_number("within"),
            metavar="S",
            help="refresh what expires within S seconds (default: REFRESH_MARGIN)",
        )
        parser.add_argument(
            "--all",
            action="store_true",
            help="refresh every active and rejected connection, due or not",
        )
        parser.add_argument(
            "--workers",
            type=_number("workers"),
            default=16,
            metavar="N",
            help="calls under way at once (default: 16)",
        )
        parser.add_argument(
            "--batch-size",
            type=_number("batch_size"),
            default=200,
            metavar="N",
            help="rows claimed and written at a time (default: 200)",
        )
        parser.add_argument(
            "--limit",
            type=_number("limit"),
            metavar="N",
            help="deal with N rows of each kind at most",
        )
        parser.add_argument(
            "--rate", type=_number("rate"), metavar="N", help="make N calls a second at most"
        )
        parser.add_argument("--dry-run", action="store_true", help="only tell what is due")
        parser.add_argument(
            "--watch",
            action="store_true",
            help="go on until stopped, refreshing what falls due; tells the counts every minute",
        )
        parser.add_argument(
            "--json", action="store_true", help="print the counts as one JSON object, last"
        )
        parser.add_argument("--database", metavar="ALIAS", help="the database to work on")

    def handle(self, *args: Any, **flags: Any) -> None:
        if flags["watch"] and (flags["dry_run"] or flags["all"] or flags["limit"]):
            raise CommandError(
                "--watch goes on for ever: it can't be combined with --dry-run, --all or --limit.",
                returncode=2,
            )
        if flags["watch"] and (flags["within"] or 0) > MAX_WITHIN_OF_WATCH:
            raise CommandError(
                "--watch would refresh the same tokens again and again with a --within of more "
                f"than {MAX_WITHIN_OF_WATCH} seconds, half of a token's life.",
                returncode=2,
            )
        if flags["all"] and flags["within"] is not None:
            raise CommandError("--all leaves no room for --within: use one.", returncode=2)
        with trouble.told():
            self._run(flags)

    def _run(self, flags: dict[str, Any]) -> None:
        options = Options.for_all(
            flags["database"] or database_of(),
            within=flags["within"],
            everything=flags["all"],
            workers=flags["workers"],
            batch_size=flags["batch_size"],
            limit=flags["limit"],
            rate=flags["rate"],
            patient=flags["watch"],
        )
        connections[options.using].ensure_connection()
        if flags["dry_run"]:
            self._tell_due(options, flags["json"])
            return
        stop = threading.Event()
        with _stopping(stop):
            if flags["watch"]:
                total = self._watch(options, stop, flags)
            else:
                total = self._once(options, stop, flags)
        self._tell(total, flags)
        if flags["watch"]:
            return
        if total.everybody_refused:
            raise CommandError(EVERYBODY_REFUSED, returncode=2)
        if total.failed or total.left:
            raise CommandError(
                f"{total.failed} failed and {total.left} were left; they are tried again.",
                returncode=1,
            )

    def _once(self, options: Options, stop: threading.Event, flags: dict[str, Any]) -> Report:
        terminal = self.stderr.isatty() and flags["verbosity"] > 0
        due = _count_due(options) if terminal else None
        # Not through Django's wrapper, which ends each of the bar's updates with a new line.
        stderr: Any = self.stderr._out
        with tqdm(total=due, unit="row", disable=not terminal, file=stderr) as bar:
            return Refresher(options, stop=stop, progress=bar.update).run()

    def _watch(self, options: Options, stop: threading.Event, flags: dict[str, Any]) -> Report:
        total = Report()

        def beat(report: Report) -> None:
            total.add(report)
            if not stop.is_set():
                self._tell(report, flags)

        Refresher(options, stop=stop).watch(beat, every=HEARTBEAT)
        return total

    def _tell(self, report: Report, flags: dict[str, Any]) -> None:
        if flags["json"]:
            self.stdout.write(json.dumps(asdict(report)))
        elif flags["verbosity"] > 0:
            self.stdout.write(_describe(report))
        # Else a pipe would hold back an hour of heartbeats.
        self.stdout.flush()

    def _tell_due(self, options: Options, as_json: bool) -> None:
        conf, at = get_settings(), time.time()
        refreshes = due_connections(options, conf, at).free().count()
        revocations = due_revocations(options, at).free().count()
        if as_json:
            pending = PendingRevocation.objects.using(options.using).count()
            counts = {**asdict(Report(pending=pending)), "due": refreshes}
            self.stdout.write(json.dumps({**counts, "due_revocations": revocations}))
        else:
            self.stdout.write(f"Due: {refreshes} to refresh, {revocations} to revoke.")


def _count_due(options: Options) -> int:
    conf, at = get_settings(), time.time()
    return (
        due_connections(options, conf, at).free().count()
        + due_revocations(options, at).free().count()
    )


def _describe(report: Report) -> str:
    text = (
        f"{report.refreshed} refreshed, {report.rejected} rejected, {report.failed} failed, "
        f"{report.skipped} skipped, {report.revoked} revoked, {report.pending} revocations "
        f"pending, in {report.seconds:.1f} s."
    )
    notes = {
        f"{report.left} left for the next run.": report.left,
        "LeadExec is out of reach.": report.outage,
        "LeadExec refuses everybody.": report.everybody_refused,
        "The database is out of reach.": report.database_failed,
    }
    return " ".join([text, *(note for note, holds in notes.items() if holds)])


@contextmanager
def _stopping(stop: threading.Event) -> Iterator[None]:
    """Let SIGINT and SIGTERM set ``stop``; a second one ends the process as it always did."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask_to_stop(number: int, frame: object) -> None:
        # Not in this thread, which may hold the event's lock at this very moment, nor by
        # threading.Thread, whose own lock it may hold while it starts a worker.
        _thread.start_new_thread(stop.set, ())
        restore()

    for number in before:
        signal.signal(number, ask_to_stop)
    try:
        yield
    finally:
        restore()


def _number(name: str) -> Callable[[str], float]:
    """What reads the flag of an option that is a number."""

    def read(text: str) -> float:
        value: object = text
        with suppress(ValueError):
            value = NUMBERS[name][0](text)
        try:
            check_number(name, value)
        except ValueError as error:
            raise ArgumentTypeError(str(error)) from None
        return value  # type: ignore[return-value]

    return read
