"""What a machine lacks is a skip with a reason, and in CI a failure."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.needs import (
    BROUGHT_BY,
    NEEDS,
    import_or_skip,
    is_left_out,
    is_left_out_by_the_extra,
    mark_tests,
    required_by_tests,
    skip_for_want,
)

TESTS = Path(__file__).parent
ROOT = TESTS.parent
# Each need as people know it.
NAMES = {
    "browser": "Chromium",
    "firefox": "Firefox",
    "node": "Node.js",
    "gettext": "gettext",
    "cluster": "PostgreSQL's binaries",
    "pgbouncer": "pgbouncer",
    "redis": "Redis",
    "rabbitmq": "RabbitMQ",
}


def test_a_want_is_a_skip_on_a_developers_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no Firefox"):
        skip_for_want("no Firefox")


def test_a_want_is_a_failure_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="CI must have it: no Firefox"):
        skip_for_want("no Firefox")


def test_a_package_that_is_missing_is_a_want(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="could not import 'no_such_package'"):
        import_or_skip("no_such_package")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"CI must have it: .*no_such_package"):
        import_or_skip("no_such_package")


def test_a_package_that_is_not_for_this_python_is_no_want(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr("tests.needs.is_left_out_by_the_extra", lambda module: True)
    with pytest.raises(pytest.skip.Exception, match="no_such_package"):
        import_or_skip("no_such_package")


def test_the_extra_tells_which_python_a_package_is_for() -> None:
    assert is_left_out_by_the_extra("unfold", python_version="3.11")
    assert not is_left_out_by_the_extra("unfold", python_version="3.12")
    assert is_left_out_by_the_extra("pyuwsgi", sys_platform="win32")
    assert not is_left_out_by_the_extra("celery", python_version="3.11")


def test_each_package_that_is_not_for_every_python_is_known_by_its_module() -> None:
    conditional = {name for name, wanted in required_by_tests().items() if wanted.marker}
    assert set(BROUGHT_BY.values()) == conditional


def test_no_test_skips_for_want_of_a_package_in_ci() -> None:
    skips = re.compile(r"""importorskip\((?!"django\.|name,).*|skipif\(.*find_spec.*""")
    found = [
        f"{path.relative_to(TESTS)}: {skip}"
        for path in sorted(TESTS.rglob("*.py"))
        for skip in skips.findall(path.read_text())
    ]
    # The pattern is in this module itself.
    assert [skip for skip in found if not skip.startswith("test_needs.py")] == []


@pytest.mark.parametrize(("engine", "name"), [("browser", "CHROMIUM"), ("firefox", "FIREFOX")])
def test_a_browser_is_found_on_the_path_or_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, engine: str, name: str
) -> None:
    missing = NEEDS[engine].missing.__wrapped__  # type: ignore[attr-defined]
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv(name, raising=False)
    assert missing() is not None
    monkeypatch.setenv(name, "/opt/browser")
    assert missing() is None


def test_a_contributor_is_told_what_a_machine_may_lack() -> None:
    text = " ".join((ROOT / "CONTRIBUTING.md").read_text("utf-8").split())
    [told] = re.findall(r"your machine lacks are skipped with a reason: (.*?)\. `make", text)
    assert set(told.split(", ")) == {NAMES[need] for need in NEEDS}


class Item:
    """A test as pytest has collected it: its file, markers and fixtures."""

    def __init__(self, path: str, *markers: str, fixtures: tuple[str, ...] = ()) -> None:
        self.path, self.fixturenames = TESTS / path, list(fixtures)
        self.markers = {*markers}

    def iter_markers(self) -> list[pytest.Mark]:
        return [pytest.Mark(name, (), {}, _ispytest=True) for name in self.markers]

    def add_marker(self, name: str) -> None:
        self.markers.add(name)


@pytest.mark.parametrize(
    ("item", "is_left_out"),
    [
        (Item("test_conf.py"), True),
        (Item("test_views.py", "django_db"), False),
        (Item("test_views.py", fixtures=("client", "db")), False),
        (Item("test_views.py", fixtures=("transactional_db",)), False),
        (Item("neighbours/test_neighbours.py", "postgres"), False),
        (Item("neighbours/test_neighbours.py", "mysql"), False),
        (Item("test_authorization.py", "server"), False),
        (Item("browser/test_flows.py", "django_db"), True),
    ],
)
def test_ci_leaves_out_on_a_second_database_what_uses_none(item: Any, is_left_out: bool) -> None:
    mark_tests([item], TESTS)
    assert ("one_database" in item.markers) is is_left_out


def test_the_quick_tests_are_the_same_wherever_they_are_named() -> None:
    chosen = {
        name: re.findall(r'"(not slow and .+?)"', (ROOT / name).read_text("utf-8"))
        for name in ("Makefile", "noxfile.py", "scripts/mutate.py")
    }
    assert len({markers for found in chosen.values() for markers in found}) == 1
    assert all(chosen.values())


@pytest.mark.parametrize("expression", ["not slow", "not browser and not slow and not node"])
def test_a_folder_of_slow_tests_is_not_even_collected_where_they_are_left_out(
    expression: str,
) -> None:
    assert is_left_out(TESTS / "security", TESTS, expression)
    assert not is_left_out(TESTS / "provider", TESTS, expression)
    assert not is_left_out(TESTS / "provider" / "security", TESTS, expression)


@pytest.mark.parametrize(
    "expression",
    ["", "slow", "not slower", "not browser", "not slow or redis", "not (browser and not slow)"],
)
def test_a_folder_of_slow_tests_is_collected_wherever_one_might_be_asked_for(
    expression: str,
) -> None:
    assert not is_left_out(TESTS / "security", TESTS, expression)
