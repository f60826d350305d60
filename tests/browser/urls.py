"""The test site, with its button on a page under a strict Content-Security-Policy."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.template import RequestContext, Template
from django.urls import path

from django_leadexec import csp
from tests import urls

NONCE = "dGVzdHM="
POLICY = {
    "default-src": ["'none'"],
    "script-src": [f"'nonce-{NONCE}'"],
    "style-src": [f"'nonce-{NONCE}'"],
    "form-action": ["'self'"],
    "base-uri": ["'none'"],
    "frame-ancestors": ["'none'"],
}
TEMPLATE = """{% load leadexec %}<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8"><meta name="viewport" content="width=device-width">
  <title>A strict page</title>
</head>
<body>
  <h1>{{ user.get_username|default:"nobody" }}</h1>
  {% for message in messages %}<p>{{ message }}</p>{% endfor %}
  {% leadexec_button next=request.GET.next %}
</body>
</html>"""
# Where such a button leads to.
WITHOUT_BUTTON = """<!doctype html><html lang="en"><title>Leads</title><h1>Leads</h1>
{% for message in messages %}<p>{{ message }}</p>{% endfor %}"""


def strict(request: HttpRequest) -> HttpResponse:
    request.csp_nonce = NONCE  # type: ignore[attr-defined]
    html = Template(TEMPLATE).render(RequestContext(request))
    # The nonces let LeadExec's files in; only what its script asks for needs its host.
    needed = csp.directives(settings.LEADEXEC, POLICY)
    policy = POLICY | {"connect-src": needed["connect-src"]}
    header = "; ".join(f"{name} {' '.join(sources)}" for name, sources in policy.items())
    headers = {
        "Content-Security-Policy": header,
        # Not left to the middleware, which has read the setting before the test could change it.
        "Cross-Origin-Opener-Policy": settings.SECURE_CROSS_ORIGIN_OPENER_POLICY,
    }
    return HttpResponse(html, headers=headers)


def without_button(request: HttpRequest) -> HttpResponse:
    return HttpResponse(Template(WITHOUT_BUTTON).render(RequestContext(request)))


def icon(request: HttpRequest) -> HttpResponse:
    """Browsers ask for one by themselves."""
    return HttpResponse(status=204)


urlpatterns = [
    path("favicon.ico", icon),
    path("strict/", strict),
    path("leads/", without_button),
    *urls.urlpatterns,
]
