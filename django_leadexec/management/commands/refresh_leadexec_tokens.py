import json
import signal
import threading
import time
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseTrouble
from django.db import connections
from django.utils.connection import ConnectionDoesNotExist
from tqdm import tqdm

from ...client import POOL_SIZE
from ...conf import get_settings
from ...connections import database_of
from ...models import PendingRevocation
from ...refresh import (
    EVERYBODY_REFUSED,
    Options,
    Refresher,
    Report,
    due_connections,
    due_revocations,
)

MAX_BATCH = 5_000
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
            type=_seconds,
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
            type=_workers,
            default=16,
            metavar="N",
            help="calls under way at once (default: 16)",
        )
        parser.add_argument(
            "--batch-size",
            type=_batch_size,
            default=200,
            metavar="N",
            help="rows claimed and written at a time (default: 200)",
        )
        parser.add_argument(
            "--limit", type=_count, metavar="N", help="deal with N rows of each kind at most"
        )
        parser.add_argument("--rate", type=_rate, metavar="N", help="make N calls a second at most")
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
        if flags["all"] and flags["within"] is not None:
            raise CommandError("--all leaves no room for --within: use one.", returncode=2)
        try:
            self._run(flags)
        except ImproperlyConfigured as error:
            raise CommandError(str(error), returncode=2) from error
        except ConnectionDoesNotExist as error:
            raise CommandError(f"There is no such database: {error}", returncode=2) from error
        except DatabaseTrouble as error:
            raise CommandError(f"The database failed: {error}", returncode=2) from error

    def _run(self, flags: dict[str, Any]) -> None:
        options = Options.for_all(
            flags["database"] or database_of(),
            within=flags["within"],
            everything=flags["all"],
            workers=flags["workers"],
            batch_size=flags["batch_size"],
            limit=flags["limit"],
            rate=flags["rate"],
            # A pass ends in time for the heartbeat.
            seconds=HEARTBEAT if flags["watch"] else None,
            patient=flags["watch"],
        )
        connections[options.using].ensure_connection()
        if flags["dry_run"]:
            self._tell_due(options, flags["json"])
            return
        stop = threading.Event()
        with _stopping(stop):
            if flags["watch"]:
                total = self._watch(options, stop, flags["json"])
            else:
                total = self._once(options, stop, flags)
        self._tell(total, flags["json"])
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
        with tqdm(total=due, unit="row", disable=not terminal, file=self.stderr) as bar:
            return Refresher(options, stop=stop, progress=bar.update).run()

    def _watch(self, options: Options, stop: threading.Event, as_json: bool) -> Report:
        total = Report()
        since_heartbeat = Report()
        told_at = time.monotonic()

        def add(report: Report) -> None:
            nonlocal since_heartbeat, told_at
            total.add(report)
            since_heartbeat.add(report)
            if time.monotonic() - told_at >= HEARTBEAT:
                self._tell(since_heartbeat, as_json)
                since_heartbeat, told_at = Report(), time.monotonic()

        Refresher(options, stop=stop).watch(add)
        return total

    def _tell(self, report: Report, as_json: bool) -> None:
        if as_json:
            self.stdout.write(json.dumps(asdict(report)))
        else:
            self.stdout.write(_describe(report))

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
    return f"{text} {report.left} left for the next run." if report.left else text


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
        stop.set()
        restore()

    for number in before:
        signal.signal(number, ask_to_stop)
    try:
        yield
    finally:
        restore()


def _number(text: str, least: float, most: float, kind: type[int] | type[float]) -> Any:
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not least <= number <= most:
        what = "a whole number" if kind is int else "a number"
        raise ArgumentTypeError(f"{text!r} is not {what} from {least} to {most}.")
    return number


def _seconds(text: str) -> float:
    seconds: float = _number(text, 0, 86_400, float)
    return seconds


def _rate(text: str) -> float:
    rate: float = _number(text, 0.01, 100_000, float)
    return rate


def _count(text: str) -> int:
    count: int = _number(text, 1, 10**12, int)
    return count


def _workers(text: str) -> int:
    workers: int = _number(text, 1, POOL_SIZE, int)
    return workers


def _batch_size(text: str) -> int:
    size: int = _number(text, 1, MAX_BATCH, int)
    return size
