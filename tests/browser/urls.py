"""The test site, with its button on a page under a strict Content-Security-Policy."""

from django.http import HttpRequest, HttpResponse
from django.template import RequestContext, Template
from django.urls import path

from tests import urls

NONCE = "dGVzdHM="
POLICY = (
    f"default-src 'none'; script-src 'nonce-{NONCE}'; style-src 'nonce-{NONCE}'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
TEMPLATE = """{% load leadexec %}<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8"><meta name="viewport" content="width=device-width">
  <title>A strict page</title>
</head>
<body>
  <h1>{{ user.get_username|default:"nobody" }}</h1>
  {% for message in messages %}<p>{{ message }}</p>{% endfor %}
  {% leadexec_button %}
</body>
</html>"""


def strict(request: HttpRequest) -> HttpResponse:
    request.csp_nonce = NONCE  # type: ignore[attr-defined]
    html = Template(TEMPLATE).render(RequestContext(request))
    headers = {
        "Content-Security-Policy": POLICY,
        "Cross-Origin-Opener-Policy": "same-origin-allow-popups",
    }
    return HttpResponse(html, headers=headers)


urlpatterns = [path("strict/", strict), *urls.urlpatterns]
