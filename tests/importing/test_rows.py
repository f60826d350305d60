"""The rows of a file: how long one may be."""

import io
import json
import threading

import pytest

from django_leadexec.importing import BadInput, TokenFile
from django_leadexec.importing.rows import BAD_HEADER, MAX_ROW


def json_line(length: int) -> str:
    """A good row of ``length`` characters, with the end of its line."""
    text = json.dumps({"user": "ada", "token": "t"})
    return text + " " * (length - len(text) - 1) + "\n"


def read(text: str, form: str | None = None) -> tuple[list[int], list[int]]:
    """The numbers of the lines that are rows, and of those that are not."""
    bad: list[int] = []
    file = TokenFile(
        io.StringIO(text), form, lambda line, reason: bad.append(line), threading.Event()
    )
    return [row.line for row in file.rows()], bad


def test_each_row_may_have_as_many_characters_as_the_one_before() -> None:
    assert read(json_line(MAX_ROW) * 3) == ([1, 2, 3], [])


def test_a_row_with_one_character_more_is_none() -> None:
    assert read(json_line(MAX_ROW) + json_line(MAX_ROW + 1) * 2 + "\n") == ([1], [2, 3])
    with pytest.raises(BadInput, match=BAD_HEADER.split(":", maxsplit=1)[0]):
        read(json_line(MAX_ROW + 1))


@pytest.mark.parametrize(("key", "longest"), [("account", 255), ("token", 2_048)])
def test_a_value_with_one_character_more_than_it_may_have_spoils_its_row(
    key: str, longest: int
) -> None:
    rows = [
        json.dumps({"user": "ada", "token": "t"} | {key: "x" * (longest + more)}) + "\n"
        for more in (-1, 0, 1)
    ]
    assert read("".join(rows)) == ([1, 2], [3])


def test_the_first_line_may_have_as_many_characters_as_a_row() -> None:
    header = "user,token" + " " * (MAX_ROW - len("user,token\n")) + "\n"
    assert read(f"{header}ada,t\n") == ([2], [])
    with pytest.raises(BadInput):
        read(f" {header}ada,t\n")
