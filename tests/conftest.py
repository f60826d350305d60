"""Tests name what they need by a marker; what is absent skips them, and fails them in CI."""

import importlib.util
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from functools import cache as remember
from types import SimpleNamespace
from typing import Any

import django
import pytest
from django.core.cache import cache
from django.db import connection
from django.test import Client
from pytest_django import Settings

from .crash.cluster import find_binaries
from .factories import make_user
from .provider import Provider
from .visiting import LOGIN, NOON

VENDORS = {"postgres": "postgresql", "mysql": "mysql", "sqlite": "sqlite"}


def find_chromium() -> str | None:
    """The browser to drive: ``CHROMIUM`` names it, or it is on the path."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def _browser() -> str | None:
    if importlib.util.find_spec("playwright") is None:
        return "Playwright is not installed"
    return None if find_chromium() else "no Chromium found; CHROMIUM=/path/to/it names one"


def _listens(name: str, port: int) -> str | None:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError as error:
        return f"no {name} at 127.0.0.1:{port} ({error})"
    return None


def _cluster() -> str | None:
    return None if find_binaries() else "no initdb on the path, nor in /usr/lib/postgresql"


# Each tells why its tests can't run, or None when they can.
NEEDS = {
    "browser": remember(_browser),
    "cluster": remember(_cluster),
    "redis": remember(lambda: _listens("Redis", 6379)),
    "rabbitmq": remember(lambda: _listens("RabbitMQ", 5672)),
}


def pytest_report_header() -> str:
    return f"django: {django.get_version()}, database: {connection.vendor}"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, vendor in VENDORS.items():
        if item.get_closest_marker(marker) and connection.vendor != vendor:
            pytest.skip(f"holds only on {marker}; this run is on {connection.vendor}")
    for marker, missing in NEEDS.items():
        if item.get_closest_marker(marker) and (reason := missing()):
            if os.environ.get("CI") == "true":
                pytest.fail(f"CI must have it: {reason}", pytrace=False)
            pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def quick_flush() -> Iterator[None]:
    """Empty PostgreSQL's tables after a test by DELETE, of few rows ten times faster than TRUNCATE.

    Foreign keys don't mind the order, as Django's are checked at the commit.
    """
    operations = type(connection.ops)
    with pytest.MonkeyPatch.context() as patch:
        if connection.vendor == "postgresql":

            def sql_flush(self: Any, style: Any, tables: list[str], **options: bool) -> list[str]:
                return [f"DELETE FROM {self.quote_name(table)}" for table in tables]  # noqa: S608

            patch.setattr(operations, "sql_flush", sql_flush)
        yield


@pytest.fixture
def provider(settings: Settings) -> Iterator[Provider]:
    """A provider on a real socket, which the settings point at.

    A call may take the default TIMEOUT, as the machine may stall; a test of a timeout sets less.
    """
    with Provider() as stand_in:
        settings.DEBUG = True  # it speaks http
        settings.LEADEXEC = settings.LEADEXEC | {
            "BASE_URL": stand_in.url,
            "API_URLS": [stand_in.url],
        }
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
