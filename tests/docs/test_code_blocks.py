"""Each block of code in the documents runs, or can be read by what it is written for."""

import ast
import configparser
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from django.core.management import get_commands, load_command_class
from django.template import engines

from tests.factories import make_connection
from tests.needs import NODE_MODULES

from .snippets import DOCUMENTS, Block, all_blocks, blocks_of, name_of, run

OURS = [name for name, app in get_commands().items() if app == "django_leadexec"]
# Commands of apps that are not installed here.
ELSEWHERE = {"db_worker", "prune_db_task_results"}


def parse_python(code: str) -> None:
    compile(code, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def parse_shell(code: str) -> None:
    subprocess.run(["/bin/bash", "-n"], input=code, text=True, check=True, timeout=60)


def parse_template(code: str) -> None:
    engines["django"].from_string(code)


def parse_ini(code: str) -> None:
    # systemd allows a key twice.
    reader = configparser.RawConfigParser(strict=False, delimiters="=")
    reader.read_string(code)
    assert reader.sections()


def parse_by_esbuild(language: str) -> Callable[[str], object]:
    def parse(code: str) -> None:
        done = subprocess.run(
            [NODE_MODULES / ".bin" / "esbuild", f"--loader={language}", "--log-level=warning"],
            input=code,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        # What is wrong in a style sheet is only a warning.
        assert (done.returncode, done.stderr) == (0, "")

    return parse


READERS: dict[str, Callable[[str], object]] = {
    "python": parse_python,
    "sh": parse_shell,
    "html": parse_template,
    "html+django": parse_template,
    "css": parse_by_esbuild("css"),
    "ini": parse_ini,
    "js": parse_by_esbuild("js"),
    "json": json.loads,
    "jsx": parse_by_esbuild("jsx"),
    "toml": tomllib.loads,
    "yaml": lambda code: list(yaml.safe_load_all(code)),
}
NEED_NODE = {"css", "js", "jsx"}
# test_site.py has Sphinx read these.
DIRECTIVES = {"{toctree}", "{eval-rst}", "{include}"}
# A diagram, an address, what a database has answered; CSV, which Pygments can't color. Commands in
# it are tested below.
NO_CODE = ""


def every_block() -> list[Block]:
    return [block for document in DOCUMENTS for block in blocks_of(document)]


def test_each_block_is_of_a_language_that_is_read() -> None:
    unread = [
        f"{block} {block.language}"
        for block in every_block()
        if block.language.partition(" ")[0] not in READERS.keys() | DIRECTIVES | {NO_CODE}
    ]
    assert unread == []
    assert len(every_block()) > 80


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, marks=pytest.mark.node if block.language in NEED_NODE else ())
        for block in all_blocks(*READERS)
    ],
    ids=str,
)
def test_each_block_can_be_read(block: Block) -> None:
    READERS[block.language](block.code)


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "def f(:"),
        ("sh", "if true; then"),
        ("html+django", "{% leadexec_button %}"),
        ("ini", "[Unit\n"),
        pytest.param("css", "p { colr: red }", marks=pytest.mark.node),
        pytest.param("js", "const a = ;", marks=pytest.mark.node),
        pytest.param("jsx", "const a = <p>;", marks=pytest.mark.node),
        ("yaml", "a: [1"),
    ],
)
def test_a_block_that_is_wrong_is_noticed(language: str, code: str) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011 - each reader has its own
        READERS[language](code)


RUNNABLE = [block for block in all_blocks("python") if block.mark == "run"]


@pytest.mark.django_db
@pytest.mark.parametrize("block", RUNNABLE, ids=str)
def test_a_block_that_is_marked_runs(block: Block) -> None:
    run(block, user=make_connection().user)


def test_there_are_blocks_that_are_run() -> None:
    assert len(RUNNABLE) > 10
    assert {block.mark for block in every_block()} == {"", "run"}


# Commands


def command_lines(text: str) -> Iterator[tuple[str, list[str]]]:
    """The name of each command that a text starts, and what stands behind it."""
    text = re.sub(r'", "', " ", text)  # a list, as in a manifest of Kubernetes
    ours = "|".join(OURS)
    pattern = rf"(?:manage\.py ([a-z]\w+)|\b({ours})(?= --))([^\n`|&;<>\]]*)"
    for found in re.finditer(pattern, text):
        behind = found[3].partition(" #")[0].strip("\"'.,()")
        yield found[1] or found[2], shlex.split(behind.replace("'", "").replace('"', ""))


@pytest.mark.parametrize("block", all_blocks("sh", "ini", "yaml", ""), ids=str)
def test_each_command_of_a_block_takes_its_arguments(block: Block) -> None:
    for name, arguments in command_lines(block.code):
        if name not in ELSEWHERE:
            app = get_commands()[name]
            command = load_command_class(str(app), name)
            # -c "…" has more than one word; it is the shell's.
            if name != "shell":
                parser = command.create_parser("manage.py", name)
                if "--database" in parser._option_string_actions:
                    # Django's own commands know only this project's.
                    parser._option_string_actions["--database"].choices = None
                parser.parse_args(arguments)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_each_command_of_a_sentence_exists_with_its_options(document: Any) -> None:
    text = document.read_text("utf-8")
    for span in re.findall(r"`([^`\n]+)`", text):
        for name, arguments in command_lines(span):
            if name in ELSEWHERE:
                continue
            parser = load_command_class(str(get_commands()[name]), name).create_parser("", name)
            for argument in arguments:
                flag = argument.strip("[]").partition("=")[0]
                assert not flag.startswith("-") or flag in parser._option_string_actions, span
