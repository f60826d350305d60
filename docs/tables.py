"""Tables of the reference, made from the code that they describe. Markdown."""

import argparse
import inspect
import re
from dataclasses import MISSING, fields
from pathlib import Path

from django.core.management import load_command_class

from django_leadexec.conf import Settings
from django_leadexec.refresh.options import NUMBERS
from django_leadexec.sandbox.conf import Options as SandboxOptions
from django_leadexec.setting_rules import RULES
from django_leadexec.urls import urlpatterns

COMMANDS = (
    "refresh_leadexec_tokens",
    "leadexec_status",
    "leadexec_revoke",
    "rotate_leadexec_keys",
    "import_leadexec_tokens",
)
# Options of every Django command.
DJANGOS = {"-h", "--version", "-v", "--settings", "--pythonpath", "--traceback", "--no-color"}
DJANGOS |= {"--force-color", "--skip-checks"}
# Pages at the top of the folder that other tables of contents name.
NO_GUIDES = {"index", "tutorial", "button", "checks"}
NO_GUIDES |= {"architecture", "protocol", "faults", "benchmarks", "releasing"}


def all_tables() -> dict[str, str]:
    """Each table by the name that a page uses for it, as in ``{{ settings_table }}``."""
    tables = {f"{name}_options": options_table(name) for name in COMMANDS}
    return tables | {
        "settings_table": settings_table(),
        "sandbox_table": sandbox_table(),
        "urls_table": urls_table(),
    }


def other_guides(docs: Path) -> str:
    """A table of contents of the guides that lie at the top of the folder."""
    names = sorted(page.stem for page in docs.glob("*.md") if page.stem not in NO_GUIDES)
    return "\n".join(["```{toctree}", ":hidden:", "", *(f"../{name}" for name in names), "```"])


def settings_table() -> str:
    meanings = meanings_of(Settings)
    rows = []
    for field in fields(Settings):
        default = "required" if field.default is MISSING else code(shown(field.default))
        key = field.name.upper()
        # Its check says which values it may have.
        values = f"[Values](#leadexec-{RULES[key].code.lower()})"
        rows.append([code(key), default, f"{meanings[field.name]} {values}"])
    return table(["key", "default", "meaning"], rows)


def meanings_of(settings: type) -> dict[str, str]:
    """What stands in quotes below each field of a class."""
    found = re.findall(
        r'^    (\w+): [^\n]*\n    """(.+?)"""', inspect.getsource(settings), re.M | re.S
    )
    return {name: code_spans(text) for name, text in found}


def sandbox_table() -> str:
    meanings = meanings_of(SandboxOptions)
    rows = [
        [code(field.name.upper()), code(shown(field.default)), meanings[field.name]]
        for field in fields(SandboxOptions)
    ]
    return table(["key", "default", "meaning"], rows)


def options_table(command: str) -> str:
    parser = load_command_class("django_leadexec", command).create_parser("manage.py", command)
    rows = []
    for action in parser._actions:
        if not DJANGOS & set(action.option_strings):
            text = parser._get_formatter()._expand_help(action) if action.help else ""
            meaning = "; ".join(filter(None, [" ".join(text.split()), values(action)]))
            rows.append([code(usage(action)), meaning])
    return table(["option", "meaning"], rows)


def values(action: argparse.Action) -> str:
    """Which values an option takes, in words; "" if any, or if it takes none."""
    if action.choices:
        return " or ".join(code(str(choice)) for choice in action.choices)
    if action.type is None or action.dest not in NUMBERS:
        return ""
    kind, least, most = NUMBERS[action.dest]
    what = "a whole number" if kind is int else "a number"
    # The largest value of an option without a limit only keeps the databases from failing.
    return f"{what}, {least:,} or more" if most >= 10**12 else f"{what} from {least:,} to {most:,}"


def usage(action: argparse.Action) -> str:
    flag = action.option_strings[-1] if action.option_strings else ""
    value = action.metavar or action.dest.upper()
    return " ".join(filter(None, [flag, "" if action.nargs == 0 else str(value)]))


def urls_table() -> str:
    rows = []
    for pattern in urlpatterns:
        text = inspect.getdoc(pattern.callback) or ""
        first = code_spans(text.partition("\n\n")[0])
        rows.append([code(f"leadexec:{pattern.name}"), code(str(pattern.pattern)), first])
    return table(["name", "path", "what it does"], rows)


def shown(value: object) -> str:
    return repr(value).replace("'", '"')


def code_spans(docstring: str) -> str:
    """The text of a docstring, in one line, with Markdown's marks for code."""
    return " ".join(docstring.split()).replace("``", "`")


def code(text: str) -> str:
    return f"`{text}`"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)
