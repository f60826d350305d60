"""What the documents name exists, and the code cites only what the repository has."""

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterator
from datetime import date
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from django_leadexec import __version__
from django_leadexec.checks import SITE

from .neighbours.test_neighbours import ANY_DATABASE

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "django_leadexec"
FOLDERS = (
    *("benchmarks", "django_leadexec", "docs", "example_project", "frontend", "scripts", "tests"),
    ".ci",
)
# What is installed, and what is built of other files.
FOREIGN = {"node_modules", "staticfiles", "leadexec.esm.js", "leadexec.min.css", "leadexec.min.js"}
SUFFIXES = {".cfg", ".css", ".html", ".js", ".md", ".mjs", ".py", ".toml", ".ts", ".yaml", ".yml"}
WITHOUT_SUFFIX = {"Makefile", "check_types", "python", "run", "sbom", "venv"}
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def text_files() -> Iterator[Path]:
    """All files of the repository that people write."""
    found = list(ROOT.iterdir())
    for folder in FOLDERS:
        found += (ROOT / folder).rglob("*")
    for path in sorted(path for path in found if not FOREIGN.intersection(path.parts)):
        if path.is_file() and (path.suffix in SUFFIXES or path.name in WITHOUT_SUFFIX):
            yield path


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def prose(document: Path) -> str:
    """A document without its blocks of code."""
    return re.sub(r"^( *)```.*?^\1```", "", document.read_text("utf-8"), flags=re.M | re.S)


@cache
def headings(document: Path) -> list[str]:
    return re.findall(r"^#+ +(.+?) *$", prose(document), re.M)


@cache
def anchors(document: Path) -> set[str]:
    """What a link into a document can name: its headings, as GitHub writes them, and its ids."""
    plain = [re.sub(r"<[^>]*>|[^\w\s-]", "", heading) for heading in headings(document)]
    written = re.findall(r'<a id="([^"]+)">', prose(document))
    return {heading.strip().lower().replace(" ", "-") for heading in plain} | set(written)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_each_relative_link_leads_somewhere(document: Path) -> None:
    text = re.sub(r"`[^`]*`", "", prose(document))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


# A document, the anchor behind it unless the code completes it, and the section that follows.
CITATION = re.compile(r"([\w./-]*\w\.md)(?:#([\w-]+)(?![\w{-]))?(?:,\s+(?:# )?\"([^\"]+)\")?")


def test_each_document_that_is_cited_exists_with_the_section_that_is_named() -> None:
    for path in text_files():
        for name, anchor, section in CITATION.findall(path.read_text("utf-8")):
            places = [folder / name for folder in (ROOT, ROOT / "docs", path.parent)]
            document = next((place for place in places if place.is_file()), None)
            assert document, f"{name_of(path)} cites {name}"
            assert not anchor or anchor in anchors(document), f"{name_of(path)}: {anchor}"
            titles = [re.sub("`", "", title) for title in headings(document)]
            named = " ".join(section.split())
            assert not section or named in titles, f"{name_of(path)}: {section}"


def test_nothing_cites_a_document_that_lies_elsewhere() -> None:
    # Notes that the project began with, by the names they had.
    elsewhere = re.compile(r"\b(?:DESIGN|PROTOCOL)\b")
    citing = [
        f"{name_of(path)}:{number}"
        for path in text_files()
        if path != Path(__file__)
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if elsewhere.search(line)
    ]
    assert not citing, "cite docs/protocol.md or docs/architecture.md instead"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_each_path_that_a_document_names_exists(document: Path) -> None:
    folders = "|".join(map(re.escape, FOLDERS))
    for name in re.findall(rf"`((?:{folders})/[\w./-]*)`", prose(document)):
        places = (ROOT, PACKAGE / "templates", PACKAGE / "static")
        assert any((place / name).exists() for place in places), name


def test_who_makes_a_release_is_told_each_file_with_the_sites_address() -> None:
    address = urlsplit(SITE).netloc
    having = {name_of(path) for path in text_files() if address in path.read_text("utf-8")}
    text = (ROOT / "docs" / "releasing.md").read_text("utf-8")
    section = text.partition("\n## Before the first one\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"`([\w/]+\.\w+)`", section)) == having


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_each_test_that_a_document_names_exists(document: Path) -> None:
    for module, name in re.findall(r"`(test_\w+)::(\w+)`", document.read_text("utf-8")):
        sources = [path.read_text("utf-8") for path in (ROOT / "tests").rglob(f"{module}.py")]
        pattern = re.compile(rf"^ *(def|async def|class) {name}\b", re.M)
        assert any(map(pattern.search, sources)), f"{module}::{name}"


def test_the_documented_faults_name_their_tests() -> None:
    text = (ROOT / "docs" / "faults.md").read_text("utf-8")
    assert len(re.findall(r"`test_\w+::\w+`", text)) > 50


def test_the_readme_of_the_tests_says_what_each_folder_asks_that_crosses_modules() -> None:
    tests = ROOT / "tests"
    told = set(re.findall(r"^\| `(\w+)/`", (tests / "README.md").read_text("utf-8"), re.M))
    folders = {path.parent.name for path in tests.glob("*/__init__.py")}
    # Named like a folder of the package, or there for others: a site, and templates.
    elsewhere = {path.name for path in PACKAGE.iterdir()} | {"policy_site"}
    assert told == folders - elsewhere


def test_the_browsers_that_are_documented_are_those_that_are_asked() -> None:
    asked = set()
    for path in (ROOT / "tests" / "browser").glob("test_*.py"):
        for part in re.split(r"\n\n\n", path.read_text("utf-8")):
            if "@in_each_engine" in part or "pytest.mark.firefox" in part:
                asked |= {f"{path.stem}::{name}" for name in re.findall(r"^def (\w+)", part, re.M)}
    text = (ROOT / "docs" / "button.md").read_text("utf-8")
    section = text.partition("\n## Browsers\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(test_\w+::\w+)`", section)) == asked


def test_each_picture_is_taken_by_the_script_that_makes_them_anew() -> None:
    script = ast.parse((ROOT / "scripts" / "screenshots.py").read_text("utf-8"))
    taken = [
        node.args[0].value
        for node in ast.walk(script)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "take"
        and isinstance(node.args[0], ast.Constant)
    ]
    pictures = (ROOT / "docs" / "pictures").glob("*.png")
    assert sorted(map(str, taken)) == sorted(path.stem for path in pictures)


def test_the_page_of_neighbours_names_each_that_is_tested() -> None:
    text = (ROOT / "docs" / "neighbours.md").read_text("utf-8")
    visited = re.findall(r"^\|.* \| `(\w+)` in `tests/neighbours/` \|$", text, re.M)
    source = (ROOT / "tests" / "neighbours" / "test_neighbours.py").read_text("utf-8")
    alone = re.findall(r'visit\("(\w+)"', source)
    assert sorted(visited) == sorted([*ANY_DATABASE, *alone])
    folders = ("apis", "databases", "doubles", "servers", "tasks", "themes")
    modules = {
        name_of(path) for folder in folders for path in (ROOT / "tests" / folder).glob("test_*.py")
    }
    assert modules <= set(re.findall(r"`(tests/[\w/.]+)` \|$", text, re.M))


def where_a_change_goes() -> list[list[str]]:
    """The rows of the architecture's table: subject, modules, tests."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    table = text.partition("## Where a change goes")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    return rows[2:]


def test_the_architecture_names_only_modules_and_tests_that_exist() -> None:
    for _subject, modules, tests in where_a_change_goes():
        for name in re.findall("`([^`]+)`", modules):
            dotted = PACKAGE / name.replace(".", "/")
            places = (ROOT / name, PACKAGE / name, dotted, dotted.with_name(f"{dotted.name}.py"))
            assert any(place.exists() for place in places), name
        for name in re.findall("`([^`]+)`", tests):
            assert (ROOT / "tests" / name).exists(), name


def test_the_architecture_says_for_each_module_where_a_change_goes() -> None:
    named = {name for row in where_a_change_goes() for name in re.findall("`([^`]+)`", row[1])}
    modules = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for folder in (".", "importing", "provider", "refresh")
        for path in (PACKAGE / folder).iterdir()
        if (path / "__init__.py").exists() or path.suffix == ".py"
    }
    modules -= {"__init__", "importing", "migrations", "provider", "refresh"}
    assert {name for name in modules if not name.endswith("__init__")} - named == set()


def rule(title: str) -> str:
    """One of the architecture's rules, in one line."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    [found] = re.findall(rf"^\d\. \*\*{title}\.?\*\*(.*?)(?=^\d\. |^#)", text, re.M | re.S)
    return " ".join(found.split())


def test_the_architecture_names_who_meets_the_provider() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    [meets] = [one for one in contracts["contracts"] if one["id"] == "who-meets-the-provider"]
    allowed = {name.removeprefix("django_leadexec.") for name in meets["allowed_importers"]}
    named = re.findall(r"`(\w+)/?`", rule("Few modules meet the provider"))
    assert sorted(named) == sorted(allowed)


def lines_of_code(source: str) -> set[int]:
    """The numbers of the lines that are more than a docstring, a comment or blank."""
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in layout | {tokenize.ENDMARKER}:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        can_have_docstring = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Module
        if isinstance(node, can_have_docstring) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            lines -= set(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return lines


def attributes_set(of_class: ast.ClassDef) -> set[str]:
    return {
        node.attr
        for node in ast.walk(of_class)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def test_the_parts_of_the_package_are_as_small_as_the_architecture_says() -> None:
    most_in_module, most_in_class, most_attributes = map(
        int, re.findall(r"at most (\d+)", rule("Small parts"))
    )
    modules = [path for path in PACKAGE.rglob("*.py") if path.parent.name != "migrations"]
    assert len(modules) > 100
    for path in modules:
        source = path.read_text("utf-8")
        assert len(source.splitlines()) <= most_in_module, name_of(path)
        code = lines_of_code(source)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                own = code.intersection(range(node.lineno, (node.end_lineno or 0) + 1))
                assert len(own) <= most_in_class, f"{name_of(path)}: {node.name}"
                assert len(attributes_set(node)) <= most_attributes, f"{name_of(path)}: {node.name}"


def test_the_changelog_dates_the_version_at_hand_and_each_before_it() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    versions = re.findall(r"^## \[(.+)\](?: - (\d{4}-\d\d-\d\d))?$", text, re.MULTILINE)
    (unreleased, no_date), *released = versions
    assert (unreleased, no_date) == ("Unreleased", "")
    assert released[0][0] == __version__
    assert all(date.fromisoformat(day) for _version, day in released)
    assert len(versions) == text.count("\n## ")
