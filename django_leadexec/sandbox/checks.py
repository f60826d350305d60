from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error

from ..checks import explain
from .conf import KEYS, get_options, is_open
from .wire import DATE_FORMATS


def check_sandbox(**kwargs: Any) -> list[CheckMessage]:
    """Report a sandbox in production (E001), unknown keys (E002) and bad values (E003)."""
    found: list[CheckMessage] = []
    config = apps.get_app_config("leadexec_sandbox")
    if not is_open() and not getattr(config, "debug_at_start", False):
        found.append(
            explain(
                Error,
                "leadexec_sandbox.E001",
                "The LeadExec sandbox is installed while DEBUG is off; all its pages answer 404.",
                "Remove 'django_leadexec.sandbox' from INSTALLED_APPS and its include() from "
                "your URLs. For a closed test server where anybody may sign in as a demo "
                "account: LEADEXEC_SANDBOX = {'ALLOW_OUTSIDE_DEBUG': True}.",
            )
        )
    given = getattr(settings, "LEADEXEC_SANDBOX", {})
    if not isinstance(given, dict):
        return [*found, _bad(f"LEADEXEC_SANDBOX is a {type(given).__name__}", "a dict")]
    found += [
        explain(
            Error,
            "leadexec_sandbox.E002",
            f"LEADEXEC_SANDBOX has an unknown key {key!r}.",
            f"Known keys: {', '.join(sorted(KEYS))}.",
        )
        for key in sorted(map(str, given.keys() - KEYS))
    ]
    options = get_options()
    # As objects: what a user wrote need not be what the types promise.
    allowed: object = options.allow_outside_debug
    applications: object = options.applications
    lifetime: object = options.access_token_lifetime
    if not isinstance(allowed, bool):
        found.append(_bad("LEADEXEC_SANDBOX['ALLOW_OUTSIDE_DEBUG'] is no bool", "True or False"))
    if applications is not None and not (
        isinstance(applications, dict)
        and all(isinstance(text, str) for pair in applications.items() for text in pair)
    ):
        found.append(
            _bad("LEADEXEC_SANDBOX['APPLICATIONS'] is malformed", "{'APP_ID': 'BUTTON_ID'}")
        )
    if isinstance(lifetime, bool) or not isinstance(lifetime, int) or lifetime < 1:
        found.append(
            _bad("LEADEXEC_SANDBOX['ACCESS_TOKEN_LIFETIME'] is malformed", "seconds, at least 1")
        )
    if options.expire_date_format not in list(DATE_FORMATS):
        found.append(
            _bad("LEADEXEC_SANDBOX['EXPIRE_DATE_FORMAT'] is unknown", " or ".join(DATE_FORMATS))
        )
    return found


def _bad(problem: str, wanted: str) -> CheckMessage:
    return explain(Error, "leadexec_sandbox.E003", f"{problem}.", f"Wanted: {wanted}.")
