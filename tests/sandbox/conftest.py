import pytest
from pytest_django import Settings


@pytest.fixture(autouse=True)
def in_debug(settings: Settings) -> None:
    """Django's test runner has switched DEBUG off, and the sandbox with it."""
    settings.DEBUG = True
    settings.LEADEXEC_SANDBOX = {}
