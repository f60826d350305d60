"""Which values each key of ``LEADEXEC`` may have."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cryptography.fernet import Fernet

# In seconds.
RATE_PERIODS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
# Parts of letters, digits and a few signs, but not "." or "..".
_PLAIN_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[\w.~-]+)*/?", re.ASCII)


def parse_rate(rate: str) -> tuple[int, int]:
    """``"20/m"`` as (20, 60): how many in how many seconds. Raises ValueError."""
    count, _, period = rate.partition("/")
    if not (count.isascii() and count.isdigit() and int(count) and period in RATE_PERIODS):
        raise ValueError("a rate is written like 20/m")
    return int(count), RATE_PERIODS[period]


@dataclass(frozen=True)
class Rule:
    """What one key accepts. ``wants`` says it to whoever set a wrong value."""

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


def _is_url(value: Any) -> bool:
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
    )


def _is_api_url(value: Any) -> bool:
    # The paths of requests are compared with its path, so there may be only one way to read it.
    return _is_url(value) and _PLAIN_PATH.fullmatch(urlsplit(value).path) is not None


def _is_rate(value: Any) -> bool:
    try:
        parse_rate(value)
    except (ValueError, AttributeError):
        return False
    return True


_API_URL_WANTS = (
    "One http(s) URL without user, query or fragment. A path is allowed: letters, digits, "
    "'-', '_', '.' and '~', without '..' or an empty part."
)

# No code is used again: E007 belonged to a key that is gone.
RULES = {
    "APP_ID": Rule(
        "E003",
        lambda value: _is_text(value) and len(value) <= 100,
        "The application ID that LeadExec gave you, at most 100 characters.",
        True,
    ),
    "BUTTON_ID": Rule("E004", _is_text, "The sign-in button ID that LeadExec gave you.", True),
    "ENCRYPTION_KEYS": Rule(
        "E005",
        _are_keys,
        "A list of Fernet keys; the first encrypts, all decrypt.",
        True,
    ),
    "BASE_URL": Rule("E006", _is_url, "One http(s) URL without user, query or fragment."),
    "ACCOUNT_API_URL": Rule("E020", _is_api_url, _API_URL_WANTS),
    "DATA_API_URL": Rule("E021", _is_api_url, _API_URL_WANTS),
    "TIMEOUT": Rule("E008", lambda value: _is_number(value, 0.1, 120), "Seconds, from 0.1 to 120."),
    "REFRESH_MARGIN": Rule(
        "E009",
        lambda value: isinstance(value, int) and _is_number(value, 0, 3_000),
        "Whole seconds, from 0 to 3000; an access token lives 3600.",
    ),
    "SIGN_IN": Rule("E010", lambda value: isinstance(value, bool), "True or False."),
    "IDENTIFY": Rule("E011", _is_path, "The dotted path of a function: (session) -> str."),
    "CREATE_USER": Rule(
        "E015", _is_path, "The dotted path of a function: (account_id, session) -> User."
    ),
    "CALLBACK_RATE": Rule("E012", _is_rate, "A count and a period (s, m, h or d), like '20/m'."),
}
