"""The button under the very policy that ``csp.directives`` makes, enforced by the browser."""

from typing import Any

import pytest

from django_leadexec import csp

from .conftest import BLOCKED, ON_CLICK, ORIGIN, Faults, Site
from .test_button_script import VIOLATIONS

# What LeadExec's script may do: ask its server, show an image, and open its dialog in a frame.
NOSY = (
    ON_CLICK % '{valid: true, refreshToken: "rt-1"}'
    + """
fetch("https://apps.leadexec.net/authorize/me").catch(() => {});
new Image().src = "https://apps.leadexec.net/logo.png";
const frame = document.createElement("iframe");
frame.src = "https://apps.leadexec.net/dialog";
document.body.append(frame);
"""
)
NONCE = "dGVzdHM="


def header(policy: dict[str, Any]) -> str:
    return "; ".join(f"{name} {' '.join(sources)}" for name, sources in policy.items())


@pytest.mark.parametrize(
    "policy",
    [
        {"default-src": ["'self'"]},
        {"default-src": ["'none'"], "base-uri": ["'none'"], "form-action": ["'self'"]},
        {"default-src": ["'none'"], "script-src": [f"'nonce-{NONCE}'", "'strict-dynamic'"]},
        {"default-src": ["'self'"], "script-src-elem": [f"'nonce-{NONCE}'"]},
        {
            "default-src": ["'self'"],
            "require-trusted-types-for": ["'script'"],
            "trusted-types": ["another"],
        },
    ],
    ids=["self", "none", "strict-dynamic", "elem", "trusted types"],
)
def test_the_policy_that_is_made_is_never_violated(site: Site, policy: dict[str, Any]) -> None:
    policy = {**policy, **csp.directives({}, policy)}
    site.headers = {"Content-Security-Policy": header(policy)}
    site.provider = NOSY
    site.answer({"error": {"code": "rejected", "message": "No."}}, status=422)
    site.page.add_init_script(VIOLATIONS)
    site.html = site.render("<title>Page</title>{% leadexec_button %}", csp_nonce=NONCE)
    site.page.goto(f"{ORIGIN}/page/")
    site.click()
    site.says("alert", "No.")
    assert site.page.evaluate("violations") == []
    color = site.page.locator("#leAppButton").evaluate("(b) => getComputedStyle(b).color")
    assert color == "rgb(0, 128, 128)"


@pytest.mark.parametrize(
    "missing", ["script-src", "style-src", "connect-src", "img-src", "frame-src"]
)
def test_none_of_its_directives_can_be_spared(site: Site, faults: Faults, missing: str) -> None:
    faults.allow(BLOCKED, "net::ERR_BLOCKED_BY_CSP")
    policy: dict[str, Any] = {"default-src": ["'self'"], **csp.directives({})}
    del policy[missing]
    site.headers = {"Content-Security-Policy": header(policy)}
    site.provider = NOSY
    site.page.add_init_script(VIOLATIONS)
    site.open()
    site.wait_for(lambda: site.page.evaluate("violations") != [])
    assert all(violation.startswith(missing) for violation in site.page.evaluate("violations"))
