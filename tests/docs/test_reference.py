"""The reference names what there is."""

import importlib
import inspect
import json
import re
import sys
from dataclasses import MISSING, fields
from io import StringIO
from pathlib import Path
from types import ModuleType

import pytest
from django.core.management import call_command

from django_leadexec import exceptions, signals
from django_leadexec.conf import Settings
from django_leadexec.importing.importer import Tally as ImportTally
from django_leadexec.mass_revocation import RevocationReport
from django_leadexec.refresh import Report
from django_leadexec.refresh.options import NUMBERS, TASK_SECONDS
from django_leadexec.responses import ERRORS
from django_leadexec.rotation import Tally as RotationTally
from django_leadexec.sandbox.conf import Options
from django_leadexec.status import Status

from ..needs import import_or_skip
from .snippets import DOCS

REFERENCE = {path.stem: path.read_text("utf-8") for path in (DOCS / "reference").glob("*.md")}


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that makes the tables of the site."""
    monkeypatch.syspath_prepend(DOCS)
    monkeypatch.delitem(sys.modules, "tables", raising=False)
    return importlib.import_module("tables")


def first_cells(table: str) -> list[str]:
    return [line.split(" | ")[0].strip("| `") for line in table.splitlines()[2:]]


def test_each_setting_is_in_the_table_with_default_and_meaning(tables: ModuleType) -> None:
    table = tables.settings_table()
    assert first_cells(table) == [field.name.upper() for field in fields(Settings)]
    for field, line in zip(fields(Settings), table.splitlines()[2:], strict=True):
        _key, default, meaning = line.strip("| ").split(" | ")
        shown = "required" if field.default is MISSING else f"`{field.default!r}`"
        assert default.replace('"', "'") == shown
        assert re.fullmatch(r"[A-Z].+\. \[Values\]\(#leadexec-e\d{3}\)", meaning)


def test_each_option_of_the_sandbox_is_in_the_table(tables: ModuleType) -> None:
    table = tables.sandbox_table()
    assert first_cells(table) == [field.name.upper() for field in fields(Options)]


def test_the_tables_of_options_have_what_the_commands_take(tables: ModuleType) -> None:
    table = tables.options_table("refresh_leadexec_tokens")
    assert first_cells(table) == [
        *("--within S", "--all", "--workers N", "--batch-size N", "--limit N", "--rate N"),
        *("--dry-run", "--watch", "--json", "--database ALIAS"),
    ]
    assert "(default: 16)" in table
    for name in tables.COMMANDS:
        assert f"{{{{ {name}_options }}}}" in REFERENCE["commands"]
    commands = Path(DOCS.parent / "django_leadexec/management/commands").glob("[a-z]*.py")
    assert sorted(tables.COMMANDS) == sorted(path.stem for path in commands)


def test_the_tables_of_options_say_which_values_they_take(tables: ModuleType) -> None:
    table = tables.options_table("refresh_leadexec_tokens")
    assert "(default: 16); a whole number from 1 to 256 |" in table
    assert "at most; a number from 0.01 to 100,000 |" in table
    assert "of each kind at most; a whole number, 1 or more |" in table
    assert table.count("1800 at most with --watch") == 1
    assert "; `csv` or `jsonl` |" in tables.options_table("import_leadexec_tokens")


def test_each_address_is_in_the_table(tables: ModuleType) -> None:
    names = ["callback", "disconnect", "confirm", "connect", "state"]
    assert first_cells(tables.urls_table()) == [f"leadexec:{name}" for name in names]
    assert all(line.count("| ") == 3 for line in tables.urls_table().splitlines())


def test_each_table_is_used_by_a_page(tables: ModuleType) -> None:
    used = set(re.findall(r"{{ (\w+) }}", "".join(REFERENCE.values())))
    assert used == set(tables.all_tables())


def test_a_guide_at_the_top_of_the_folder_is_found(tables: ModuleType, tmp_path: Path) -> None:
    for name in ("index", "tutorial", "checks", "testing"):
        (tmp_path / f"{name}.md").touch()
    assert tables.other_guides(tmp_path).splitlines()[3:-1] == ["../testing"]


def section(page: str, title: str) -> str:
    return REFERENCE[page].partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize(
    ("command", "report", "more"),
    [
        ("refresh_leadexec_tokens", Report, set()),
        ("leadexec_status", Status, set()),
        ("leadexec_revoke", RevocationReport, {"unknown_users"}),
        ("rotate_leadexec_keys", RotationTally, set()),
        ("import_leadexec_tokens", ImportTally, set()),
    ],
)
def test_each_key_of_the_json_is_told(command: str, report: type, more: set[str]) -> None:
    table = section("commands", command).partition("| JSON key |")[2]
    told = {
        name
        for line in table.splitlines()[2:]
        if line.startswith("|")
        for name in re.findall(r"`(\w+)`", line.split(" | ")[0])
    }
    assert told == {field.name for field in fields(report)} | more


@pytest.mark.django_db
def test_the_counts_that_only_a_dry_run_has_are_told() -> None:
    out = StringIO()
    call_command("refresh_leadexec_tokens", "--dry-run", "--json", stdout=out)
    more = set(json.loads(out.getvalue())) - {field.name for field in fields(Report)}
    text = section("commands", "refresh_leadexec_tokens").partition("\nWith `--dry-run`")[2]
    assert more == set(re.findall(r"`(due\w*)`", text))


@pytest.mark.parametrize("name", ["workers", "rate", "copies"])
def test_the_limits_of_a_tasks_arguments_are_told(name: str) -> None:
    _kind, least, most = NUMBERS[name]
    [line] = re.findall(rf"^\| `{name}` .*", section("python", "Tasks"), re.MULTILINE)
    assert line.endswith(f"{least:,} to {most:,} |")


def test_each_error_of_the_callback_is_told() -> None:
    told = set(re.findall(r"^\| (\d+) \| `(\w+)` \|", REFERENCE["urls"], re.MULTILINE))
    assert told == {(str(error.status), error.code) for error in ERRORS.values()} | {
        ("403", "csrf"),
        ("404", "not_found"),
        ("405", "method"),
    }


def test_each_signal_and_each_argument_of_a_task_is_told() -> None:
    names = [name for name in vars(signals) if name.startswith("connection_")]
    assert first_cells(section("python", "Signals").partition("| signal")[2]) == names
    import_or_skip("celery")
    from django_leadexec.tasks import refresh_tokens

    told = re.findall(r"^\| `(\w+)` \| `(.+?)` \|", section("python", "Tasks"), re.MULTILINE)
    taken = inspect.signature(refresh_tokens.run).parameters.values()
    assert dict(told) == {
        option.name: repr(option.default) for option in taken if option.kind is option.KEYWORD_ONLY
    }
    assert dict(told)["seconds"] == repr(TASK_SECONDS)


def test_each_exception_has_a_docstring_for_the_page() -> None:
    kinds = [kind for kind in vars(exceptions).values() if isinstance(kind, type)]
    assert len(kinds) >= 7
    assert all(inspect.getdoc(kind) for kind in kinds)
