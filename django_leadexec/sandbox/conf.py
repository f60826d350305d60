from dataclasses import dataclass, fields

from django.conf import settings


@dataclass(frozen=True, kw_only=True)
class Options:
    """The optional setting LEADEXEC_SANDBOX; its keys are these names in upper case."""

    allow_outside_debug: bool = False
    """Answer while ``DEBUG`` is off, for a closed test server."""
    applications: dict[str, str] | None = None
    """The button ID of each application ID. ``None``: any application is accepted."""
    access_token_lifetime: int = 3600
    """How long an access token lives, in seconds."""
    expire_date_format: str = "iso"
    """How it writes ``expireDate``: "iso", "microsoft" or "us". LeadExec's own is not known."""


KEYS = frozenset(field.name.upper() for field in fields(Options))


def get_options() -> Options:
    """Read LEADEXEC_SANDBOX again. The system checks say what is wrong with it."""
    given = getattr(settings, "LEADEXEC_SANDBOX", None)
    if not isinstance(given, dict):
        return Options()
    return Options(**{key.lower(): value for key, value in given.items() if key in KEYS})


def is_open() -> bool:
    """Whether the sandbox may answer at all."""
    return bool(settings.DEBUG or get_options().allow_outside_debug is True)
