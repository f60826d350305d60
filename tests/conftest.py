"""Tests name what they need by a marker; what is absent skips them, and fails them in CI."""

import importlib.util
import os
import shutil
import socket
from collections.abc import Iterator
from functools import cache as remember
from typing import Any

import django
import pytest
from django.core.cache import cache
from django.db import connection
from pytest_django import Settings

from .provider import Provider

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


# Each tells why its tests can't run, or None when they can.
NEEDS = {
    "browser": remember(_browser),
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
    """A provider on a real socket, which the settings point at."""
    with Provider() as stand_in:
        settings.DEBUG = True  # it speaks http
        settings.LEADEXEC = settings.LEADEXEC | {
            "BASE_URL": stand_in.url,
            "API_URLS": [stand_in.url],
            "TIMEOUT": 2,
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
