"""``manage.py check``: what is wrong with the configuration, and how to mend it."""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings
from django.core import checks
from django.template import engines
from django.template.backends.django import DjangoTemplates
from django.utils.module_loading import import_string

from .conf import Problem, find_problems, get_settings

BACKEND = "django_leadexec.backends.LeadExecBackend"
POPUP_POLICIES = ("same-origin-allow-popups", "unsafe-none", None)


def check_configuration(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Faults of the setting and of its surroundings: each keeps the app from working."""
    problems = find_problems()
    if problems:
        return [_message(checks.Error, problem) for problem in problems]
    return [_message(checks.Error, problem) for problem in _find_faults()]


def check_deployment(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Advice for production (``check --deploy``)."""
    return [_message(checks.Warning, problem) for problem in _find_risks()]


def _find_faults() -> list[Problem]:
    conf = get_settings()
    faults = []
    for key, path in (("IDENTIFY", conf.identify), ("CREATE_USER", conf.create_user)):
        if path and not _can_import(path):
            faults.append(
                Problem(
                    "E016",
                    f"LEADEXEC[{key!r}] names {path!r}, which can't be imported or called.",
                    "Give the dotted path of a function.",
                )
            )
    if conf.sign_in and BACKEND not in settings.AUTHENTICATION_BACKENDS:
        faults.append(
            Problem(
                "E017",
                "LEADEXEC['SIGN_IN'] is on, but its authentication backend is missing.",
                f"Add {BACKEND!r} to AUTHENTICATION_BACKENDS, after the ones that are there.",
            )
        )
    faults += [
        Problem(
            "E018",
            f"django_leadexec needs {app!r}.",
            f"Add {app!r} to INSTALLED_APPS.",
        )
        for app in ("django.contrib.auth", "django.contrib.sessions")
        if not apps.is_installed(app)
    ]
    return faults


def _find_risks() -> list[Problem]:
    risks = []
    if getattr(settings, "SECURE_CROSS_ORIGIN_OPENER_POLICY", None) not in POPUP_POLICIES:
        risks.append(
            Problem(
                "W001",
                "SECURE_CROSS_ORIGIN_OPENER_POLICY cuts a popup off from the page that opened it.",
                "If LeadExec's dialog is a popup, its answer never arrives. Set "
                "SECURE_CROSS_ORIGIN_OPENER_POLICY = 'same-origin-allow-popups'.",
            )
        )
    if not settings.SESSION_COOKIE_SECURE:
        risks.append(
            Problem(
                "W002",
                "SESSION_COOKIE_SECURE is off.",
                "A link that waits for its user lies in the session, and so does the user's "
                "identity. Set SESSION_COOKIE_SECURE = True.",
            )
        )
    if not _has_request_processor():
        risks.append(
            Problem(
                "W003",
                "No template engine has the request context processor.",
                "{% leadexec_button %} needs it: add 'django.template.context_processors.request' "
                "to the engine's OPTIONS['context_processors'].",
            )
        )
    cache = settings.CACHES.get("default", {}).get("BACKEND", "")
    if cache.endswith(("LocMemCache", "DummyCache")):
        risks.append(
            Problem(
                "W004",
                "The default cache is not shared between processes.",
                "LEADEXEC['CALLBACK_RATE'] then holds for each process by itself, or not at all. "
                "Use a shared cache, such as Redis or Memcached.",
            )
        )
    return risks


def _has_request_processor() -> bool:
    django_engines = [engine for engine in engines.all() if isinstance(engine, DjangoTemplates)]
    return not django_engines or any(
        "django.template.context_processors.request" in engine.engine.context_processors
        for engine in django_engines
    )


def _can_import(path: str) -> bool:
    try:
        return callable(import_string(path))
    except ImportError:
        return False


def _message(kind: type[checks.Error | checks.Warning], problem: Problem) -> checks.CheckMessage:
    return kind(problem.message, hint=problem.hint, id=f"leadexec.{problem.code}")
