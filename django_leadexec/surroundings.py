"""Faults of a site that is not quite set up: sample ids, log-in page, static files."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from typing import Any
from urllib.parse import urlsplit

from django.apps import apps
from django.conf import settings
from django.contrib.staticfiles import finders
from django.contrib.staticfiles.storage import ManifestFilesMixin, staticfiles_storage
from django.core.files.storage import FileSystemStorage
from django.shortcuts import resolve_url
from django.urls import NoReverseMatch, Resolver404, get_script_prefix, resolve
from django.utils.translation import get_language

from .conf import Problem, Settings, find_problems, get_settings, origin

# The button needs both.
STATIC_FILES = ("django_leadexec/leadexec.min.js", "django_leadexec/leadexec.min.css")

# Ids that documents and templates use in place of one. Whole values, without brackets and quotes.
_SAMPLE = re.compile(
    r"…|\.{3}|x{2,}|(?:my|your)[-_ ].+|todo.*|change[-_ ]?me|placeholder|none|null"
    r"|(?:leadexec[-_ ])?(?:app(?:lication)?|button|btn)[-_ ]?id",
    re.IGNORECASE,
)
# The provider, unless the setting names another.
_LEADEXEC = next(field.default for field in fields(Settings) if field.name == "base_url")


def find_sample_ids() -> Iterator[Problem]:
    """W009: the ids of a document instead of the site's own."""
    if find_problems():
        return
    conf = get_settings()
    # The sandbox takes any id.
    if origin(conf.base_url) != _LEADEXEC:
        return
    for key, value in (("APP_ID", conf.app_id), ("BUTTON_ID", conf.button_id)):
        if _SAMPLE.fullmatch(value.strip(" '\"<>[](){}")):
            yield Problem(
                "W009",
                f"LEADEXEC[{key!r}] looks like the sample of a document: {value!r}.",
                "LeadExec knows no such id, so nobody can connect. Set the one that LeadExec gave "
                "you as an application partner (support@clickpointsoftware.com). To develop "
                "without an account, use the sandbox: add 'django_leadexec.sandbox' to "
                "INSTALLED_APPS, include its URLs, and set LEADEXEC['BASE_URL'] to where they are.",
            )


def find_missing_login_page() -> Iterator[Problem]:
    """W010: a LOGIN_URL that leads nowhere."""
    login_url = settings.LOGIN_URL
    if getattr(settings, "ROOT_URLCONF", None) and not _leads_somewhere(login_url):
        # A lazy one that can't be reversed can't be shown either.
        value = repr(login_url) if isinstance(login_url, str) else "the name can't be reversed"
        yield Problem(
            "W010",
            f"LOGIN_URL leads nowhere: {value}.",
            "Visitors who aren't logged in are sent there before they can connect, and see a 404. "
            "Set LOGIN_URL to the name or path of your log-in page. Without one, 'admin:login' "
            "serves for staff, or add path('accounts/', include('django.contrib.auth.urls')) to "
            "your URLs and write the template registration/login.html.",
        )


def find_missing_static_files() -> Iterator[Problem]:
    """W011: script and style of the button that nothing serves."""
    if not apps.is_installed("django.contrib.staticfiles"):
        fault = "django.contrib.staticfiles is not installed"
        remedy = (
            "Add 'django.contrib.staticfiles' to INSTALLED_APPS. Or copy the files to where "
            "STATIC_URL leads, and silence this check."
        )
    elif any(finders.find(name) is None for name in STATIC_FILES):
        fault = "no staticfiles finder finds them"
        remedy = (
            "Add 'django.contrib.staticfiles.finders.AppDirectoriesFinder' to STATICFILES_FINDERS."
        )
    else:
        return
    yield Problem(
        "W011",
        f"Nothing serves {' and '.join(STATIC_FILES)}: {fault}.",
        f"Without them the button does nothing. {remedy}",
    )


def find_uncollected_files() -> Iterator[Problem]:
    """W012: script and style of the button that collectstatic has not collected."""
    if not apps.is_installed("django.contrib.staticfiles"):
        return
    if missing := [name for name in STATIC_FILES if not _is_collected(name)]:
        yield Problem(
            "W012",
            f"The static files are not collected: {' and '.join(missing)}.",
            "Without them the button does nothing, and with a manifest storage each page with the "
            "button fails. Set STATIC_ROOT, and run manage.py collectstatic at each deployment, "
            "before the server starts.",
        )


def _leads_somewhere(login_url: Any) -> bool:
    try:
        url = resolve_url(login_url)
    except NoReverseMatch:
        return False
    parts = urlsplit(url)
    # Another host, such as that of a single sign-on, is not asked.
    return bool(parts.netloc) or any(_is_ours(path) for path in _readings(parts.path))


def _readings(path: str) -> Iterator[str]:
    """The paths that Django may serve for this one: without the script's, redirected."""
    prefix = get_script_prefix()
    if path.startswith(prefix):
        path = f"/{path.removeprefix(prefix)}"
    for found in (path, f"/{get_language()}{path}"):
        yield found
        if settings.APPEND_SLASH:
            yield f"{found}/"


def _is_ours(path: str) -> bool:
    with suppress(Resolver404):
        resolve(path)
        return True
    return False


def _is_collected(name: str) -> bool:
    storage: Any = staticfiles_storage
    if isinstance(storage, ManifestFilesMixin):
        return storage.hash_key(storage.clean_name(name)) in storage.hashed_files
    if isinstance(storage, FileSystemStorage):
        return bool(storage.location) and storage.exists(name)
    # One on another machine is not asked.
    return True
