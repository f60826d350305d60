from dataclasses import dataclass, fields

from django.conf import settings


@dataclass(frozen=True, kw_only=True)
class Options:
    """The optional setting LEADEXEC_SANDBOX; its keys are these names in upper case."""

    allow_outside_debug: bool = False
    # app id -> button id. None: any application is accepted.
    applications: dict[str, str] | None = None
    access_token_lifetime: int = 3600
    # "iso", "microsoft" or "us": the provider's own format is not known.
    expire_date_format: str = "iso"


KEYS = frozenset(field.name.upper() for field in fields(Options))


def get_options() -> Options:
    """Read LEADEXEC_SANDBOX anew; what is wrong with it is for the system checks to say."""
    given = getattr(settings, "LEADEXEC_SANDBOX", None)
    if not isinstance(given, dict):
        return Options()
    return Options(**{key.lower(): value for key, value in given.items() if key in KEYS})


def is_open() -> bool:
    """Whether the sandbox may answer at all."""
    return bool(settings.DEBUG or get_options().allow_outside_debug is True)
