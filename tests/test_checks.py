import io
import re
from pathlib import Path
from typing import Any

import pytest
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.core.management.base import SystemCheckError
from pytest_django import Settings

import django_leadexec
from django_leadexec import conf
from django_leadexec.checks import BACKEND, check_configuration, check_deployment
from django_leadexec.conf import new_key

GOOD: dict[str, Any] = {"APP_ID": "a", "BUTTON_ID": "b", "ENCRYPTION_KEYS": [new_key()]}
MODEL_BACKEND = "django.contrib.auth.backends.ModelBackend"


@pytest.fixture(autouse=True)
def production(settings: Settings) -> None:
    """Settings that no check finds fault with."""
    settings.DEBUG = False
    settings.LEADEXEC = GOOD
    settings.SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin-allow-popups"
    settings.SESSION_COOKIE_SECURE = True
    settings.CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "x"}
    }


def errors() -> list[str]:
    return [str(message.id) for message in check_configuration(None)]


def warnings() -> list[str]:
    return [str(message.id) for message in check_deployment(None)]


def identify(session: object) -> str:
    return "account"


not_callable = "a string"


def test_good_settings_pass() -> None:
    assert errors() == []
    assert warnings() == []


BAD: dict[str, Any] = {
    "E001": None,
    "E002": GOOD | {"UNKNOWN": 1},
    "E003": GOOD | {"APP_ID": ""},
    "E004": GOOD | {"BUTTON_ID": ""},
    "E005": GOOD | {"ENCRYPTION_KEYS": "a string where a list is wanted"},
    "E006": GOOD | {"BASE_URL": "apps.leadexec.net"},
    "E007": GOOD | {"API_URLS": "https://api.leadexec.net"},
    "E008": GOOD | {"TIMEOUT": None},
    "E009": GOOD | {"REFRESH_MARGIN": "600"},
    "E010": GOOD | {"SIGN_IN": "yes"},
    "E011": GOOD | {"IDENTIFY": identify},
    "E012": GOOD | {"CALLBACK_RATE": 20},
    "E013": GOOD | {"BASE_URL": "http://apps.leadexec.net"},
    "E014": GOOD | {"CREATE_USER": "a.create"},
    "E015": GOOD | {"CREATE_USER": identify},
    "E016": GOOD | {"IDENTIFY": "nowhere.identify"},
}


@pytest.mark.parametrize(("code", "value"), BAD.items(), ids=BAD)
def test_a_bad_setting_is_an_error_with_a_hint(
    settings: Settings, code: str, value: object
) -> None:
    settings.LEADEXEC = value
    [message] = check_configuration(None)
    assert isinstance(message, checks.Error)
    assert message.id == f"leadexec.{code}"
    assert message.hint


def test_all_errors_of_the_setting_are_told_at_once(settings: Settings) -> None:
    settings.LEADEXEC = {"APP_ID": "", "TIMEOUT": 0}
    assert errors() == ["leadexec.E003", "leadexec.E004", "leadexec.E005", "leadexec.E008"]


@pytest.mark.parametrize(
    "path",
    [
        "nowhere.identify",
        "tests.test_checks.missing",
        "tests.test_checks.not_callable",
        "tests.nowhere.identify",
    ],
)
def test_a_function_that_can_not_be_called_is_an_error(settings: Settings, path: str) -> None:
    settings.LEADEXEC = GOOD | {"IDENTIFY": path}
    assert errors() == ["leadexec.E016"]
    settings.LEADEXEC = GOOD | {
        "SIGN_IN": True,
        "IDENTIFY": "tests.test_checks.identify",
        "CREATE_USER": path,
    }
    assert errors() == ["leadexec.E016"]
    assert path in check_configuration(None)[0].msg


def test_functions_that_can_be_called_are_fine(settings: Settings) -> None:
    name = "tests.test_checks.identify"
    settings.LEADEXEC = GOOD | {"SIGN_IN": True, "IDENTIFY": name, "CREATE_USER": name}
    assert errors() == []


def test_sign_in_without_its_backend_is_an_error(settings: Settings) -> None:
    settings.LEADEXEC = GOOD | {"SIGN_IN": True}
    settings.AUTHENTICATION_BACKENDS = [MODEL_BACKEND]
    assert errors() == ["leadexec.E017"]
    assert BACKEND in str(check_configuration(None)[0].hint)
    settings.AUTHENTICATION_BACKENDS = [MODEL_BACKEND, BACKEND]
    assert errors() == []


def test_without_sign_in_the_backend_is_not_needed(settings: Settings) -> None:
    settings.AUTHENTICATION_BACKENDS = [MODEL_BACKEND]
    assert errors() == []


def test_a_missing_app_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django.apps.apps.is_installed", lambda name: "sessions" not in name)
    [message] = check_configuration(None)
    assert message.id == "leadexec.E018"
    assert "django.contrib.sessions" in message.msg
    monkeypatch.setattr("django.apps.apps.is_installed", lambda name: False)
    assert errors() == ["leadexec.E018", "leadexec.E018"]


# Advice for production


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("same-origin", ["leadexec.W001"]),
        ("noopener-allow-popups", ["leadexec.W001"]),
        ("same-origin-allow-popups", []),
        ("unsafe-none", []),
        (None, []),
    ],
)
def test_a_policy_that_cuts_off_popups_is_warned_of(
    settings: Settings, policy: str | None, expected: list[str]
) -> None:
    settings.SECURE_CROSS_ORIGIN_OPENER_POLICY = policy
    assert warnings() == expected


def test_djangos_default_policy_is_warned_of(settings: Settings) -> None:
    del settings.SECURE_CROSS_ORIGIN_OPENER_POLICY
    from django.conf import global_settings

    settings.SECURE_CROSS_ORIGIN_OPENER_POLICY = global_settings.SECURE_CROSS_ORIGIN_OPENER_POLICY
    assert warnings() == ["leadexec.W001"]


def test_a_session_cookie_over_plain_http_is_warned_of(settings: Settings) -> None:
    settings.SESSION_COOKIE_SECURE = False
    assert warnings() == ["leadexec.W002"]


def engine(*processors: str) -> dict[str, Any]:
    return {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "NAME": f"engine-with-{len(processors)}",
        "OPTIONS": {"context_processors": list(processors)},
    }


REQUEST = "django.template.context_processors.request"
JINJA: dict[str, Any] = {"BACKEND": "django.template.backends.jinja2.Jinja2", "OPTIONS": {}}


@pytest.mark.parametrize(
    ("templates", "expected"),
    [
        ([engine()], ["leadexec.W003"]),
        ([engine("django.template.context_processors.debug")], ["leadexec.W003"]),
        ([engine(REQUEST)], []),
        ([engine(), engine(REQUEST)], []),
        ([JINJA], []),
        ([JINJA, engine()], ["leadexec.W003"]),
        ([], []),
    ],
    ids=["none", "another", "request", "one of two", "Jinja2", "Jinja2 and none", "no engine"],
)
def test_templates_that_do_not_know_the_request_are_warned_of(
    settings: Settings, templates: list[dict[str, Any]], expected: list[str]
) -> None:
    pytest.importorskip("jinja2")
    settings.TEMPLATES = templates
    assert warnings() == expected


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        ("django.core.cache.backends.locmem.LocMemCache", ["leadexec.W004"]),
        ("django.core.cache.backends.dummy.DummyCache", ["leadexec.W004"]),
        ("django.core.cache.backends.db.DatabaseCache", []),
        ("django.core.cache.backends.memcached.PyMemcacheCache", []),
    ],
)
def test_a_cache_of_one_process_is_warned_of(
    settings: Settings, backend: str, expected: list[str]
) -> None:
    settings.CACHES = {"default": {"BACKEND": backend, "LOCATION": "x"}}
    assert warnings() == expected


def test_advice_comes_with_a_hint(settings: Settings) -> None:
    settings.SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
    settings.SESSION_COOKIE_SECURE = False
    settings.TEMPLATES = [engine()]
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
    messages = check_deployment(None)
    assert [message.id for message in messages] == [f"leadexec.W00{number}" for number in "1234"]
    assert all(isinstance(message, checks.Warning) and message.hint for message in messages)


# Registered


def ours(messages: list[checks.CheckMessage]) -> list[str]:
    return [str(message.id) for message in messages if str(message.id).startswith("leadexec.")]


def test_the_configuration_is_checked_by_every_check(settings: Settings) -> None:
    settings.LEADEXEC = GOOD | {"TIMEOUT": 0}
    assert ours(checks.run_checks()) == ["leadexec.E008"]
    assert ours(checks.run_checks(include_deployment_checks=True)) == ["leadexec.E008"]
    with pytest.raises(SystemCheckError, match=r"leadexec\.E008"):
        call_command("check")


def test_advice_comes_only_with_deploy(settings: Settings) -> None:
    settings.SESSION_COOKIE_SECURE = False
    assert ours(checks.run_checks()) == []
    assert ours(checks.run_checks(include_deployment_checks=True)) == ["leadexec.W002"]
    printed = io.StringIO()
    call_command("check", deploy=True, stderr=printed)
    assert "leadexec.W002" in printed.getvalue()
    with pytest.raises(CommandError):
        call_command("check", deploy=True, fail_level="WARNING", stderr=io.StringIO())


def test_advice_does_not_break_on_a_bad_setting(settings: Settings) -> None:
    settings.LEADEXEC = None
    settings.SESSION_COOKIE_SECURE = False
    assert ours(checks.run_checks(include_deployment_checks=True)) == [
        "leadexec.E001",
        "leadexec.W002",
    ]


def test_good_settings_pass_the_command() -> None:
    call_command("check", stdout=io.StringIO(), stderr=io.StringIO())


def test_what_no_check_is_run_for_fails_at_first_use(settings: Settings) -> None:
    settings.LEADEXEC = BAD["E008"]
    with pytest.raises(ImproperlyConfigured):
        conf.get_settings()


def test_each_code_is_given_to_one_fault() -> None:
    package = Path(django_leadexec.__file__).parent
    found = [
        code
        for name in ("conf.py", "checks.py")
        for code in re.findall(r'"([EW]\d{3})"', (package / name).read_text("utf-8"))
    ]
    numbers = [f"E{number:03}" for number in range(1, 19)]
    assert sorted(found) == [*numbers, "W001", "W002", "W003", "W004"]
