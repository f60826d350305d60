import io
import re
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.core.management.base import SystemCheckError
from django.db import connections
from pytest_django import Settings

import django_leadexec
from django_leadexec import conf
from django_leadexec.backends import LeadExecBackend
from django_leadexec.checks import (
    BACKEND,
    check_configuration,
    check_deployment,
    check_stored_tokens,
)
from django_leadexec.conf import new_key
from django_leadexec.models import LeadExecConnection
from django_leadexec.sandbox.checks import check_sandbox

from .factories import make_connection
from .needs import import_or_skip

# On MariaDB and MySQL Django itself checks the server.
pytestmark = pytest.mark.django_db

PACKAGE = Path(django_leadexec.__file__).parent
DOCS = PACKAGE.parent / "docs"
# Where the hosted page is, and so the section of each id.
PAGE = "https://django-leadexec.readthedocs.io/en/latest/checks.html"
GOOD: dict[str, Any] = {"APP_ID": "a", "BUTTON_ID": "b", "ENCRYPTION_KEYS": [new_key()]}
MODEL_BACKEND = "django.contrib.auth.backends.ModelBackend"


@pytest.fixture(autouse=True)
def production(settings: Settings) -> None:
    """Settings that no check finds fault with."""
    settings.DEBUG = False
    settings.LEADEXEC = GOOD
    settings.SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin-allow-popups"
    settings.SESSION_COOKIE_SECURE = True
    settings.CSRF_USE_SESSIONS = True
    # One on another machine, as far as the checks know: nothing has to be collected.
    backend = "django.core.files.storage.InMemoryStorage"
    settings.STORAGES = settings.STORAGES | {"staticfiles": {"BACKEND": backend}}
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
    "E008": GOOD | {"TIMEOUT": None},
    "E009": GOOD | {"REFRESH_MARGIN": "600"},
    "E010": GOOD | {"SIGN_IN": "yes"},
    "E011": GOOD | {"IDENTIFY": identify},
    "E012": GOOD | {"CALLBACK_RATE": 20},
    "E013": GOOD | {"BASE_URL": "http://apps.leadexec.net"},
    "E014": GOOD | {"CREATE_USER": "a.create"},
    "E015": GOOD | {"CREATE_USER": identify},
    "E016": GOOD | {"IDENTIFY": "nowhere.identify"},
    "E020": GOOD | {"ACCOUNT_API_URL": "api.leadexec.net"},
    "E021": GOOD | {"DATA_API_URL": ["https://apidata.leadexec.net"]},
}


@pytest.mark.parametrize(("code", "value"), BAD.items(), ids=BAD)
def test_a_bad_setting_is_an_error_with_a_hint(
    settings: Settings, code: str, value: object
) -> None:
    settings.LEADEXEC = value
    [message] = check_configuration(None)
    assert isinstance(message, checks.Error)
    assert message.id == f"leadexec.{code}"
    assert str(message.hint).endswith(f" See {PAGE}#leadexec-{code.lower()}")


def test_all_errors_of_the_setting_are_reported_at_once(settings: Settings) -> None:
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


def test_it_names_the_import_that_failed(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "our_accounts.py").write_text("import a_module_that_is_nowhere")
    monkeypatch.syspath_prepend(tmp_path)
    settings.LEADEXEC = GOOD | {"IDENTIFY": "our_accounts.identify"}
    [message] = check_configuration(None)
    assert "No module named 'a_module_that_is_nowhere'" in message.msg
    settings.LEADEXEC = GOOD | {"IDENTIFY": "tests.test_checks.not_callable"}
    [message] = check_configuration(None)
    assert "it is a str" in message.msg


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


class OurBackend(LeadExecBackend):
    pass


def test_a_subclass_of_the_backend_will_do(settings: Settings) -> None:
    settings.LEADEXEC = GOOD | {"SIGN_IN": True}
    settings.AUTHENTICATION_BACKENDS = ["nowhere.Backend", "tests.test_checks.OurBackend"]
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


@pytest.mark.parametrize("engine", ["signed_cookies", "cache", "file"])
def test_sessions_that_are_kept_in_no_table_need_no_app(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    monkeypatch.setattr("django.apps.apps.is_installed", lambda name: "sessions" not in name)
    assert errors() == []


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
    import_or_skip("jinja2")
    settings.TEMPLATES = templates
    assert warnings() == expected


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        ("django.core.cache.backends.locmem.LocMemCache", ["leadexec.W004"]),
        ("django.core.cache.backends.dummy.DummyCache", ["leadexec.W004"]),
        ("django.core.cache.backends.db.DatabaseCache", ["leadexec.W013"]),
        ("django.core.cache.backends.filebased.FileBasedCache", ["leadexec.W013"]),
        ("django.core.cache.backends.redis.RedisCache", []),
        ("no.such.Cache", []),
        ("django.core.cache.backends.memcached.PyMemcacheCache", []),
    ],
)
def test_a_cache_that_does_not_count_for_all_is_warned_of(
    settings: Settings, backend: str, expected: list[str]
) -> None:
    settings.CACHES = {"default": {"BACKEND": backend, "LOCATION": "x"}}
    assert warnings() == expected


HOSTS_OWN = {
    "SESSION_COOKIE_NAME": "__Host-sessionid",
    "CSRF_COOKIE_NAME": "__Host-csrftoken",
    "CSRF_COOKIE_SECURE": True,
}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, ""),
        ({"CSRF_COOKIE_NAME": "csrftoken"}, "CSRF_COOKIE_NAME"),
        ({"CSRF_COOKIE_SECURE": False}, "CSRF_COOKIE_NAME"),
        ({"CSRF_COOKIE_PATH": "/app/"}, "CSRF_COOKIE_NAME"),
        ({"CSRF_COOKIE_DOMAIN": "example.org"}, "CSRF_COOKIE_NAME"),
        ({"SESSION_COOKIE_NAME": "__Secure-sessionid"}, "SESSION_COOKIE_NAME"),
        ({"SESSION_COOKIE_PATH": "/app/"}, "SESSION_COOKIE_NAME"),
        ({"SESSION_COOKIE_DOMAIN": ".example.org"}, "SESSION_COOKIE_NAME"),
        (
            {"SESSION_COOKIE_NAME": "sessionid", "CSRF_COOKIE_NAME": "csrftoken"},
            "SESSION_COOKIE_NAME and CSRF_COOKIE_NAME",
        ),
    ],
)
def test_cookies_that_another_host_can_set_are_warned_of(
    settings: Settings, changes: dict[str, Any], named: str
) -> None:
    settings.CSRF_USE_SESSIONS = False
    for name, value in (HOSTS_OWN | changes).items():
        setattr(settings, name, value)
    texts = [message.msg for message in check_deployment(None) if message.id == "leadexec.W008"]
    expected = f"Another site under the same domain can replace {named}."
    assert texts == ([expected] if named else [])
    settings.CSRF_USE_SESSIONS = True
    assert "leadexec.W008" not in warnings()


# A Content-Security-Policy

PROVIDER = "https://apps.leadexec.net"
SELF = "'self'"
FETCHED = ["script-src", "style-src", "connect-src", "img-src", "frame-src"]
ALL = {directive: [SELF, PROVIDER] for directive in FETCHED}


def test_a_policy_that_names_the_provider_is_fine(settings: Settings) -> None:
    settings.SECURE_CSP = settings.SECURE_CSP_REPORT_ONLY = {"default-src": [SELF]} | ALL
    policy = {"DIRECTIVES": ALL}
    settings.CONTENT_SECURITY_POLICY = settings.CONTENT_SECURITY_POLICY_REPORT_ONLY = policy
    assert warnings() == []


@pytest.mark.parametrize("name", ["SECURE_CSP", "SECURE_CSP_REPORT_ONLY"])
def test_djangos_policy_without_the_provider_is_warned_of(settings: Settings, name: str) -> None:
    setattr(settings, name, {"default-src": [SELF]})
    needed, likely = check_deployment(None)
    assert (needed.id, likely.id) == ("leadexec.W005", "leadexec.W006")
    assert needed.msg == f"{name} does not allow {PROVIDER} in script-src, style-src."
    assert likely.msg == f"{name} does not allow {PROVIDER} in connect-src, img-src, frame-src."


@pytest.mark.parametrize("name", ["CONTENT_SECURITY_POLICY", "CONTENT_SECURITY_POLICY_REPORT_ONLY"])
@pytest.mark.parametrize(
    "policy",
    [{"DIRECTIVES": {"default-src": [SELF]}}, {"EXCLUDE_URL_PREFIXES": ["/admin/"]}],
    ids=["set", "by default"],
)
def test_django_csps_policy_without_the_provider_is_warned_of(
    settings: Settings, name: str, policy: dict[str, Any]
) -> None:
    setattr(settings, name, policy)
    needed, likely = check_deployment(None)
    assert (needed.id, likely.id) == ("leadexec.W005", "leadexec.W006")
    assert needed.msg == f"{name} does not allow {PROVIDER} in script-src, style-src."


@pytest.mark.parametrize(
    "policy",
    [None, {}, {"base-uri": [SELF]}, {"default-src": None}, {"script-src": False}, "self", ["x"]],
)
def test_a_policy_that_closes_nothing_is_not_warned_of(settings: Settings, policy: object) -> None:
    settings.SECURE_CSP = policy
    assert warnings() == []


@pytest.mark.parametrize("policy", [{}, None, {"DIRECTIVES": {"default-src": None}}])
def test_a_django_csp_policy_that_closes_nothing_is_not_warned_of(
    settings: Settings, policy: object
) -> None:
    settings.CONTENT_SECURITY_POLICY = policy
    assert warnings() == []


def test_directives_of_a_wrong_type_are_no_traceback(settings: Settings) -> None:
    settings.CONTENT_SECURITY_POLICY = {"DIRECTIVES": ["default-src"]}
    assert warnings() == ["leadexec.W005", "leadexec.W006"]


@pytest.mark.parametrize(
    "source",
    [
        "*",
        "https:",
        "HTTPS:",
        PROVIDER,
        PROVIDER.upper(),
        f"{PROVIDER}/",
        f"{PROVIDER}/js/",
        f"{PROVIDER}:443",
        "apps.leadexec.net",
        "apps.leadexec.net:443",
        "*.leadexec.net",
        "https://*.leadexec.net",
        "https://*",
        "*:443",
        "'strict-dynamic'",
    ],
)
def test_a_source_that_covers_the_provider_is_fine(settings: Settings, source: str) -> None:
    for sources in ([SELF, source], (SELF, source), {SELF, source}, f"{SELF} {source}", source):
        settings.SECURE_CSP = {"script-src": sources}
        assert warnings() == []


@pytest.mark.parametrize(
    "source",
    [
        SELF,
        "'none'",
        "'unsafe-inline'",
        "'nonce-abc'",
        "data:",
        "wss:",
        "wss://apps.leadexec.net",
        "leadexec.net",
        "*.apps.leadexec.net",
        "*.exec.net",
        "https://apps.leadexec.net.example.org",
        "https://example.org/apps.leadexec.net",
        "https://apps.leadexec.net@example.org",
        f"{PROVIDER}:8443",
        "*:8443",
        "",
        "*.",
        "://",
        "https",
    ],
)
def test_a_source_that_does_not_cover_the_provider_is_warned_of(
    settings: Settings, source: str
) -> None:
    settings.SECURE_CSP = {"script-src": ["https://example.org", source]}
    assert warnings() == ["leadexec.W005"]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"default-src": [PROVIDER]}, []),
        ({"default-src": [PROVIDER], "script-src": [SELF]}, ["leadexec.W005"]),
        ({"script-src": [SELF], "script-src-elem": [PROVIDER]}, []),
        ({"script-src": [PROVIDER], "script-src-elem": [SELF]}, ["leadexec.W005"]),
        ({"style-src": [PROVIDER], "style-src-elem": [SELF]}, ["leadexec.W005"]),
        ({"script-src": [PROVIDER], "script-src-attr": [SELF]}, []),
        ({"child-src": [SELF]}, ["leadexec.W006"]),
        ({"child-src": [SELF], "frame-src": [PROVIDER]}, []),
        ({"default-src": [SELF], **ALL, "child-src": [SELF]}, []),
        # Django leaves out what has no sources.
        ({"default-src": [PROVIDER], "script-src": []}, []),
    ],
)
def test_the_directive_that_browsers_go_by_is_judged(
    settings: Settings, policy: dict[str, Any], expected: list[str]
) -> None:
    settings.SECURE_CSP = policy
    assert warnings() == expected


def test_a_nonce_of_djangos_lets_pass_what_the_tag_itself_loads(settings: Settings) -> None:
    csp = pytest.importorskip("django.utils.csp", reason="Django 6.0 brought it").CSP
    settings.SECURE_CSP = {"default-src": [csp.SELF, csp.NONCE]}
    assert warnings() == ["leadexec.W006"]


def test_a_nonce_of_django_csps_lets_pass_what_the_tag_itself_loads(settings: Settings) -> None:
    csp = import_or_skip("csp.constants")
    settings.CONTENT_SECURITY_POLICY = {"DIRECTIVES": {"default-src": [csp.SELF, csp.NONCE]}}
    assert warnings() == ["leadexec.W006"]


def test_a_trust_that_scripts_pass_on_holds_for_scripts_only(settings: Settings) -> None:
    settings.SECURE_CSP = {"default-src": ["'strict-dynamic'"]}
    needed, _ = check_deployment(None)
    assert needed.msg.endswith(" in style-src.")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("http://127.0.0.1:8000", []),
        ("127.0.0.1:8000", []),
        ("http:", []),
        ("https:", ["leadexec.W005"]),
        ("https://127.0.0.1:8000", ["leadexec.W005"]),
        ("http://127.0.0.1", ["leadexec.W005"]),
    ],
)
def test_a_sandbox_is_judged_by_its_own_address(
    settings: Settings, source: str, expected: list[str]
) -> None:
    settings.DEBUG = True
    settings.LEADEXEC = GOOD | {"BASE_URL": "http://127.0.0.1:8000/sandbox"}
    settings.SECURE_CSP = {"script-src": [source]}
    assert warnings() == expected


def test_a_policy_is_not_judged_by_an_address_that_is_none(settings: Settings) -> None:
    settings.LEADEXEC = GOOD | {"BASE_URL": "https://[apps"}
    settings.SECURE_CSP = {"default-src": [SELF]}
    assert warnings() == []


# A transaction around each request


@pytest.mark.parametrize(
    ("vendor", "atomic", "expected"),
    [
        ("sqlite", True, ["leadexec.W007"]),
        ("sqlite", False, []),
        ("postgresql", True, []),
        ("mysql", True, []),
    ],
)
def test_sqlites_lock_held_for_a_request_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, vendor: str, atomic: bool, expected: list[str]
) -> None:
    database = connections["default"]
    monkeypatch.setattr(database, "vendor", vendor)
    monkeypatch.setitem(database.settings_dict, "ATOMIC_REQUESTS", atomic)
    assert warnings() == expected


def test_advice_comes_with_a_hint(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections["default"], "vendor", "sqlite")
    monkeypatch.setitem(connections["default"].settings_dict, "ATOMIC_REQUESTS", True)
    settings.SECURE_CSP = {"default-src": [SELF]}
    settings.SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
    settings.SESSION_COOKIE_SECURE = settings.CSRF_USE_SESSIONS = False
    settings.TEMPLATES = [engine()]
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
    messages = check_deployment(None)
    numbers = "12345678"
    assert [message.id for message in messages] == [f"leadexec.W00{number}" for number in numbers]
    for message, number in zip(messages, numbers, strict=True):
        assert isinstance(message, checks.Warning)
        assert str(message.hint).endswith(f". See {PAGE}#leadexec-w00{number}")


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


# The database


def errors_of_the_database() -> list[str]:
    return [str(message.id) for message in check_stored_tokens(None, databases=["default"])]


def test_keys_that_open_no_stored_token_are_an_error(settings: Settings) -> None:
    assert errors_of_the_database() == []
    make_connection()
    make_connection().revoke()
    assert errors_of_the_database() == []
    settings.LEADEXEC = GOOD | {"ENCRYPTION_KEYS": [new_key()]}
    assert errors_of_the_database() == ["leadexec.E019"]
    [message] = check_stored_tokens(None, databases=["default"])
    assert str(message.hint).endswith(f". See {PAGE}#leadexec-e019")
    settings.LEADEXEC = GOOD | {"ENCRYPTION_KEYS": [new_key(), *GOOD["ENCRYPTION_KEYS"]]}
    assert errors_of_the_database() == []


def test_a_damaged_token_beside_a_good_one_is_no_fault_of_the_keys(settings: Settings) -> None:
    make_connection()
    settings.LEADEXEC = GOOD | {"ENCRYPTION_KEYS": [new_key()]}
    make_connection()
    assert errors_of_the_database() == []


def test_the_database_is_read_only_where_it_is_asked_for(
    settings: Settings, django_assert_num_queries: Any
) -> None:
    make_connection()
    settings.LEADEXEC = GOOD | {"ENCRYPTION_KEYS": [new_key()]}
    with django_assert_num_queries(0):
        assert check_stored_tokens(None) == []
        assert check_stored_tokens(None, databases=[]) == []
        assert "leadexec.E019" not in [message.id for message in checks.run_checks()]
    with pytest.raises(SystemCheckError, match="E019"):
        call_command("check", databases=["default"], stderr=io.StringIO())
    settings.LEADEXEC = {}
    assert errors_of_the_database() == []


def test_a_database_that_has_yet_to_be_migrated_is_no_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    introspection = connections["default"].introspection
    monkeypatch.setattr(introspection, "table_names", list)
    monkeypatch.setattr(LeadExecConnection.objects, "using", pytest.fail)
    assert errors_of_the_database() == []


# The documentation


def codes_in(name: str) -> list[str]:
    source = (PACKAGE / name).read_text("utf-8")
    return [f"leadexec.{code}" for code in re.findall(r'"([EW]\d{3})"', source)] + re.findall(
        r'"(leadexec_sandbox\.[EW]\d{3})"', source
    )


def test_each_code_is_given_to_one_fault() -> None:
    found = [
        code
        for name in ("conf.py", "setting_rules.py", "checks.py", "surroundings.py")
        for code in codes_in(name)
    ]
    # No code is used again: E007 belonged to a key that is gone.
    numbers = [f"E{number:03}" for number in range(1, 22) if number != 7]
    numbers += [f"W{number:03}" for number in range(1, 14)]
    assert sorted(found) == [f"leadexec.{number}" for number in numbers]
    found = codes_in("sandbox/checks.py")
    assert sorted(found) == [f"leadexec_sandbox.E{number:03}" for number in range(1, 4)]


def test_each_id_has_its_section_and_each_section_its_id() -> None:
    names = ("conf.py", "setting_rules.py", "checks.py", "surroundings.py", "sandbox/checks.py")
    ids = {code for name in names for code in codes_in(name)}
    text = (DOCS / "checks.md").read_text("utf-8")
    sections = re.findall(r'^### <a id="(.+)"></a>(\S+)$', text, re.MULTILINE)
    assert sorted(code for _, code in sections) == sorted(ids)
    for anchor, code in sections:
        assert anchor == code.replace(".", "-").replace("_", "-").lower()


def test_a_hint_of_the_sandbox_names_its_section_too(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apps.get_app_config("leadexec_sandbox"), "debug_at_start", False)
    settings.LEADEXEC_SANDBOX = {"WRONG": 1, "ACCESS_TOKEN_LIFETIME": 0}
    for message, number in zip(check_sandbox(), "123", strict=True):
        assert message.id == f"leadexec_sandbox.E00{number}"
        assert str(message.hint).endswith(f". See {PAGE}#leadexec-sandbox-e00{number}")


# Scripts


# Not what is built of them.
BUILT = {"leadexec.esm.js", "leadexec.min.js"}
SCRIPTS = sorted(
    [
        *(path for path in PACKAGE.rglob("*.js") if path.name not in BUILT),
        *(PACKAGE.parent / "frontend").glob("*.js"),
    ]
)
# The markup that the site's own template has made.
ALLOWED = {"module.js": ["innerHTML"]}
# Each turns a text into markup or code.
UNSAFE = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|createContextualFragment|setHTMLUnsafe|srcdoc"
    r"|document\.write|\beval\b|\bFunction\s*\(|set(?:Timeout|Interval)\(\s*[\"'`]"
    r"|setAttribute\(\s*[\"'`]on|\.on\w+\s*="
)


def code_of(script: str) -> str:
    """A script without its comments."""
    return re.sub(r"/\*.*?\*/|(?<!:)//[^\n]*", "", script, flags=re.DOTALL)


def test_there_are_scripts_to_look_at() -> None:
    assert {"leadexec.js", "module.js", "le-app-button.js", "answer.js"} <= {
        path.name for path in SCRIPTS
    }


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_makes_markup_or_code_of_text(path: Path) -> None:
    assert UNSAFE.findall(code_of(path.read_text("utf-8"))) == ALLOWED.get(path.name, [])


@pytest.mark.parametrize(
    "line",
    [
        "node.innerHTML = words;",
        "node.outerHTML = words;",
        "node.insertAdjacentHTML('beforeend', words);",
        "document.write(words);",
        "document.writeln(words);",
        "eval(words);",
        "new Function(words);",
        'setTimeout("run()", 5);',
        "node.onclick = run;",
    ],
)
def test_the_look_finds_what_it_looks_for(line: str) -> None:
    assert UNSAFE.search(code_of(f"/* fine */ {line} // fine"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_messages_between_windows_name_their_origin(path: Path) -> None:
    script = code_of(path.read_text("utf-8"))
    assert not re.search(r"postMessage\([^;]*[\"'`]\*[\"'`]", script)
    if re.search(r"[\"']message[\"']", script):
        assert "event.origin !== " in script
