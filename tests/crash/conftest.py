import os
from collections.abc import Callable, Iterator

import pytest
from django.db import connection
from pytest_django import Settings

from ..provider import Provider
from .accidents import Accidents
from .victims import Victims

# LEADEXEC_CRASHES=full: at every step there is, and hundreds of times at random moments.
IS_FULL = os.environ.get("LEADEXEC_CRASHES") == "full"
STEPS = 3


@pytest.fixture(scope="session")
def victims(django_db_setup: None) -> Iterator[Victims]:
    """On the test's database."""
    with Victims() as victims:
        yield victims


@pytest.fixture
def three_victims(victims: Victims) -> Iterator[list[Victims]]:
    """Three that can be at work at once."""
    with Victims() as another, Victims() as third:
        yield [victims, another, third]


@pytest.fixture(params=["kill", "cut"])
def accidents(
    request: pytest.FixtureRequest,
    site: Settings,
    provider: Provider,
    victims: Victims,
    record_property: Callable[[str, object], None],
) -> Accidents:
    if request.param == "cut" and connection.vendor == "sqlite":
        pytest.skip("SQLite has no server")
    sample = None if IS_FULL else STEPS
    return Accidents(victims, provider, request.param, sample, record_property)


@pytest.fixture
def site(provider: Provider, settings: Settings) -> Settings:
    """The settings of a site whose visitors call back as often as they like."""
    settings.LEADEXEC = settings.LEADEXEC | {"CALLBACK_RATE": "1000000/m"}
    return settings
