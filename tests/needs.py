"""What some tests need of the machine. A test names a need by a marker of the same name.

Where a need is missing, its tests are skipped, and the run says first how to have them. In CI they
fail, as a skip that nobody reads would hide a fault.
"""

import importlib.util
import os
import shutil
import socket
from collections.abc import Callable
from configparser import ConfigParser
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import pytest
from django.db import connection
from packaging.requirements import Requirement

from .crash.cluster import find_binaries

VENDORS = {"postgres": "postgresql", "mysql": "mysql", "sqlite": "sqlite"}
POSTGRES = "postgres://postgres@127.0.0.1:5432/leadexec"
MARIADB = "mysql://root@127.0.0.1:3306/leadexec"
ROOT = Path(__file__).parents[1]
NODE_MODULES = ROOT / "frontend" / "node_modules"
# The packages that the extra ``test`` does not install everywhere, by the module they bring.
BROUGHT_BY = {
    "django_tasks_db": "django-tasks-db",
    "pyuwsgi": "pyuwsgi",
    "unfold": "django-unfold",
    "wagtail": "wagtail",
}


# ``make test-fast`` leaves these out: they start browsers, processes or servers, or try each step.
SLOW = {
    "browser",
    "crash",
    "databases",
    "docs",
    "doubles",
    "load",
    "neighbours",
    "security",
    "servers",
    "tasks",
    "themes",
}


# What these ask is answered alike on every database, so CI asks it on one.
ON_ONE_DATABASE = {"apis", "browser", "docs", "doubles", "sandbox", "themes"}
# A test that has one of these markers or fixtures uses the database of the run.
DATABASE_MARKERS = {"django_db", "server", *VENDORS}
DATABASE_FIXTURES = {"db", "transactional_db", "live_server"}


@dataclass(frozen=True)
class Need:
    """``missing`` says what is not there, or None when all is. ``remedy`` says how to have it."""

    missing: Callable[[], str | None]
    remedy: str


def find_chromium() -> str | None:
    """The browser to drive: ``CHROMIUM`` names it, or it is on the path."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def find_firefox() -> str | None:
    """The distribution's: ``FIREFOX`` names it, or it is on the path."""
    names = ("firefox-esr", "firefox")
    return os.environ.get("FIREFOX") or next(filter(None, map(shutil.which, names)), None)


def _browser() -> str | None:
    if importlib.util.find_spec("playwright") is None:
        return "Playwright is not installed"
    return None if find_chromium() else "no Chromium found"


def _firefox() -> str | None:
    return None if find_firefox() else "no Firefox found"


def _node() -> str | None:
    if shutil.which("node") is None:
        return "no Node.js on the path"
    return None if NODE_MODULES.is_dir() else "frontend/node_modules is not there"


def _cluster() -> str | None:
    return None if find_binaries() else "no initdb on the path, nor in /usr/lib/postgresql"


def _gettext() -> str | None:
    return None if shutil.which("xgettext") else "no xgettext on the path"


def find_pgbouncer() -> str | None:
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def _pgbouncer() -> str | None:
    return None if find_pgbouncer() else "no pgbouncer on the path, nor in /usr/sbin"


def _listens(name: str, port: int) -> Callable[[], str | None]:
    def missing() -> str | None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=2).close()
        except OSError as error:
            return f"no {name} at 127.0.0.1:{port} ({error})"
        return None

    return missing


NEEDS = {
    "browser": Need(cache(_browser), "apt install chromium, or CHROMIUM=/path/to/it"),
    "firefox": Need(cache(_firefox), "apt install firefox-esr, or FIREFOX=/path/to/it"),
    "node": Need(cache(_node), "apt install nodejs npm, and make assets"),
    "gettext": Need(cache(_gettext), "apt install gettext"),
    "cluster": Need(cache(_cluster), "apt install postgresql"),
    "pgbouncer": Need(cache(_pgbouncer), "apt install pgbouncer"),
    "redis": Need(cache(_listens("Redis", 6379)), "apt install redis, and start it"),
    "rabbitmq": Need(
        cache(_listens("RabbitMQ", 5672)), "apt install rabbitmq-server, and start it"
    ),
}


def mark_tests(items: list[pytest.Item], tests: Path) -> None:
    """Give tests below ``tests`` the markers ``slow`` and ``one_database``."""
    for item in items:
        folder = item.path.relative_to(tests).parts[0]
        if folder in SLOW:
            item.add_marker("slow")
        if folder in ON_ONE_DATABASE or not _uses_database(item):
            item.add_marker("one_database")


def _uses_database(item: pytest.Item) -> bool:
    fixtures: list[str] = getattr(item, "fixturenames", [])
    markers = {marker.name for marker in item.iter_markers()}
    return bool(DATABASE_MARKERS & markers or DATABASE_FIXTURES.intersection(fixtures))


def is_left_out(path: Path, tests: Path, expression: str) -> bool:
    """Whether ``-m expression`` leaves out all that the folder ``path`` holds.

    To collect such a folder would take as long as many tests do. Only a plain row of terms that all
    have to hold is understood. Of any other expression the answer is no.
    """
    if path.parent != tests or path.name not in SLOW or "(" in expression:
        return False
    words = expression.split()
    return "or" not in words and "not slow" in " ".join(words).split(" and ")


def skip_or_fail(item: pytest.Item) -> None:
    """Skip a test that can't run here. In CI, fail it if the machine lacks what it needs.

    Raises pytest's Skipped or Failed.
    """
    for marker, vendor in VENDORS.items():
        if item.get_closest_marker(marker) and connection.vendor != vendor:
            pytest.skip(f"holds only on {marker}; this run is on {connection.vendor}")
    if item.get_closest_marker("server") and connection.vendor == "sqlite":
        pytest.skip("needs a database server; this run is on sqlite")
    for marker, need in NEEDS.items():
        if item.get_closest_marker(marker) and (reason := need.missing()):
            skip_for_want(reason)


def skip_for_want(reason: str) -> NoReturn:
    """Skip the running test, as the machine lacks what it needs. In CI, fail it.

    Raises pytest's Skipped or Failed.
    """
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have it: {reason}", pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def import_or_skip(name: str) -> Any:
    """The module. Skip the test or the tests' module if the machine lacks it; in CI, fail.

    What the extra ``test`` does not install for this Python or system is skipped in CI, too.
    Raises pytest's Skipped or Failed.
    """
    try:
        return pytest.importorskip(name, exc_type=ModuleNotFoundError)
    except pytest.skip.Exception as skipped:
        reason = str(skipped)
    if is_left_out_by_the_extra(name):
        pytest.skip(reason, allow_module_level=True)
    skip_for_want(reason)


def is_left_out_by_the_extra(module: str, **environment: str) -> bool:
    """Whether the extra ``test`` installs no package for it here, or in this environment."""
    marker = required_by_tests()[BROUGHT_BY[module]].marker if module in BROUGHT_BY else None
    return marker is not None and not marker.evaluate(environment)


def required_by_tests() -> dict[str, Requirement]:
    """What the extra ``test`` asks for, by the name of the package."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options.extras_require"]["test"].split("\n")
    requirements = map(Requirement, filter(None, lines))
    return {requirement.name: requirement for requirement in requirements}


def skipped_here() -> list[str]:
    """A line for each kind of test that this run skips: why, and how to have it."""
    lines = [
        f"skips the tests marked {marker}: {reason}. To have them: {need.remedy}"
        for marker, need in NEEDS.items()
        if (reason := need.missing())
    ]
    servers = {"postgresql": POSTGRES, "mysql": MARIADB}
    others = [url for vendor, url in servers.items() if vendor != connection.vendor]
    runs = " and ".join(f"make test DATABASE_URL={url}" for url in others)
    lines.append(f"skips the tests of other databases. To have them: {runs}")
    return lines
