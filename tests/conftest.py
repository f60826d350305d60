"""Fixtures that all tests share, and what a run says of itself."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import django
import pytest
from django.core.cache import cache
from django.db import connection
from django.test import Client
from pytest_django import DjangoDbBlocker, Settings

from . import timing
from .factories import make_user
from .flushing import quick_flush
from .needs import is_left_out, mark_tests, skip_or_fail, skipped_here
from .provider import Provider
from .sockets import apis_at
from .visitor import LOGIN, NOON


def pytest_report_header() -> list[str]:
    return [f"django: {django.get_version()}, database: {connection.vendor}", *skipped_here()]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """True ignores it; None leaves that to others."""
    folder = Path(__file__).parent
    return is_left_out(collection_path, folder, config.option.markexpr) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_tests(items, Path(__file__).parent)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    skip_or_fail(item)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    timing.record(report)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("time a folder, over all workers")
    for line in timing.lines():
        terminalreporter.line(line)


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """The test database, and a quick way to empty it."""
    with ExitStack() as stack:
        with django_db_blocker.unblock():
            stack.enter_context(quick_flush())
        yield


@pytest.fixture
def provider(settings: Settings) -> Iterator[Provider]:
    """A provider on a real socket, which the settings point at.

    A call may take the default TIMEOUT, as the machine may stall; a test of a timeout sets less.
    """
    with Provider() as stand_in:
        settings.DEBUG = True  # it speaks http
        settings.LEADEXEC = settings.LEADEXEC | {"BASE_URL": stand_in.url}
        settings.LEADEXEC |= apis_at(stand_in.url)
        yield stand_in


@pytest.fixture(autouse=True)
def empty_cache() -> Iterator[None]:
    """The counts of CALLBACK_RATE must not outlast a test."""
    yield
    cache.clear()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-ins are on this machine; a proxy of the developer's has no way to them."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def configure(settings: Settings) -> Callable[..., None]:
    """Change keys of LEADEXEC."""

    def configure(**changes: object) -> None:
        settings.LEADEXEC = settings.LEADEXEC | changes

    return configure


@pytest.fixture
def stop_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Stop the clock, at a moment in epoch seconds."""
    return lambda moment: monkeypatch.setattr("time.time", lambda: moment)


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Stop the clock of CALLBACK_RATE at noon, and set it."""

    def set_clock(epoch: float) -> None:
        clock = SimpleNamespace(time=lambda: epoch)
        monkeypatch.setattr("django_leadexec.throttle.time", clock)

    set_clock(NOON)
    return set_clock


@pytest.fixture
def victim(client: Client) -> Any:
    """Somebody who is logged in, in the browser ``client``."""
    user = make_user("victim", password="secret")
    client.force_login(user, backend=LOGIN)
    return user
