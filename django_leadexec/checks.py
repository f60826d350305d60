"""``manage.py check``: what is wrong with the configuration, and how to fix it."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings
from django.core import checks
from django.core.cache.backends.base import BaseCache
from django.db import connections
from django.template import engines
from django.template.backends.django import DjangoTemplates
from django.utils.module_loading import import_string

from . import crypto, csp, surroundings
from .backends import LeadExecBackend
from .conf import Problem, find_problems, get_settings, origin
from .models import LeadExecConnection
from .routing import database_of

# The hosted documentation. The hints of the checks are enough without it.
SITE = "https://django-leadexec.readthedocs.io/en/latest"
# docs/checks.md: each id has a section there.
DOCS = f"{SITE}/checks.html"
BACKEND = "django_leadexec.backends.LeadExecBackend"
# The session engines that need their app's model.
SESSIONS_IN_A_TABLE = {f"django.contrib.sessions.backends.{name}" for name in ("db", "cached_db")}
POPUP_POLICIES = ("same-origin-allow-popups", "unsafe-none", None)

# How many stored tokens are tried.
NEWEST = 10


def check_configuration(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Faults of ``LEADEXEC`` and of the settings around it. Each keeps the app from working."""
    problems = find_problems()
    if problems:
        return [_message(checks.Error, problem) for problem in problems]
    return [_message(checks.Error, problem) for problem in _find_faults()]


def check_surroundings(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """What is still missing before a visitor can connect. The site runs without it."""
    problems = [
        *surroundings.find_sample_ids(),
        *surroundings.find_missing_login_page(),
        *surroundings.find_missing_static_files(),
    ]
    return [_message(checks.Warning, problem) for problem in problems]


def check_deployment(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Advice for production (``check --deploy``)."""
    return [_message(checks.Warning, problem) for problem in _find_risks()]


def check_stored_tokens(
    app_configs: Sequence[AppConfig] | None,
    databases: Sequence[str] | None = None,
    **kwargs: Any,
) -> list[checks.CheckMessage]:
    """Whether the keys open the stored tokens (``migrate``, ``check --database``)."""
    using = database_of()
    if using not in (databases or ()) or find_problems():
        return []
    table = LeadExecConnection._meta.db_table
    if table not in connections[using].introspection.table_names():
        return []
    newest = LeadExecConnection.objects.using(using).live().order_by("-pk")
    ciphertexts = newest.values_list("refresh_token", flat=True)[:NEWEST]
    # One that opens is enough. The others may be damaged, and then the keys are not at fault.
    if not ciphertexts or any(crypto.opens(ciphertext) for ciphertext in ciphertexts):
        return []
    problem = Problem(
        "E019",
        "LEADEXEC['ENCRYPTION_KEYS'] open none of the newest stored tokens.",
        "They belong to another database, or the key in use is missing. Put it back.",
    )
    return [_message(checks.Error, problem)]


def _find_faults() -> list[Problem]:
    conf = get_settings()
    faults = []
    for key, path in (("IDENTIFY", conf.identify), ("CREATE_USER", conf.create_user)):
        if path and (fault := _find_fault_of_function(path)):
            faults.append(
                Problem(
                    "E016",
                    f"LEADEXEC[{key!r}] names {path!r}, which can't be used: {fault}.",
                    "Give the dotted path of a function.",
                )
            )
    if conf.sign_in and not _has_backend():
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
        for app in _needed_apps()
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
                "The session holds the user's log-in, and a link that waits for its user. Plain "
                "http shows its cookie to the network. Set SESSION_COOKIE_SECURE = True.",
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
                "Each process then counts LEADEXEC['CALLBACK_RATE'] by itself, or nobody counts. "
                "Use a shared cache, such as Redis or Memcached.",
            )
        )
    elif _counts_wrongly(cache):
        risks.append(
            Problem(
                "W013",
                "The default cache counts wrongly when requests come at the same moment.",
                "It reads a count and then writes it, so it misses some, and more calls than "
                "LEADEXEC['CALLBACK_RATE'] get through. Use a cache that counts in one step, such "
                "as Redis or Memcached.",
            )
        )
    risks += _find_policy_gaps()
    risks += surroundings.find_uncollected_files()
    if _holds_requests_in_sqlite_transactions():
        risks.append(
            Problem(
                "W007",
                "ATOMIC_REQUESTS is on, and the connections are kept in SQLite.",
                "A page that refreshes a token then holds SQLite's only write lock until the "
                'request ends, or fails with "database is locked". Turn ATOMIC_REQUESTS off, '
                "decorate such views with transaction.non_atomic_requests, or use another "
                "database.",
            )
        )
    if open_to_siblings := _cookies_a_sibling_can_replace():
        risks.append(
            Problem(
                "W008",
                f"Another site under the same domain can replace {' and '.join(open_to_siblings)}.",
                "It could put its own session into a visitor's browser, and get what the visitor "
                "connects. Names that begin with __Host- stop that: set SESSION_COOKIE_NAME = "
                "'__Host-sessionid' and CSRF_COOKIE_NAME = '__Host-csrftoken', with both cookies "
                "secure, of the path '/' and of no domain. CSRF_USE_SESSIONS = True helps less: a "
                "page's CSRF token then counts only with the session it was made in. It silences "
                "this check.",
            )
        )
    return risks


def _cookies_a_sibling_can_replace() -> list[str]:
    """The settings of the cookies whose names browsers do not protect."""
    if settings.CSRF_USE_SESSIONS:
        return []
    return [
        f"{kind}_COOKIE_NAME"
        for kind in ("SESSION", "CSRF")
        if not (
            getattr(settings, f"{kind}_COOKIE_NAME").startswith("__Host-")
            and getattr(settings, f"{kind}_COOKIE_SECURE")
            and getattr(settings, f"{kind}_COOKIE_PATH") == "/"
            and not getattr(settings, f"{kind}_COOKIE_DOMAIN")
        )
    ]


def _counts_wrongly(backend: str) -> bool:
    """Whether a cache counts in Django's general way, with one step to read and one to write."""
    # Django itself reports a backend that can't be imported.
    with suppress(ImportError):
        return getattr(import_string(backend), "incr", None) is BaseCache.incr
    return False


def _find_policy_gaps() -> Iterator[Problem]:
    if find_problems():
        return  # BASE_URL may be one of them
    provider = origin(get_settings().base_url)
    for name, policy in csp.policies():
        if closed := csp.closed_directives(policy, csp.LOADED_BY_THE_TAG, provider):
            yield Problem(
                "W005",
                f"{name} does not allow {provider} in {', '.join(closed)}.",
                "The button's script and stylesheet come from there, and browsers will not load "
                "them. Add the origin, or the response's nonce.",
            )
        if closed := csp.closed_directives(policy, csp.LIKELY_USED_BY_THE_SCRIPT, provider):
            yield Problem(
                "W006",
                f"{name} does not allow {provider} in {', '.join(closed)}.",
                "LeadExec's script may have to call its server, show an image, or open its dialog "
                "in a frame. Add the origin.",
            )


def _holds_requests_in_sqlite_transactions() -> bool:
    database = connections[database_of()]
    return database.vendor == "sqlite" and bool(database.settings_dict.get("ATOMIC_REQUESTS"))


def _has_request_processor() -> bool:
    django_engines = [engine for engine in engines.all() if isinstance(engine, DjangoTemplates)]
    return not django_engines or any(
        "django.template.context_processors.request" in engine.engine.context_processors
        for engine in django_engines
    )


def _find_fault_of_function(path: str) -> str:
    try:
        found = import_string(path)
    except ImportError as error:
        return str(error)
    return "" if callable(found) else f"it is a {type(found).__name__}"


def _has_backend() -> bool:
    for path in settings.AUTHENTICATION_BACKENDS:
        # Django itself reports a backend that can't be imported.
        with suppress(ImportError):
            backend = import_string(path)
            if isinstance(backend, type) and issubclass(backend, LeadExecBackend):
                return True
    return False


def _needed_apps() -> list[str]:
    needed = ["django.contrib.auth"]
    if settings.SESSION_ENGINE in SESSIONS_IN_A_TABLE:
        needed.append("django.contrib.sessions")
    return needed


def explain(
    kind: type[checks.Error | checks.Warning], check_id: str, message: str, hint: str
) -> checks.CheckMessage:
    """A message whose hint ends with the address of its section in the documentation."""
    anchor = re.sub(r"[._]", "-", check_id).lower()
    return kind(message, hint=f"{hint} See {DOCS}#{anchor}", id=check_id)


def _message(kind: type[checks.Error | checks.Warning], problem: Problem) -> checks.CheckMessage:
    return explain(kind, f"leadexec.{problem.code}", problem.message, problem.hint)
