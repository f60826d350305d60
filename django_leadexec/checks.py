"""``manage.py check``: what is wrong with the configuration, and how to mend it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult, urlsplit

from django.apps import AppConfig, apps
from django.conf import settings
from django.core import checks
from django.db import connections
from django.template import engines
from django.template.backends.django import DjangoTemplates
from django.utils.module_loading import import_string

from . import crypto
from .backends import LeadExecBackend
from .conf import Problem, find_problems, get_settings, origin
from .connections import database_of
from .models import LeadExecConnection

# Each id has a section there.
DOCS = "docs/checks.md"
BACKEND = "django_leadexec.backends.LeadExecBackend"
# The session engines that need their app's model.
SESSIONS_IN_A_TABLE = {f"django.contrib.sessions.backends.{name}" for name in ("db", "cached_db")}
POPUP_POLICIES = ("same-origin-allow-popups", "unsafe-none", None)

# How many stored tokens are tried.
NEWEST = 10

# What a directive falls back to, the first that is there counts. The tag itself loads a script and
# a stylesheet from LeadExec; what that script goes on to do, only LeadExec knows.
LOADED_BY_THE_TAG = {
    "script-src": ("script-src-elem", "script-src", "default-src"),
    "style-src": ("style-src-elem", "style-src", "default-src"),
}
LIKELY_USED_BY_THE_SCRIPT = {
    "connect-src": ("connect-src", "default-src"),
    "img-src": ("img-src", "default-src"),
    "frame-src": ("frame-src", "child-src", "default-src"),
}
# How Django and django-csp write "this response's nonce"; the tag puts it on what it loads.
NONCES = {"<csp_nonce_sentinel>", "csp.constants.nonce"}
HOST_SOURCE = re.compile(
    r"(?:(?P<scheme>[a-z][a-z0-9+.-]*)://)?(?P<host>\*|(?:\*\.)?[a-z0-9.-]+)"
    r"(?::(?P<port>\*|[0-9]+))?(?:/.*)?"
)
PORTS = {"http": 80, "https": 443}

Policy = dict[str, list[str]]


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


def check_stored_tokens(
    app_configs: Sequence[AppConfig] | None,
    databases: Sequence[str] | None = None,
    **kwargs: Any,
) -> list[checks.CheckMessage]:
    """Whether the keys are those of the stored tokens (``migrate``, ``check --database``)."""
    using = database_of()
    if using not in (databases or ()) or find_problems():
        return []
    table = LeadExecConnection._meta.db_table
    if table not in connections[using].introspection.table_names():
        return []
    newest = LeadExecConnection.objects.using(using).live().order_by("-pk")
    ciphertexts = newest.values_list("refresh_token", flat=True)[:NEWEST]
    # One that opens is enough: others may be damaged, which is no fault of the keys.
    if not ciphertexts or any(crypto.opens(ciphertext) for ciphertext in ciphertexts):
        return []
    problem = Problem(
        "E019",
        "LEADEXEC['ENCRYPTION_KEYS'] open none of the newest stored tokens.",
        "They are the keys of another database, or have lost the one in use. Put it back.",
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
    risks += _find_policy_gaps()
    if _holds_requests_in_sqlite_transactions():
        risks.append(
            Problem(
                "W007",
                "ATOMIC_REQUESTS is on, and the connections are kept in SQLite.",
                "A page that refreshes a token then holds SQLite's one write lock until its answer "
                'is made, or fails with "database is locked". Turn ATOMIC_REQUESTS off, decorate '
                "such views with transaction.non_atomic_requests, or use another database.",
            )
        )
    return risks


def _find_policy_gaps() -> Iterator[Problem]:
    if find_problems():
        return  # BASE_URL may be one of them
    provider = origin(get_settings().base_url)
    url = urlsplit(provider)
    for name, policy in _policies():
        if closed := _closed(policy, LOADED_BY_THE_TAG, url):
            yield Problem(
                "W005",
                f"{name} does not allow {provider} in {closed}.",
                "The button's script and stylesheet come from there, and browsers are told not to "
                "load them. Add the origin, or the response's nonce.",
            )
        if closed := _closed(policy, LIKELY_USED_BY_THE_SCRIPT, url):
            yield Problem(
                "W006",
                f"{name} does not allow {provider} in {closed}.",
                "LeadExec's script may have to call its server, show an image, or open its dialog "
                "in a frame. Add the origin.",
            )


def _policies() -> Iterator[tuple[str, Policy]]:
    """The Content-Security-Policies of the settings: Django's own (6.0) and django-csp's (4)."""
    for name in ("SECURE_CSP", "SECURE_CSP_REPORT_ONLY"):
        given = getattr(settings, name, None)
        if isinstance(given, Mapping):
            yield name, _read_policy(given)
    for name in ("CONTENT_SECURITY_POLICY", "CONTENT_SECURITY_POLICY_REPORT_ONLY"):
        given = getattr(settings, name, None)
        if isinstance(given, Mapping) and given:
            directives = given.get("DIRECTIVES")
            own = directives if isinstance(directives, Mapping) else {}
            # Unless told otherwise, django-csp sends a default-src.
            yield name, _read_policy({"default-src": "'self'", **own})


def _read_policy(given: Mapping[str, Any]) -> Policy:
    policy = {}
    for directive, value in given.items():
        if value is not None and value is not False:
            sources = value if isinstance(value, list | tuple | set | frozenset) else [value]
            policy[directive] = " ".join(map(str, sources)).lower().split()
    return policy


def _closed(policy: Policy, wanted: Mapping[str, tuple[str, ...]], url: SplitResult) -> str:
    """The wanted directives that don't let ``url`` pass, as text."""
    closed = []
    for directive, fallbacks in wanted.items():
        # Without sources it isn't sent, and what isn't there allows everything.
        sources = next((policy[name] for name in fallbacks if policy.get(name)), ["*"])
        if not any(_admits(source, directive, url) for source in sources):
            closed.append(directive)
    return ", ".join(closed)


def _admits(source: str, directive: str, url: SplitResult) -> bool:
    """Whether a source expression, in lower case, lets a URL of this origin pass.

    A path in it is left out of account: it is the site's to know which it means.
    """
    if directive in LOADED_BY_THE_TAG and source in NONCES:
        return True
    # What a trusted script loads is trusted then, and ours loads LeadExec's.
    if directive == "script-src" and source == "'strict-dynamic'":
        return True
    if source in ("*", "http:", f"{url.scheme}:"):
        return True
    match = HOST_SOURCE.fullmatch(source)
    if match is None:
        return False
    scheme, wanted, port = match["scheme"], match["host"], match["port"]
    host, usual = url.hostname or "", PORTS[url.scheme]
    actual = url.port or usual
    # An http: source covers https: as well, and port 80 the port 443.
    return (
        scheme in (None, "http", url.scheme)
        and (wanted in ("*", host) or (wanted.startswith("*.") and host.endswith(wanted[1:])))
        and (
            port in ("*", str(actual))
            or (port is None and actual == usual)
            or (port == "80" and actual == 443)
        )
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
        # What can't be imported is not ours to tell of.
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
    """A message whose hint ends with where the documentation says more."""
    anchor = re.sub(r"[._]", "-", check_id).lower()
    return kind(message, hint=f"{hint} See {DOCS}#{anchor}.", id=check_id)


def _message(kind: type[checks.Error | checks.Warning], problem: Problem) -> checks.CheckMessage:
    return explain(kind, f"leadexec.{problem.code}", problem.message, problem.hint)
