"""The rows of a file with tokens. What is wrong with one of them spoils that one alone."""

import csv
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

from ..provider.replies import is_token
from ..secret import Secret

FORMATS = ("csv", "jsonl")
COLUMNS = frozenset({"user", "token", "account"})
# Characters that one row can have. A good row has far fewer.
MAX_ROW = 65_536
MAX_ACCOUNT = 255

BAD_HEADER = (
    "The first line must name the columns user, token and, if you know it, account: once each, "
    "with commas between, and no others. Or each line must be a JSON object with these keys."
)
NOT_ONE_LINE = "a quote opens on it and is not closed there, so the lines up to {} are not taken"

# Called with the number of a line and the reason why its row can not be taken.
Complain = Callable[[int, str], None]


class BadInput(ValueError):
    """The input as a whole can not be read. The text holds nothing of the input."""


class RowTooLong(Exception):
    """More text than a row can have."""


@dataclass(frozen=True)
class Row:
    """One connection to import. ``account_id`` is "" where the file does not tell it."""

    line: int
    user: str
    token: Secret
    account_id: str


class Lines:
    """The lines of a file. However long one is, only so much of it is held in memory."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._size = 0
        # The line that was read last, and whether the row that it belongs to has quotes.
        self.number: int = 0
        self.has_quotes: bool = False

    def begin_row(self) -> None:
        self._size, self.has_quotes = 0, False

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        """Raises RowTooLong, after the end of the line, if the row has more than MAX_ROW."""
        text = self._file.readline(MAX_ROW)
        if not text:
            raise StopIteration
        self.number += 1
        self._take(text)
        piece = text
        while len(piece) == MAX_ROW and not piece.endswith("\n"):
            piece = self._file.readline(MAX_ROW)
            self._take(piece)
        if self._size > MAX_ROW:
            raise RowTooLong
        return text

    def _take(self, text: str) -> None:
        self._size += len(text)
        self.has_quotes = self.has_quotes or '"' in text


class TokenFile:
    """Reads the rows of a text file, the first of them on line ``from_line`` or later.

    ``form``: "csv", with a header that names user, token and perhaps account, "jsonl", with these
    keys, or None for what the first line looks like. ``complain`` hears of each row that can not
    be taken. ``stop`` ends the reading.
    """

    def __init__(
        self,
        file: TextIO,
        form: str | None,
        complain: Complain,
        stop: threading.Event,
        *,
        from_line: int = 1,
    ) -> None:
        self._lines = Lines(file)
        self._form = form
        self._complain = complain
        self._stop = stop
        self._from_line = from_line
        # Where reading has ended, if that was not at the end of the file.
        self.stopped_at: int | None = None
        # Whether that is because nobody can tell where the next row begins.
        self.is_unclosed: bool = False

    def rows(self) -> Iterator[Row]:
        """The good rows, as they are read. Raises BadInput and OSError."""
        for line, values in self._values():
            row = _check(line, values) if isinstance(values, dict) else values
            del values  # it holds a token that is readable
            if isinstance(row, Row):
                yield row
            else:
                self._complain(line, row)
            if self._stop.is_set():
                self.stopped_at = self._lines.number + 1
                return

    def _values(self) -> Iterator[tuple[int, dict[str, Any] | str]]:
        """For each row its first line, and its values or what is wrong with it."""
        try:
            first = next((text for text in self._lines if text.strip()), "")
        except RowTooLong:
            raise BadInput(BAD_HEADER) from None
        form = self._form or ("jsonl" if first.lstrip().startswith("{") else "csv")
        if form == "jsonl":
            yield from self._read_json(first)
        else:
            names = _read_header(first)
            del first  # without a header, it is a row
            if not names:
                raise BadInput(BAD_HEADER)
            self._skip()
            yield from self._read_csv(names)

    def _skip(self) -> None:
        while self._lines.number < self._from_line - 1:
            self._lines.begin_row()
            try:
                next(self._lines)
            except RowTooLong:
                continue
            except StopIteration:
                return

    def _read_csv(self, names: list[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
        # After a csv.Error the reader goes on with the next line.
        reader, lines = csv.reader(self._lines, strict=True), self._lines
        while True:
            lines.begin_row()
            line, cells, problem = lines.number + 1, None, ""
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error:
                problem = "its quotes are not as CSV has them"
            except RowTooLong:
                problem = f"it has more than {MAX_ROW:,} characters"
                if lines.number > line or lines.has_quotes:
                    # What follows may be inside of a quote. A user name could make up a row there.
                    self.stopped_at, self.is_unclosed = line, True
                    return
            if lines.number > line:
                yield line, NOT_ONE_LINE.format(lines.number)
            elif problem:
                yield line, problem
            elif cells and len(cells) > len(names):
                yield line, "it has more values than the first line has columns"
            elif cells and any(cell.strip() for cell in cells):
                yield line, dict(zip(names, cells, strict=False))

    def _read_json(self, first: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
        text = first
        while text:
            line = self._lines.number
            if line >= self._from_line and text.strip():
                yield line, _read_object(text)
            self._lines.begin_row()
            try:
                text = next(self._lines, "")
            except RowTooLong:
                text = "-"  # it is no JSON object


def _read_header(text: str) -> list[str]:
    """The names of the columns, or none if these are not the right ones."""
    try:
        names = [name.strip().lower() for name in next(csv.reader([text], strict=True), [])]
    except csv.Error:
        return []
    is_good = {"user", "token"} <= set(names) <= COLUMNS and len(names) == len(set(names))
    return names if is_good else []


def _read_object(text: str) -> dict[str, Any] | str:
    try:
        values = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        return "it is no JSON object, or has a key twice"
    if not values.keys() <= COLUMNS:
        return "it has other keys than user, token and account"
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("A key stands there twice.")
    return values


def _check(line: int, values: dict[str, Any]) -> Row | str:
    """The row, or what is wrong with it. That names no value: columns may have been mixed up."""
    user, token, account = (values.get(key) for key in ("user", "token", "account"))
    if isinstance(user, int) and not isinstance(user, bool):
        user = str(user)
    if not isinstance(user, str) or not user.strip():
        return "it names no user"
    if not _is_text(user):
        return "its user is no UTF-8 text, or has control characters"
    if not isinstance(token, str) or not is_token(token):
        return "its token has not 1 to 2,048 visible ASCII characters"
    account = account or ""
    if not isinstance(account, str) or len(account) > MAX_ACCOUNT or not _is_text(account):
        return f"its account is no text of {MAX_ACCOUNT} characters at most"
    return Row(line, user.strip(), Secret(token), account.strip())


def _is_text(value: str) -> bool:
    """Whether any database can look for it: Unicode, and no control characters.

    Bytes that are no UTF-8 were read as lone surrogates.
    """
    return not any(char < " " or char == "\x7f" or "\ud800" <= char <= "\udfff" for char in value)
