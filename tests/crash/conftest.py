import os
from collections.abc import Callable, Iterator

import pytest
from pytest_django import Settings

from ..provider import Provider
from .forked_workers import ForkedWorkers
from .interruptions import Interruptions

# LEADEXEC_CRASHES=full: at every step there is, and hundreds of times at random moments.
IS_FULL = os.environ.get("LEADEXEC_CRASHES") == "full"
STEPS = 3


@pytest.fixture(scope="session")
def workers(django_db_setup: None) -> Iterator[ForkedWorkers]:
    """On the test's database."""
    with ForkedWorkers() as workers:
        yield workers


@pytest.fixture
def three_workers(workers: ForkedWorkers) -> Iterator[list[ForkedWorkers]]:
    """Three that can be at work at once."""
    with ForkedWorkers() as another, ForkedWorkers() as third:
        yield [workers, another, third]


@pytest.fixture(params=["kill", pytest.param("cut", marks=pytest.mark.server)])
def interruptions(
    request: pytest.FixtureRequest,
    site: Settings,
    provider: Provider,
    workers: ForkedWorkers,
    record_property: Callable[[str, object], None],
) -> Interruptions:
    sample = None if IS_FULL else STEPS
    return Interruptions(workers, provider, request.param, sample, record_property)


@pytest.fixture
def site(provider: Provider, settings: Settings) -> Settings:
    """The settings of a site whose visitors call back as often as they like."""
    settings.LEADEXEC = settings.LEADEXEC | {"CALLBACK_RATE": "1000000/m"}
    return settings
