import pytest
from django.apps import apps
from django.core.checks import run_checks
from pytest_django import Settings

from django_leadexec.sandbox.checks import check_sandbox


def ids() -> list[str]:
    return [str(message.id) for message in check_sandbox()]


@pytest.fixture
def production(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.DEBUG = False
    monkeypatch.setattr(apps.get_app_config("leadexec_sandbox"), "debug_at_start", False)


def test_a_sandbox_in_debug_is_fine() -> None:
    assert ids() == []


def test_the_setting_may_be_absent(settings: Settings) -> None:
    del settings.LEADEXEC_SANDBOX
    assert ids() == []


@pytest.mark.usefixtures("production")
def test_a_sandbox_in_production_is_an_error_that_says_what_to_remove() -> None:
    [message] = check_sandbox()
    assert message.id == "leadexec_sandbox.E001"
    assert "INSTALLED_APPS" in str(message.hint)


@pytest.mark.usefixtures("production")
def test_a_sandbox_outside_debug_can_be_allowed(settings: Settings) -> None:
    settings.LEADEXEC_SANDBOX = {"ALLOW_OUTSIDE_DEBUG": True}
    assert ids() == []


@pytest.mark.usefixtures("production")
def test_a_test_runner_that_switches_debug_off_causes_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(apps.get_app_config("leadexec_sandbox"), "debug_at_start", True)
    assert ids() == []


def test_unknown_keys_are_errors(settings: Settings) -> None:
    settings.LEADEXEC_SANDBOX = {"allow_outside_debug": True, "DEBUG": 1}
    assert ids() == ["leadexec_sandbox.E002", "leadexec_sandbox.E002"]


@pytest.mark.parametrize(
    "value",
    [
        ["ALLOW_OUTSIDE_DEBUG"],
        {"ALLOW_OUTSIDE_DEBUG": 1},
        {"APPLICATIONS": ["app"]},
        {"APPLICATIONS": {"app": None}},
        {"ACCESS_TOKEN_LIFETIME": "3600"},
        {"ACCESS_TOKEN_LIFETIME": 0},
        {"ACCESS_TOKEN_LIFETIME": True},
        {"EXPIRE_DATE_FORMAT": "ISO"},
        {"EXPIRE_DATE_FORMAT": ["iso"]},
    ],
)
def test_bad_values_are_errors(settings: Settings, value: object) -> None:
    settings.LEADEXEC_SANDBOX = value
    assert ids() == ["leadexec_sandbox.E003"]


def test_the_check_is_registered(settings: Settings) -> None:
    settings.LEADEXEC_SANDBOX = {"WRONG": 1}
    found = run_checks(tags=["leadexec_sandbox"])
    assert [message.id for message in found] == ["leadexec_sandbox.E002"]
