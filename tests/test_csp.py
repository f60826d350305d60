"""What a site adds to its Content-Security-Policy, with both packages that send one."""

import re
from pathlib import Path
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpResponse
from django.test import RequestFactory
from pytest_django import Settings

from django_leadexec import csp
from django_leadexec.button import render_button
from django_leadexec.checks import check_deployment

from .needs import import_or_skip
from .processes import run_scenario

ROOT = Path(__file__).parents[1]
PROVIDER = "https://apps.leadexec.net"
SELF = "'self'"
TRUSTED = ["django-leadexec", "django-leadexec-module"]
FETCHED = ["script-src", "style-src", "connect-src", "img-src", "frame-src"]


def header_of(middleware: Any, name: str = "Content-Security-Policy") -> str:
    """The policy that comes with a page with the button."""

    def page(request: WSGIRequest) -> HttpResponse:
        return HttpResponse(render_button(request=request))

    response = middleware(page)(RequestFactory().get("/page/"))
    return str(response.headers[name])


def test_a_policy_of_the_site_alone_gets_the_provider_everywhere() -> None:
    needed = csp.directives({})
    both = [SELF, PROVIDER]
    assert needed == dict.fromkeys(FETCHED, both)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({}, {"script-src": [SELF, PROVIDER], "img-src": [PROVIDER]}),
        ({"default-src": "'none'"}, {"style-src": [SELF, PROVIDER], "frame-src": [PROVIDER]}),
        (
            {"default-src": ["'NONE'"], "script-src": "https://cdn.example 'self'"},
            {"script-src": ["https://cdn.example", SELF, PROVIDER]},
        ),
        ({"default-src": "data:"}, {"img-src": ["data:", PROVIDER]}),
        ({"child-src": "blob:"}, {"frame-src": ["blob:", PROVIDER]}),
        (
            {"script-src": "x.example", "script-src-elem": "y.example"},
            {"script-src-elem": ["y.example", SELF, PROVIDER]},
        ),
        ({"script-src": {PROVIDER}}, {"script-src": [PROVIDER, SELF]}),
        (
            {"default-src": "<CSP_NONCE_SENTINEL>"},
            {"script-src": ["<CSP_NONCE_SENTINEL>", PROVIDER]},
        ),
        ({"trusted-types": "one"}, {"trusted-types": ["one", *TRUSTED]}),
        ({"trusted-types": ["'none'"]}, {"trusted-types": TRUSTED}),
        ({"trusted-types": ["django-leadexec-module"]}, {"trusted-types": TRUSTED[::-1]}),
    ],
)
def test_what_the_site_allows_already_is_kept(
    policy: dict[str, Any], expected: dict[str, list[str]]
) -> None:
    given = repr(policy)
    needed = csp.directives({}, policy)
    assert {name: needed[name] for name in expected} == expected
    assert repr(policy) == given


@pytest.mark.parametrize("policy", [{}, {"trusted-types": "*"}, {"trusted-types": []}])
def test_a_policy_that_allows_every_kind_of_trusted_types_gets_no_narrower(
    policy: dict[str, Any],
) -> None:
    assert "trusted-types" not in csp.directives({}, policy)


def test_each_policy_that_the_scripts_create_is_allowed() -> None:
    names = set()
    for source in ("leadexec.js", "module.js"):
        text = (ROOT / "frontend" / source).read_text("utf-8")
        names |= set(re.findall(r'createPolicy\("([\w-]+)"', text))
    assert names == set(csp.directives({}, {"trusted-types": "'none'"})["trusted-types"])


def test_a_special_directive_is_not_doubled_in_the_general_one() -> None:
    assert "script-src" not in csp.directives({}, {"script-src-elem": SELF})


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("http://127.0.0.1:8000/sandbox/", "http://127.0.0.1:8000"),
        ("https://LeadExec.example:443", "https://leadexec.example"),
        (None, PROVIDER),
        ("no address", PROVIDER),
    ],
)
def test_the_provider_is_the_one_of_the_setting(base_url: Any, expected: str) -> None:
    assert csp.directives({"BASE_URL": base_url})["frame-src"] == [SELF, expected]


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"default-src": [SELF]},
        {"default-src": "'none'"},
        {"script-src-elem": "'none'", "style-src-elem": "x.example", "child-src": "y.example"},
    ],
)
def test_the_system_checks_have_nothing_to_say_of_it(
    settings: Settings, policy: dict[str, Any]
) -> None:
    settings.SECURE_CSP = {**policy, **csp.directives(settings.LEADEXEC, policy)}
    told = {message.id for message in check_deployment(None)}
    assert not told & {"leadexec.W005", "leadexec.W006"}


def test_django_sends_it(settings: Settings) -> None:
    django_csp = pytest.importorskip("django.utils.csp", reason="Django 6.0 brought it")
    from django.middleware.csp import ContentSecurityPolicyMiddleware

    policy = {"default-src": [django_csp.CSP.SELF], "script-src": [django_csp.CSP.NONCE]}
    settings.SECURE_CSP = {**policy, **csp.directives(settings.LEADEXEC, policy)}
    header = header_of(ContentSecurityPolicyMiddleware)
    assert "default-src 'self'" in header
    assert f"style-src 'self' {PROVIDER}" in header
    script = next(part for part in header.split("; ") if part.startswith("script-src"))
    assert script.startswith("script-src 'nonce-")
    assert script.endswith(f" {PROVIDER}")


def test_django_csp_sends_it(settings: Settings) -> None:
    package = import_or_skip("csp")
    from csp.constants import NONCE
    from csp.middleware import CSPMiddleware

    assert package
    policy = {"default-src": [SELF], "script-src": [NONCE]}
    settings.CONTENT_SECURITY_POLICY = {
        "DIRECTIVES": {**policy, **csp.directives(settings.LEADEXEC, policy)}
    }
    header = header_of(CSPMiddleware)
    assert f"style-src 'self' {PROVIDER}" in header
    script = next(part for part in header.split("; ") if part.startswith("script-src"))
    assert "'nonce-" in script
    assert PROVIDER in script


def test_it_can_be_called_while_the_settings_are_being_imported() -> None:
    assert "script-src 'self' https://apps.leadexec.net" in run_scenario("tests.policy_site")
