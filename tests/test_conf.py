import traceback
from collections import UserDict
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import FrozenInstanceError, fields
from types import MappingProxyType
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from pytest_django import Settings

from django_leadexec import conf
from django_leadexec.conf import find_problems, get_settings, new_key, origin
from django_leadexec.setting_rules import RULES, parse_rate

KEY = new_key()
GOOD: dict[str, Any] = {"APP_ID": "app", "BUTTON_ID": "button", "ENCRYPTION_KEYS": [KEY]}
CANARY = "CanaryValue"


def codes() -> list[str]:
    return [problem.code for problem in find_problems()]


@pytest.fixture(autouse=True)
def good(settings: Settings) -> None:
    settings.DEBUG = False
    settings.LEADEXEC = GOOD


def test_the_required_keys_are_enough() -> None:
    assert codes() == []
    conf = get_settings()
    assert (conf.app_id, conf.button_id, conf.encryption_keys) == ("app", "button", (KEY,))


def test_what_is_not_set_has_its_documented_default() -> None:
    conf = get_settings()
    defaults = {
        field.name: getattr(conf, field.name)
        for field in fields(conf)
        if field.name not in ("app_id", "button_id", "encryption_keys")
    }
    assert defaults == {
        "base_url": "https://apps.leadexec.net",
        "account_api_url": "https://api.leadexec.net",
        "data_api_url": "https://apidata.leadexec.net",
        "timeout": 10,
        "refresh_margin": 600,
        "sign_in": False,
        "identify": None,
        "create_user": None,
        "callback_rate": "20/m",
    }


def test_the_known_keys_are_the_documented_ones() -> None:
    assert set(RULES) == {field.name.upper() for field in fields(conf.Settings)}


def test_what_is_set_is_what_is_read(settings: Settings) -> None:
    keys = [new_key(), new_key()]
    settings.LEADEXEC = {
        "APP_ID": "a",
        "BUTTON_ID": "b",
        "ENCRYPTION_KEYS": keys,
        "BASE_URL": "https://sandbox.test/leadexec/",
        "ACCOUNT_API_URL": "HTTPS://API.test:443/",
        "DATA_API_URL": "https://data.test:8443/Lead-data/v_1.0/~x/",
        "TIMEOUT": 2.5,
        "REFRESH_MARGIN": 60,
        "SIGN_IN": True,
        "IDENTIFY": "site.accounts.identify",
        "CREATE_USER": "site.accounts.create",
        "CALLBACK_RATE": "5/h",
    }
    assert get_settings() == conf.Settings(
        app_id="a",
        button_id="b",
        encryption_keys=tuple(keys),
        base_url="https://sandbox.test/leadexec",
        account_api_url="https://api.test",
        data_api_url="https://data.test:8443/Lead-data/v_1.0/~x",
        timeout=2.5,
        refresh_margin=60,
        sign_in=True,
        identify="site.accounts.identify",
        create_user="site.accounts.create",
        callback_rate="5/h",
    )


def test_the_providers_files_lie_under_the_base_url(settings: Settings) -> None:
    settings.LEADEXEC = GOOD | {"BASE_URL": "https://sandbox.test/leadexec/"}
    assert get_settings().script_url == "https://sandbox.test/leadexec/js/le-app-button.js"
    assert get_settings().stylesheet_url == "https://sandbox.test/leadexec/css/le-app-button.css"


# Each rule

BAD: dict[str, dict[str, list[object]]] = {
    "E003": {"APP_ID": ["", " ", None, 5, b"app", ["app"], "a\nb", "a\x00", "x" * 101]},
    "E004": {"BUTTON_ID": ["", "\t", None, 5, True, "a\nb"]},
    "E005": {
        "ENCRYPTION_KEYS": [
            KEY,
            [],
            (),
            None,
            {KEY},
            {KEY: 1},
            [""],
            ["short"],
            [KEY[:-2]],
            [KEY, "short"],
            [KEY, None],
            [KEY.encode()],
            [5],
            "é",
        ]
    },
    "E006": {
        "BASE_URL": [
            None,
            "",
            5,
            "apps.leadexec.net",
            "//apps.leadexec.net",
            "ftp://apps.leadexec.net",
            "https://",
            "https://user:secret@apps.leadexec.net",
            "https://user@apps.leadexec.net",
            "https://apps.leadexec.net?a=b",
            "https://apps.leadexec.net?",
            "https://apps.leadexec.net/#part",
            "https://apps.leadexec.net#",
            "https://apps.leadexec.net:port",
            "https://apps.leadexec.net:99999",
            "https://[::zz]",
            "https://[::1",
            "https://apps leadexec.net",
            "https://apps.leadexec.net\\@evil.test",
            "https://apps.leadexec.net\n",
            "https://äpps.leadexec.net",
            ["https://apps.leadexec.net"],
        ]
    },
    "E008": {"TIMEOUT": [None, 0, 0.05, -1, 121, "10", True, float("nan"), float("inf"), [10]]},
    "E009": {"REFRESH_MARGIN": [None, -1, 3_001, 60.0, "600", True]},
    "E010": {"SIGN_IN": [None, 0, 1, "yes", "True"]},
    "E011": {"IDENTIFY": ["", "identify", "a.b-c", "a..b", ".a", "a.", "a b.c", len, True, 5]},
    "E012": {
        "CALLBACK_RATE": [
            *(None, 20, "", "20", "20/", "/m", "0/m", "-1/m", "20/minute", "m/20"),
            *("20 / m", "2.5/m", "٢٠/m", "²/m", "20/M", "20/m/m"),
        ]
    },
    "E015": {"CREATE_USER": ["", "create", "a.b-c", "a..b", len, True]},
}


BAD_PATHS = [
    *("//", "/v1//", "//v1", "/v1//leads", "/.", "/..", "/v1/..", "/../v1", "/v1/./leads"),
    *("/%2e%2e", "/v1%2fleads", "/v%31", "/v1;a", "/v1/..;/", "/v1\\leads", "/v1?", "/v1#", "/v 1"),
    *("/v1/*", "/v1/@", "/vé", "/v1\n"),
]
for code, key in (("E020", "ACCOUNT_API_URL"), ("E021", "DATA_API_URL")):
    urls = [f"https://api.test{path}" for path in BAD_PATHS]
    listed = (["https://api.test"], ("https://api.test",), b"https://api.test")
    BAD[code] = {key: [*BAD["E006"]["BASE_URL"], *urls, *listed]}

BAD_VALUES = [
    pytest.param(code, key, value, id=f"{key}-{number}")
    for code, keys in BAD.items()
    for key, values in keys.items()
    for number, value in enumerate(values)
]


@pytest.mark.parametrize(("code", "key", "value"), BAD_VALUES)
def test_a_bad_value_is_a_problem_that_names_its_key(
    settings: Settings, code: str, key: str, value: object
) -> None:
    settings.LEADEXEC = GOOD | {key: value}
    [problem] = find_problems()
    assert problem.code == code
    assert problem.message == f"LEADEXEC[{key!r}] is not valid."
    assert problem.hint
    with pytest.raises(ImproperlyConfigured, match=key):
        get_settings()


@pytest.mark.parametrize("value", [None, "", "app", ["APP_ID"], 5, [("APP_ID", "a")]])
def test_a_setting_that_is_no_dict_is_a_problem(settings: Settings, value: object) -> None:
    settings.LEADEXEC = value
    assert codes() == ["E001"]


def test_a_missing_setting_is_a_problem(settings: Settings) -> None:
    del settings.LEADEXEC
    assert codes() == ["E001"]
    with pytest.raises(ImproperlyConfigured, match="LEADEXEC is missing"):
        get_settings()


def test_the_hint_for_a_missing_setting_has_a_key_ready_to_paste(settings: Settings) -> None:
    del settings.LEADEXEC
    [problem] = find_problems()
    start = problem.hint.index("'ENCRYPTION_KEYS': ['") + len("'ENCRYPTION_KEYS': ['")
    Fernet(problem.hint[start:].partition("'")[0])


def test_an_unknown_key_is_a_problem_that_lists_the_known_ones(settings: Settings) -> None:
    settings.LEADEXEC = GOOD | {"APPID": "x", "app_id": "y"}
    problems = find_problems()
    assert [problem.code for problem in problems] == ["E002", "E002"]
    assert problems[0].message == "LEADEXEC has an unknown key 'APPID'."
    assert all(key in problems[0].hint for key in RULES)


@pytest.mark.parametrize(
    ("key", "code"), [("APP_ID", "E003"), ("BUTTON_ID", "E004"), ("ENCRYPTION_KEYS", "E005")]
)
def test_a_missing_required_key_is_a_problem(settings: Settings, key: str, code: str) -> None:
    settings.LEADEXEC = {name: value for name, value in GOOD.items() if name != key}
    [problem] = find_problems()
    assert problem.code == code
    assert problem.message == f"LEADEXEC[{key!r}] is missing."


def test_the_hint_for_missing_keys_has_one_ready_to_paste(settings: Settings) -> None:
    settings.LEADEXEC = {"APP_ID": "a", "BUTTON_ID": "b"}
    first, second = find_problems()[0].hint, find_problems()[0].hint
    key = first.rpartition("ready to paste: '")[2].partition("'")[0]
    Fernet(key)
    assert key not in second


def test_all_problems_are_reported_at_once(settings: Settings) -> None:
    settings.LEADEXEC = {"APP_ID": "", "TIMEOUT": 0, "OTHER": 1}
    assert codes() == ["E002", "E003", "E004", "E005", "E008"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"BASE_URL": "http://apps.leadexec.net"}, ["E013"]),
        ({"BASE_URL": "HTTP://apps.leadexec.net"}, ["E013"]),
        ({"ACCOUNT_API_URL": "http://api.leadexec.net"}, ["E013"]),
        ({"DATA_API_URL": "http://127.0.0.1:8000/sandbox/data-api"}, ["E013"]),
        ({"BASE_URL": "http://a.test", "DATA_API_URL": "http://b.test"}, ["E013", "E013"]),
        ({"BASE_URL": "HTTPS://apps.leadexec.net"}, []),
    ],
)
def test_http_is_a_problem_outside_debug(
    settings: Settings, changes: dict[str, Any], expected: list[str]
) -> None:
    settings.LEADEXEC = GOOD | changes
    assert codes() == expected
    settings.DEBUG = True
    assert codes() == []


def test_a_test_runner_that_switches_debug_off_leaves_the_sandbox_usable(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.LEADEXEC = GOOD | {"BASE_URL": "http://127.0.0.1:8000/sandbox"}
    monkeypatch.setattr(conf, "debug_at_start", True)
    assert get_settings().base_url == "http://127.0.0.1:8000/sandbox"
    monkeypatch.setattr(conf, "debug_at_start", False)
    with pytest.raises(ImproperlyConfigured, match="BASE_URL"):
        get_settings()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"SIGN_IN": True},
        {"IDENTIFY": "a.identify"},
        {"SIGN_IN": False, "IDENTIFY": "a.identify"},
        {"SIGN_IN": True, "IDENTIFY": None},
    ],
)
def test_create_user_needs_sign_in_and_identify(
    settings: Settings, changes: dict[str, Any]
) -> None:
    settings.LEADEXEC = GOOD | {"CREATE_USER": "a.create"} | changes
    assert codes() == ["E014"]


@pytest.mark.parametrize(
    "changes",
    [
        {"CREATE_USER": "a.create", "SIGN_IN": True, "IDENTIFY": "a.identify"},
        {"CREATE_USER": None, "IDENTIFY": None},
        {"ENCRYPTION_KEYS": (KEY,)},
        {"ENCRYPTION_KEYS": [KEY, new_key(), KEY]},
        {"ACCOUNT_API_URL": "https://[::1]:8443/", "DATA_API_URL": "https://127.0.0.1"},
        {"ACCOUNT_API_URL": "https://a.test", "DATA_API_URL": "https://a.test"},
        {"DATA_API_URL": "https://a.test/..a/b../c.d/"},
        {"BASE_URL": "https://apps.leadexec.net:8443/a/b/"},
        {"TIMEOUT": 0.1},
        {"TIMEOUT": 120},
        {"REFRESH_MARGIN": 0},
        {"REFRESH_MARGIN": 3_000},
        {"CALLBACK_RATE": "1/s"},
        {"CALLBACK_RATE": "1000/d"},
        {"APP_ID": "größe " + "x" * 94},
    ],
)
def test_good_values_are_no_problem(settings: Settings, changes: dict[str, Any]) -> None:
    settings.LEADEXEC = GOOD | changes
    assert codes() == []
    get_settings()


class PerTenant(UserDict[str, Any]):
    """Values that depend on a context variable."""

    tenant = ContextVar("tenant", default="first")

    def __getitem__(self, key: str) -> Any:
        return f"{self.tenant.get()}-app" if key == "APP_ID" else super().__getitem__(key)


@pytest.mark.parametrize("value", [MappingProxyType(GOOD), PerTenant(GOOD)])
def test_a_mapping_whose_values_may_change_with_the_tenant_is_refused(
    settings: Settings, value: Mapping[str, Any]
) -> None:
    settings.LEADEXEC = GOOD
    get_settings()
    settings.LEADEXEC = value
    [problem] = find_problems()
    assert problem.code == "E001"
    assert problem.message == f"LEADEXEC must be a dict, not {type(value).__name__}."
    assert "Use a plain dict" in problem.hint
    assert "ENCRYPTION_KEYS" not in problem.hint
    with pytest.raises(ImproperlyConfigured, match="LEADEXEC must be a dict"):
        get_settings()


@pytest.mark.parametrize(
    ("good", "bad"), [({"SIGN_IN": True}, {"SIGN_IN": 1}), ({"TIMEOUT": 1}, {"TIMEOUT": True})]
)
def test_a_wrong_type_is_refused_after_an_equal_value_of_the_right_one(
    settings: Settings, good: dict[str, Any], bad: dict[str, Any]
) -> None:
    settings.LEADEXEC = GOOD | good
    get_settings()
    settings.LEADEXEC = GOOD | bad
    with pytest.raises(ImproperlyConfigured):
        get_settings()


# What is in force


def test_an_override_takes_effect_at_once() -> None:
    assert get_settings().timeout == 10
    with override_settings(LEADEXEC=GOOD | {"TIMEOUT": 3}):
        assert get_settings().timeout == 3
        with override_settings(LEADEXEC=GOOD | {"TIMEOUT": 4}):
            assert get_settings().timeout == 4
        assert get_settings().timeout == 3
    assert get_settings().timeout == 10


def test_a_change_in_place_takes_effect_at_once(settings: Settings) -> None:
    settings.LEADEXEC = {**GOOD, "ENCRYPTION_KEYS": [KEY]}
    get_settings()
    settings.LEADEXEC["TIMEOUT"] = 3
    assert get_settings().timeout == 3
    other = new_key()
    settings.LEADEXEC["ENCRYPTION_KEYS"].insert(0, other)
    assert get_settings().encryption_keys == (other, KEY)
    settings.LEADEXEC["DATA_API_URL"] = "https://b.test"
    assert get_settings().data_api_url == "https://b.test"
    del settings.LEADEXEC["APP_ID"]
    with pytest.raises(ImproperlyConfigured):
        get_settings()
    settings.LEADEXEC["APP_ID"] = "app"
    assert get_settings().app_id == "app"


def test_switching_debug_off_takes_effect_at_once(settings: Settings) -> None:
    settings.DEBUG = True
    settings.LEADEXEC = GOOD | {"BASE_URL": "http://127.0.0.1:8000/sandbox"}
    assert get_settings().base_url == "http://127.0.0.1:8000/sandbox"
    settings.DEBUG = False
    with pytest.raises(ImproperlyConfigured, match="BASE_URL"):
        get_settings()


def test_a_bad_setting_is_bad_at_each_use(settings: Settings) -> None:
    get_settings()
    settings.LEADEXEC = GOOD | {"TIMEOUT": 0}
    for _ in range(2):
        with pytest.raises(ImproperlyConfigured):
            get_settings()


def test_unchanged_settings_are_read_once() -> None:
    assert get_settings() is get_settings()


def test_settings_can_not_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        get_settings().timeout = 1  # type: ignore[misc]


# What is shown


def test_a_repr_shows_no_key() -> None:
    assert repr(get_settings()) == ("<Settings app_id='app' base_url='https://apps.leadexec.net'>")
    assert KEY not in f"{get_settings()} {get_settings()!r}"


def test_improperly_configured_shows_no_value(settings: Settings) -> None:
    settings.LEADEXEC = {
        "APP_ID": [CANARY],
        "BUTTON_ID": [CANARY],
        "ENCRYPTION_KEYS": [CANARY],
        "BASE_URL": f"https://{CANARY}:{CANARY}@host",
        "ACCOUNT_API_URL": f"https://{CANARY}/..",
        "DATA_API_URL": [CANARY],
        "TIMEOUT": CANARY,
        "REFRESH_MARGIN": CANARY,
        "SIGN_IN": CANARY,
        "IDENTIFY": CANARY,
        "CREATE_USER": CANARY,
        "CALLBACK_RATE": CANARY,
        "UNKNOWN": CANARY,
    }
    with pytest.raises(ImproperlyConfigured) as caught:
        get_settings()
    assert CANARY not in str(caught.value)
    assert all(key in str(caught.value) for key in RULES)
    assert "manage.py check" in str(caught.value)
    assert not any(CANARY in problem.message + problem.hint for problem in find_problems())


def test_a_contradiction_shows_no_value(settings: Settings) -> None:
    settings.LEADEXEC = GOOD | {
        "BASE_URL": f"http://{CANARY}.test",
        "CREATE_USER": f"site.{CANARY}",
    }
    with pytest.raises(ImproperlyConfigured) as caught:
        get_settings()
    assert CANARY not in str(caught.value)
    assert not any(CANARY in problem.message + problem.hint for problem in find_problems())


def test_an_error_page_with_the_locals_of_each_frame_shows_no_key(settings: Settings) -> None:
    settings.LEADEXEC = GOOD | {"APP_ID": ""}
    with pytest.raises(ImproperlyConfigured) as caught:
        get_settings()
    frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    theirs = [frame for frame in frames.stack if frame.filename != __file__]
    assert theirs
    assert KEY not in repr([frame.locals for frame in theirs])


# Helpers


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://api.leadexec.net", "https://api.leadexec.net"),
        ("https://api.leadexec.net/", "https://api.leadexec.net"),
        ("https://api.leadexec.net/a?b=c#d", "https://api.leadexec.net"),
        ("HTTPS://API.LeadExec.net:443/a", "https://api.leadexec.net"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
        ("http://127.0.0.1:443", "http://127.0.0.1:443"),
        ("https://api.leadexec.net:8443", "https://api.leadexec.net:8443"),
        ("https://api.leadexec.net:0", "https://api.leadexec.net:0"),
        ("https://[::1]:8443/x", "https://[::1]:8443"),
        ("https://[2001:DB8::1]", "https://[2001:db8::1]"),
        ("https://user:pass@api.leadexec.net", "https://api.leadexec.net"),
        ("https://api.leadexec.net@evil.test", "https://evil.test"),
        ("https://api.leadexec.net.", "https://api.leadexec.net."),
        ("", "://"),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, expected: str) -> None:
    assert origin(url) == expected


@pytest.mark.parametrize(
    ("rate", "expected"),
    [("20/m", (20, 60)), ("1/s", (1, 1)), ("5/h", (5, 3_600)), ("007/d", (7, 86_400))],
)
def test_a_rate_is_a_count_and_seconds(rate: str, expected: tuple[int, int]) -> None:
    assert parse_rate(rate) == expected


def test_a_bad_rate_says_how_one_is_written() -> None:
    with pytest.raises(ValueError, match="20/m"):
        parse_rate("20")


def test_each_new_key_is_another() -> None:
    assert len({new_key() for _ in range(10)}) == 10
