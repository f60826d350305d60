"""What the documents name exists, and the code cites only what the repository has."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

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
