"""The ``LEADEXEC`` setting, read and judged in one place."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cryptography.fernet import Fernet
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

# Test runners switch DEBUG off before they run anything; what was configured counts there.
debug_at_start = False

DAY = 86_400
RATE_PERIODS = {"s": 1, "m": 60, "h": 3_600, "d": DAY}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The values of ``LEADEXEC``, complete and well-formed. Times are in seconds."""

    app_id: str
    button_id: str
    encryption_keys: tuple[str, ...]
    base_url: str = "https://apps.leadexec.net"
    api_urls: tuple[str, ...] = ("https://api.leadexec.net", "https://apidata.leadexec.net")
    timeout: float = 10
    refresh_margin: int = 600
    sign_in: bool = False
    identify: str | None = None
    create_user: str | None = None
    callback_rate: str = "20/m"

    def __repr__(self) -> str:
        return f"<Settings app_id={self.app_id!r} base_url={self.base_url!r}>"

    @property
    def script_url(self) -> str:
        return f"{self.base_url}/js/le-app-button.js"

    @property
    def stylesheet_url(self) -> str:
        return f"{self.base_url}/css/le-app-button.css"


@dataclass(frozen=True)
class Problem:
    """One fault of the setting. ``code`` is stable, and never given to another fault."""

    code: str
    message: str
    hint: str


def get_settings() -> Settings:
    """Read ``settings.LEADEXEC``; ``override_settings`` takes effect at once.

    Raises ImproperlyConfigured, naming keys but never values, if anything is wrong with it.
    """
    global _last
    # Judging it anew costs more than a token's encryption; equal values are judged equally.
    # No local name holds the keys: error pages show the locals of the frames that raise.
    if _last is None or _last[0] != _raw():
        conf = _read()
        _last = (deepcopy(_raw()), conf)
    return _last[1]


_last: tuple[object, Settings] | None = None


def _raw() -> object:
    return getattr(settings, "LEADEXEC", None), _is_development()


def _is_development() -> bool:
    return settings.DEBUG or debug_at_start


def _read() -> Settings:
    problems = find_problems()
    if problems:
        faults = " ".join(problem.message for problem in problems)
        raise ImproperlyConfigured(f"{faults} `manage.py check` tells how to mend it.")
    raw = settings.LEADEXEC
    values: dict[str, Any] = {key.lower(): value for key, value in raw.items()}
    values["encryption_keys"] = tuple(values["encryption_keys"])
    if "api_urls" in values:
        values["api_urls"] = tuple(origin(url) for url in values["api_urls"])
    if "base_url" in values:
        values["base_url"] = values["base_url"].rstrip("/")
    return Settings(**values)


def find_problems() -> list[Problem]:
    """All that is wrong with ``settings.LEADEXEC``; empty when it is fit for use."""
    raw = getattr(settings, "LEADEXEC", None)
    if not isinstance(raw, Mapping):
        return [
            Problem(
                "E001",
                "LEADEXEC is missing from the settings, or is not a dict.",
                "Add it, for example: LEADEXEC = {'APP_ID': '…', 'BUTTON_ID': '…', "
                f"'ENCRYPTION_KEYS': ['{new_key()}']}} (a new key, made just now; keep it secret "
                "and out of version control).",
            )
        ]
    problems = [
        Problem(
            "E002",
            f"LEADEXEC has an unknown key {key!r}.",
            f"Known keys: {', '.join(RULES)}.",
        )
        for key in raw
        if key not in RULES
    ]
    for key, rule in RULES.items():
        if key in raw:
            if not rule.accepts(raw[key]):
                problems.append(Problem(rule.code, f"LEADEXEC[{key!r}] is not valid.", rule.wants))
        elif rule.required:
            hint = rule.wants
            if key == "ENCRYPTION_KEYS":
                hint += f" A new key, ready to paste: '{new_key()}'."
            problems.append(Problem(rule.code, f"LEADEXEC[{key!r}] is missing.", hint))
    if not problems:
        problems += _find_contradictions(raw)
    return problems


def _find_contradictions(raw: Mapping[str, Any]) -> list[Problem]:
    problems = []
    if not _is_development():
        insecure = [
            key
            for key, urls in (
                ("BASE_URL", [raw.get("BASE_URL", Settings.base_url)]),
                ("API_URLS", raw.get("API_URLS", Settings.api_urls)),
            )
            if any(urlsplit(url).scheme != "https" for url in urls)
        ]
        problems += [
            Problem(
                "E013",
                f"LEADEXEC[{key!r}] is an http: address, and DEBUG is off.",
                "Tokens would cross the network in plain text. Use https:.",
            )
            for key in insecure
        ]
    if raw.get("CREATE_USER") and not (raw.get("SIGN_IN") and raw.get("IDENTIFY")):
        problems.append(
            Problem(
                "E014",
                "LEADEXEC['CREATE_USER'] needs SIGN_IN and IDENTIFY.",
                "Only an account that IDENTIFY names can come back to the user made for it.",
            )
        )
    return problems


def new_key() -> str:
    return Fernet.generate_key().decode()


def origin(url: str) -> str:
    """``scheme://host[:port]`` of a URL, lower-cased and without a default port."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    port = parts.port
    if port is None or port == {"http": 80, "https": 443}.get(parts.scheme):
        return f"{parts.scheme}://{host}"
    return f"{parts.scheme}://{host}:{port}"


def parse_rate(rate: str) -> tuple[int, int]:
    """``"20/m"`` as (20, 60): how many in how many seconds. Raises ValueError."""
    count, _, period = rate.partition("/")
    if not (count.isascii() and count.isdigit() and int(count) and period in RATE_PERIODS):
        raise ValueError("a rate is written like 20/m")
    return int(count), RATE_PERIODS[period]


@dataclass(frozen=True)
class _Rule:
    code: str
    accepts: Callable[[Any], bool]
    wants: str
    required: bool = False


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def _is_path(value: Any) -> bool:
    return value is None or (
        isinstance(value, str)
        and "." in value
        and all(part.isidentifier() for part in value.split("."))
    )


def _is_number(value: Any, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _are_keys(value: Any) -> bool:
    if not isinstance(value, list | tuple) or not value:
        return False
    try:
        for key in value:
            Fernet(key)
    except (ValueError, TypeError, AttributeError):
        return False
    return all(isinstance(key, str) for key in value)


def _is_url(value: Any, *, bare: bool = False) -> bool:
    if not isinstance(value, str):
        return False
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and "@" not in parts.netloc
        and value.isascii()
        and value.isprintable()
        # Not parts.query: an empty one, too, would swallow the path that is put behind it.
        and not any(character in value for character in " \\?#")
        and not (bare and parts.path not in ("", "/"))
    )


def _are_origins(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(_is_url(url, bare=True) for url in value)
    )


def _is_rate(value: Any) -> bool:
    try:
        parse_rate(value)
    except (ValueError, AttributeError):
        return False
    return True


RULES = {
    "APP_ID": _Rule(
        "E003",
        lambda value: _is_text(value) and len(value) <= 100,
        "The application ID that LeadExec gave you, at most 100 characters.",
        True,
    ),
    "BUTTON_ID": _Rule("E004", _is_text, "The sign-in button ID that LeadExec gave you.", True),
    "ENCRYPTION_KEYS": _Rule(
        "E005",
        _are_keys,
        "A list of Fernet keys; the first encrypts, all decrypt.",
        True,
    ),
    "BASE_URL": _Rule("E006", _is_url, "One http(s) URL without user, query or fragment."),
    "API_URLS": _Rule(
        "E007",
        _are_origins,
        "A list of origins, like ['https://api.leadexec.net']: scheme, host and port, no path.",
    ),
    "TIMEOUT": _Rule(
        "E008", lambda value: _is_number(value, 0.1, 120), "Seconds, from 0.1 to 120."
    ),
    "REFRESH_MARGIN": _Rule(
        "E009",
        lambda value: isinstance(value, int) and _is_number(value, 0, 3_000),
        "Whole seconds, from 0 to 3000; an access token lives 3600.",
    ),
    "SIGN_IN": _Rule("E010", lambda value: isinstance(value, bool), "True or False."),
    "IDENTIFY": _Rule("E011", _is_path, "The dotted path of a function: (session) -> str."),
    "CREATE_USER": _Rule(
        "E015", _is_path, "The dotted path of a function: (account_id, session) -> User."
    ),
    "CALLBACK_RATE": _Rule("E012", _is_rate, "A count and a period (s, m, h or d), like '20/m'."),
}
