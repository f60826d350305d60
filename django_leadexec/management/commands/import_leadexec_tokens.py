import json
import sys
import threading
from argparse import ArgumentParser, ArgumentTypeError
from dataclasses import asdict
from typing import Any, TextIO

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError
from tqdm import tqdm

from ...conf import get_settings
from ...importing import FORMATS, BadInput, End, Importer, ImportOptions, Tally, TokenFile
from ...routing import database_of
from ...user_names import UnknownField
from ..arguments import number
from ..exit_codes import exit_2_on_failure
from ..progress import progress_bar
from ..stopping import Stop, stop_on_signals

# Why an import has ended early, and with which exit code.
ENDS: dict[End | None, tuple[str, int]] = {
    None: ("It could not be finished.", 2),
    End.STOPPED: ("It was stopped.", 1),
    End.THROTTLED: ("LeadExec asks to wait for more than a minute.", 1),
    End.OUTAGE: ("LeadExec is out of reach.", 1),
    End.EVERYBODY_REFUSED: (
        "LeadExec refused all tokens. Is LEADEXEC['APP_ID'] right? If so, go on with a later line.",
        2,
    ),
    End.UNCLOSED: (
        "A quote that opens there is not closed, so no line after it is read. Correct it first.",
        2,
    ),
}


class Command(BaseCommand):
    help = (
        "Imports LeadExec refresh tokens that the site already holds, from CSV with the columns "
        "user,token,account or from JSON lines with these keys. LeadExec is asked about each "
        "first. Tokens on file are passed over, so it can be stopped and run again. Exits with 1 "
        "if some rows could not be taken or are left, with 2 when it could not run."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "file", nargs="?", default="-", help="the file to read (default: stdin)"
        )
        parser.add_argument(
            "--format",
            choices=FORMATS,
            help="how the file is written (default: jsonl if it begins with a {, else csv)",
        )
        parser.add_argument(
            "--from-line",
            type=_line,
            default=1,
            metavar="N",
            help="pass over the lines before line N, but for the header",
        )
        parser.add_argument(
            "--user-field", metavar="NAME", help="what names a user (default: USERNAME_FIELD)"
        )
        parser.add_argument(
            "--no-verify",
            action="store_true",
            help="store the tokens without asking LeadExec; the next refresh asks about them",
        )
        parser.add_argument(
            "--workers",
            type=number("workers"),
            default=ImportOptions.workers,
            metavar="N",
            help="calls under way at once (default: %(default)s)",
        )
        parser.add_argument(
            "--rate", type=number("rate"), metavar="N", help="make N calls a second at most"
        )
        parser.add_argument("--dry-run", action="store_true", help="only look for bad rows")
        parser.add_argument("--json", action="store_true", help="print the counts as JSON, last")
        parser.add_argument("--database", metavar="ALIAS", help="the database to work on")

    def handle(self, *args: Any, **flags: Any) -> None:
        options = ImportOptions(
            using=flags["database"] or database_of(),
            user_field=flags["user_field"] or get_user_model().USERNAME_FIELD,
            verify=not flags["no_verify"],
            workers=flags["workers"],
            rate=flags["rate"],
            dry_run=flags["dry_run"],
        )
        stop = Stop()
        with exit_2_on_failure(), progress_bar(self, flags["verbosity"]) as bar:
            try:
                importer = Importer(options, self._complain, stop, bar.update)
            except UnknownField as error:
                raise CommandError(str(error), returncode=2) from None
            try:
                # The main thread waits for the calls that are under way.
                with stop_on_signals(stop, 2 * get_settings().timeout):
                    self._import(importer, flags, stop)
            finally:
                # After an error too: what is imported by then stays so.
                self._print(importer.tally, flags)
        _exit_unless_done(importer.tally)

    def _import(self, importer: Importer, flags: dict[str, Any], stop: threading.Event) -> None:
        problem = ""
        try:
            with _open(flags["file"]) as file:
                importer.run(
                    TokenFile(
                        file,
                        flags["format"],
                        importer.complain,
                        stop,
                        from_line=flags["from_line"],
                    )
                )
        except BadInput as error:
            problem = str(error)
        except OSError as error:
            problem = f"The file can't be read: {error.strerror}."
        if problem:
            # Raised here, so that it is chained to no error whose frames hold lines of the file.
            raise CommandError(problem, returncode=2)

    def _complain(self, line: int, reason: str) -> None:
        with tqdm.external_write_mode(file=sys.stderr):
            self.stderr.write(f"Line {line}: {reason}.")

    def _print(self, tally: Tally, flags: dict[str, Any]) -> None:
        if flags["json"]:
            self.stdout.write(json.dumps(asdict(tally)))
        else:
            what = "would be imported" if flags["dry_run"] else "imported"
            self.stdout.write(
                f"{tally.imported} {what}, {tally.known} on file already, {tally.skipped} skipped."
            )
        if tally.next_line is not None:
            self.stderr.write(f"To go on: --from-line {tally.next_line}")


def _exit_unless_done(tally: Tally) -> None:
    if tally.next_line is not None:
        reason, code = ENDS[tally.end]
        raise CommandError(reason, returncode=code)
    if tally.skipped:
        raise CommandError("Some rows were not taken. Run it again once they are right.")


def _line(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 10**12):
        raise ArgumentTypeError(f"from-line must be the number of a line, not {text!r}.")
    return int(text)


def _open(path: str) -> TextIO:
    # Bytes that are no UTF-8 make the row a bad one, and end nothing. All line ends become "\n".
    is_stdin = path == "-"
    file: TextIO = open(  # noqa: SIM115 - the caller closes it
        sys.stdin.fileno() if is_stdin else path,
        encoding="utf-8-sig",
        errors="surrogateescape",
        closefd=not is_stdin,
    )
    return file
