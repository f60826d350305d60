"""The checks of a site that is not quite set up."""

import io
from pathlib import Path
from typing import Any

import pytest
from django.core import checks
from django.core.management import call_command
from django.http import HttpResponse
from django.urls import include, path, reverse_lazy
from django.urls.base import set_script_prefix
from pytest_django import Settings

from django_leadexec.checks import check_deployment, check_surroundings
from django_leadexec.conf import new_key

GOOD: dict[str, Any] = {"APP_ID": "4f7", "BUTTON_ID": "81c", "ENCRYPTION_KEYS": [new_key()]}


def log_in(request: object) -> HttpResponse:
    return HttpResponse()


class Urls:
    """A URLconf of one log-in page."""

    urlpatterns = [
        path("enter/", log_in, name="enter"),
        path("inner/", include(([path("door", log_in, name="door")], "inner"))),
    ]


@pytest.fixture(autouse=True)
def site(settings: Settings, tmp_path: Path) -> None:
    """Settings that no check finds fault with."""
    settings.LEADEXEC = GOOD
    settings.ROOT_URLCONF = Urls
    settings.LOGIN_URL = "/enter/"
    settings.STATIC_ROOT = tmp_path


def found() -> list[str]:
    return [str(message.id) for message in check_surroundings(None)]


def test_a_complete_site_passes() -> None:
    assert found() == []


@pytest.mark.django_db
def test_the_checks_are_registered(settings: Settings) -> None:
    settings.LOGIN_URL = "/nowhere/"
    ids = [message.id for message in checks.run_checks()]
    assert "leadexec.W010" in ids
    printed = io.StringIO()
    call_command("check", stderr=printed)
    assert "see a 404" in printed.getvalue()


# Ids


@pytest.mark.parametrize(
    "value",
    [
        "…",
        "...",
        "your-app-id",
        "YOUR_APP_ID",
        "Your application id",
        "<your-app-id>",
        "my-button",
        "APP_ID",
        "BTN_ID",
        "button-id",
        "applicationId",
        "LEADEXEC_APP_ID",
        "{{ app_id }}",
        "xxx",
        "TODO",
        "todo: ask them",
        "changeme",
        "change-me",
        "None",
    ],
)
def test_a_sample_in_place_of_an_id_is_warned_of(settings: Settings, value: str) -> None:
    settings.LEADEXEC = GOOD | {"APP_ID": value}
    [message] = check_surroundings(None)
    assert message.id == "leadexec.W009"
    assert "APP_ID" in message.msg
    settings.LEADEXEC = GOOD | {"APP_ID": value, "BUTTON_ID": value}
    assert found() == ["leadexec.W009", "leadexec.W009"]


@pytest.mark.parametrize("value", ["4f7", "demo-app", "app", "x", "exxon", "yourself", "nonesuch"])
def test_what_may_be_an_id_is_not_warned_of(settings: Settings, value: str) -> None:
    settings.LEADEXEC = GOOD | {"APP_ID": value, "BUTTON_ID": value}
    assert found() == []


def test_the_sandbox_takes_any_id(settings: Settings) -> None:
    settings.DEBUG = True
    samples = {"APP_ID": "…", "BUTTON_ID": "…"}
    settings.LEADEXEC = GOOD | samples | {"BASE_URL": "http://127.0.0.1:8000/sandbox"}
    assert found() == []
    settings.LEADEXEC = GOOD | samples | {"BASE_URL": "https://apps.leadexec.net/"}
    assert found() == ["leadexec.W009", "leadexec.W009"]


def test_a_faulty_setting_is_left_to_its_own_check(settings: Settings) -> None:
    settings.LEADEXEC = {"APP_ID": "…"}
    assert found() == []


# The log-in page


@pytest.mark.parametrize(
    "login_url",
    [
        "/enter/",
        "/enter/?from=leadexec#form",
        "/enter",  # Django appends the slash
        "enter",
        "inner:door",
        reverse_lazy("enter"),
        "https://login.example.org/nowhere/",
        "//login.example.org/",
    ],
)
def test_a_login_url_that_leads_somewhere_is_fine(settings: Settings, login_url: object) -> None:
    settings.LOGIN_URL = login_url
    assert found() == []


@pytest.mark.parametrize(
    "login_url",
    [
        "/accounts/login/",  # Django's default
        "/enter/more/",
        "enter/",  # relative to the page, wherever that is
        "/inner/door/",
        "nowhere",
        "inner:nowhere",
        "nowhere:door",
        reverse_lazy("nowhere"),
        "",
    ],
)
def test_a_login_url_that_leads_nowhere_is_warned_of(settings: Settings, login_url: object) -> None:
    settings.LOGIN_URL = login_url
    assert found() == ["leadexec.W010"]


def test_a_missing_slash_is_only_made_good_where_django_does_so(settings: Settings) -> None:
    settings.LOGIN_URL = "/enter"
    settings.APPEND_SLASH = False
    assert found() == ["leadexec.W010"]


def test_a_page_below_a_language_counts(settings: Settings) -> None:
    from django.conf.urls.i18n import i18n_patterns

    class Translated:
        urlpatterns = i18n_patterns(path("enter/", log_in, name="enter"))

    settings.ROOT_URLCONF = Translated
    for login_url in ("enter", "/enter/", "/enter", "/en-us/enter/"):
        settings.LOGIN_URL = login_url
        assert found() == []
    settings.LOGIN_URL = "/nowhere/"
    assert found() == ["leadexec.W010"]


def test_a_site_below_a_path_counts(settings: Settings) -> None:
    set_script_prefix("/shop/")
    try:
        for login_url in ("enter", "/shop/enter/", "/enter/"):
            settings.LOGIN_URL = login_url
            assert found() == []
    finally:
        set_script_prefix("/")


def test_a_project_without_urls_has_no_page_to_look_for(settings: Settings) -> None:
    settings.LOGIN_URL = "/nowhere/"
    settings.ROOT_URLCONF = None
    assert found() == []


# Static files


def test_files_that_no_finder_finds_are_warned_of(settings: Settings) -> None:
    settings.STATICFILES_FINDERS = ["django.contrib.staticfiles.finders.FileSystemFinder"]
    [message] = check_surroundings(None)
    assert message.id == "leadexec.W011"
    assert "AppDirectoriesFinder" in str(message.hint)


def test_a_site_without_staticfiles_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django.apps.apps.is_installed", lambda name: "staticfiles" not in name)
    [message] = check_surroundings(None)
    assert message.id == "leadexec.W011"
    assert "INSTALLED_APPS" in str(message.hint)
    assert "leadexec.W012" not in deployed()


def deployed() -> list[str]:
    return [str(message.id) for message in check_deployment(None)]


STORAGES = {
    "plain": "django.contrib.staticfiles.storage.StaticFilesStorage",
    "manifest": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage",
}


@pytest.mark.parametrize("backend", STORAGES.values(), ids=STORAGES)
def test_files_that_are_not_collected_are_warned_of(settings: Settings, backend: str) -> None:
    settings.STORAGES = settings.STORAGES | {"staticfiles": {"BACKEND": backend}}
    assert "leadexec.W012" in deployed()
    assert found() == []  # while one develops, runserver finds them
    call_command("collectstatic", interactive=False, verbosity=0)
    settings.STORAGES = dict(settings.STORAGES)  # another process, which reads the manifest
    assert "leadexec.W012" not in deployed()


def test_a_site_without_a_place_for_them_has_collected_none(settings: Settings) -> None:
    settings.STATIC_ROOT = None
    assert "leadexec.W012" in deployed()


def test_a_storage_on_another_machine_is_not_asked(settings: Settings) -> None:
    backend = "django.core.files.storage.InMemoryStorage"
    settings.STORAGES = settings.STORAGES | {"staticfiles": {"BACKEND": backend}}
    assert "leadexec.W012" not in deployed()


# Without a network


def test_each_hint_says_what_to_do_without_its_link(settings: Settings) -> None:
    settings.LEADEXEC = GOOD | {"APP_ID": "…"}
    settings.LOGIN_URL = "/nowhere/"
    settings.STATIC_ROOT = None
    for message in [*check_surroundings(None), *check_deployment(None)]:
        advice, _, link = str(message.hint).partition(" See https://")
        assert link
        assert any(
            word in advice for word in ("Set ", "set ", "Add ", "add ", "Use ", "Turn ", "run ")
        )
