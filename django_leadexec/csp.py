"""What the button needs of a Content-Security-Policy, and which of the site's do not allow it."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.conf import settings

from .conf import Settings, origin
from .setting_rules import RULES

# Each directive, and what browsers read instead: the first one that has sources counts.
LOADED_BY_THE_TAG: dict[str, tuple[str, ...]] = {
    "script-src": ("script-src-elem", "script-src", "default-src"),
    "style-src": ("style-src-elem", "style-src", "default-src"),
}
LIKELY_USED_BY_THE_SCRIPT: dict[str, tuple[str, ...]] = {
    "connect-src": ("connect-src", "default-src"),
    "img-src": ("img-src", "default-src"),
    "frame-src": ("frame-src", "child-src", "default-src"),
}
# How Django and django-csp write "this response's nonce". The tag puts it on what it loads.
NONCES = ("<csp_nonce_sentinel>", "csp.constants.nonce")

# The tag's script makes the first, leadexec.esm.js both.
TRUSTED_TYPES_POLICIES = ("django-leadexec", "django-leadexec-module")
SELF = "'self'"
SAME_ORIGIN: Mapping[str, Any] = {"default-src": [SELF]}

Directives = Mapping[str, tuple[str, ...]]


def directives(
    leadexec: Mapping[str, Any], policy: Mapping[str, Any] = SAME_ORIGIN
) -> dict[str, list[Any]]:
    """The directives to add to ``policy``, or to replace in it, so that the button works.

    ``leadexec`` is the setting LEADEXEC. It is passed in because this is for settings.py, where
    Django's settings can't be read yet::

        SECURE_CSP = {**POLICY, **csp.directives(LEADEXEC, POLICY)}

    Each keeps the sources that browsers would have read in its place. LeadExec's origin is added
    to all of them, and 'self' where the tag or its script needs the site itself.
    """
    base_url: Any = leadexec.get("BASE_URL")
    # A wrong one is for the system checks to report, which need settings that can be imported.
    provider = origin(base_url if RULES["BASE_URL"].accepts(base_url) else Settings.base_url)
    needed: dict[str, list[Any]] = {}
    for directive, names in {**LOADED_BY_THE_TAG, **LIKELY_USED_BY_THE_SCRIPT}.items():
        read = next((name for name in names if _values(policy.get(name))), directive)
        # Sources from script-src-elem go back there; sources from default-src go into the directive
        # itself.
        key = read if read.startswith(directive) else directive
        sources = _allowed(policy.get(read))
        if directive == "connect-src" or (
            directive in LOADED_BY_THE_TAG and not any(map(_is_nonce, sources))
        ):
            sources.append(SELF)
        # Equal by what they say: django-csp's own constants are objects.
        needed[key] = list({str(one): one for one in [*sources, provider]}.values())
    trusted = _values(policy.get("trusted-types"))
    if trusted and "*" not in trusted:
        needed["trusted-types"] = list(dict.fromkeys([*_allowed(trusted), *TRUSTED_TYPES_POLICIES]))
    return needed


def policies() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name and directives of each policy in the settings: Django's own, and django-csp's."""
    for name in ("SECURE_CSP", "SECURE_CSP_REPORT_ONLY"):
        if isinstance(policy := getattr(settings, name, None), Mapping):
            yield name, policy
    for name in ("CONTENT_SECURITY_POLICY", "CONTENT_SECURITY_POLICY_REPORT_ONLY"):
        if isinstance(policy := getattr(settings, name, None), Mapping) and policy:
            given = policy.get("DIRECTIVES")
            # django-csp sends a default-src of its own, unless the site sets one.
            yield name, {"default-src": "'self'", **(given if isinstance(given, Mapping) else {})}


def closed_directives(policy: Mapping[str, Any], wanted: Directives, origin: str) -> list[str]:
    """The wanted directives that do not allow ``origin``. Without sources, all is allowed."""
    closed = []
    for directive, names in wanted.items():
        sources = next(filter(None, (_sources(policy.get(name)) for name in names)), ["*"])
        passing = NONCES if wanted is LOADED_BY_THE_TAG else ()
        if directive == "script-src":
            # The site's own trusted script loads LeadExec's, so that one is trusted too.
            passing = (*passing, "'strict-dynamic'")
        if not any(source in passing or _names(source, origin) for source in sources):
            closed.append(directive)
    return closed


def _sources(value: object) -> list[str]:
    return [str(one).lower() for one in _values(value)]


def _values(value: object) -> list[Any]:
    """The sources of a directive, one by one. What is no string is an object of django-csp's."""
    values = [value] if isinstance(value, str) or not isinstance(value, Iterable) else value
    found: list[Any] = []
    for one in values:
        found += one.split() if isinstance(one, str) else [one] if one else []
    return found


def _allowed(value: object) -> list[Any]:
    """The sources of a directive to which others are added; 'none' stands alone or not at all."""
    return [one for one in _values(value) if str(one).lower() != "'none'"]


def _is_nonce(source: object) -> bool:
    return str(source).lower() in NONCES


def _names(source: str, origin: str) -> bool:
    scheme, _, host = origin.partition("://")
    named = source.removeprefix(f"{scheme}://").partition("/")[0].removesuffix(":443")
    is_domain_of_host = named.startswith("*.") and host.endswith(named[1:])
    return source == f"{scheme}:" or named in ("*", host) or is_domain_of_host
