"""The ``LEADEXEC`` setting: its values, and what is wrong with them."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cryptography.fernet import Fernet
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from .secret import without_frames
from .setting_rules import RULES

# DEBUG as configured. Test runners switch it off before they run anything.
debug_at_start = False

DAY = 86_400


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The values of ``LEADEXEC``, complete and well-formed. Times are in seconds."""

    app_id: str
    """The application ID that LeadExec gave you."""
    button_id: str
    """The sign-in button ID that LeadExec gave you."""
    encryption_keys: tuple[str, ...]
    """Fernet keys; the first encrypts, all decrypt."""
    base_url: str = "https://apps.leadexec.net"
    """The provider, or the sandbox in development."""
    account_api_url: str = "https://api.leadexec.net"
    """The account API, ``session.account_api``."""
    data_api_url: str = "https://apidata.leadexec.net"
    """The data API, ``session.data_api``."""
    timeout: float = 10
    """How long a whole call to the provider may take, in seconds."""
    refresh_margin: int = 600
    """How long before its end a token is refreshed, in seconds."""
    sign_in: bool = False
    """Whether a known LeadExec account logs its user in."""
    identify: str | None = None
    """Names the account behind a fresh token."""
    create_user: str | None = None
    """Makes a user for an unknown account. Needs ``SIGN_IN`` and ``IDENTIFY``."""
    callback_rate: str = "20/m"
    """How many posts that can lead to a call to LeadExec one client address, and one session, may
    make: a count and a period, as ``20/m``."""

    def __repr__(self) -> str:
        return f"<Settings app_id={self.app_id!r} base_url={self.base_url!r}>"

    @property
    def script_url(self) -> str:
        """The address of the provider's script for the button."""
        return f"{self.base_url}/js/le-app-button.js"

    def lease_seconds(self, *, calls: int = 1) -> float:
        """How long a claim lasts, in seconds: more than twice the deadlines of its calls."""
        return calls * (2 * self.timeout + 5)

    @property
    def stylesheet_url(self) -> str:
        """The address of the provider's style sheet for the button."""
        return f"{self.base_url}/css/le-app-button.css"


@dataclass(frozen=True)
class Problem:
    """One fault of the setting. ``code`` is stable, and never given to another fault."""

    code: str
    message: str
    hint: str


@without_frames
def get_settings() -> Settings:
    """Read ``settings.LEADEXEC``; ``override_settings`` takes effect at once.

    Raises ImproperlyConfigured, naming keys but never values, if anything is wrong with it.
    """
    global _last
    # Checking the setting is slow, so the result is kept while values and types stay the same.
    if _last is None or _last[0] != _raw():
        conf = _read()
        _last = (deepcopy(_raw()), conf)
    return _last[1]


_last: tuple[object, Settings] | None = None


def _raw() -> object:
    raw = getattr(settings, "LEADEXEC", None)
    # 1 equals True, and a mapping that is no dict may equal one that is.
    types = [type(value) for value in raw.values()] if isinstance(raw, dict) else []
    return raw, type(raw), types, _is_development()


def _is_development() -> bool:
    return settings.DEBUG or debug_at_start


def _read() -> Settings:
    problems = find_problems()
    if problems:
        faults = " ".join(problem.message for problem in problems)
        raise ImproperlyConfigured(f"{faults} `manage.py check` says how to fix it.")
    raw = settings.LEADEXEC
    values: dict[str, Any] = {key.lower(): value for key, value in raw.items()}
    values["encryption_keys"] = tuple(values["encryption_keys"])
    for name in ("account_api_url", "data_api_url"):
        if name in values:
            values[name] = origin(values[name]) + urlsplit(values[name]).path.rstrip("/")
    if "base_url" in values:
        values["base_url"] = values["base_url"].rstrip("/")
    return Settings(**values)


@without_frames
def find_problems() -> list[Problem]:
    """All that is wrong with ``settings.LEADEXEC``. Empty if it can be used."""
    raw = getattr(settings, "LEADEXEC", None)
    if not isinstance(raw, dict):
        return [_no_dict(raw)]
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


def _no_dict(raw: object) -> Problem:
    message = "LEADEXEC is missing from the settings."
    hint = (
        "Add it, for example: LEADEXEC = {'APP_ID': '…', 'BUTTON_ID': '…', "
        f"'ENCRYPTION_KEYS': ['{new_key()}']}} (a new key, made just now; keep it secret and out "
        "of version control)."
    )
    if raw is not None:
        message = f"LEADEXEC must be a dict, not {type(raw).__name__}."
    if isinstance(raw, Mapping):
        # It may look its values up for each tenant. They are copied at the first use, so all
        # tenants would get those of the first, and nobody would notice.
        hint = (
            "Its values are read once, so a mapping whose values depend on the request or the "
            "tenant does not work. Use a plain dict with one set of values."
        )
    return Problem("E001", message, hint)


def _find_contradictions(raw: Mapping[str, Any]) -> list[Problem]:
    problems = []
    if not _is_development():
        insecure = [
            key
            for key in ("BASE_URL", "ACCOUNT_API_URL", "DATA_API_URL")
            if urlsplit(raw.get(key, "https:")).scheme != "https"
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
    """A new key for ``ENCRYPTION_KEYS``."""
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
