import subprocess
import sys

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ImproperlyConfigured
from django.template import TemplateSyntaxError
from django.test import RequestFactory

from django_leadexec.visitor_mark import mark_of

from .needs import import_or_skip

jinja2 = import_or_skip("jinja2")


def make_request():
    request = RequestFactory().get("/page/")
    request.user = AnonymousUser()
    return request


def render(source, **context):
    from django_leadexec.jinja import leadexec_button

    environment = jinja2.Environment(autoescape=True)
    environment.globals["leadexec_button"] = leadexec_button
    return environment.from_string(source).render(**context)


def test_the_global_renders_the_same_button_unescaped_by_autoescape():
    html = render("{{ leadexec_button() }}", request=make_request())
    assert '<button id="leAppButton" class="le-app-button" data-btnId="test-button">' in html


def test_options_are_escaped():
    source = "{{ leadexec_button(label=label, next='/a/', css_class='wide', load='click') }}"
    html = render(source, request=make_request(), label="<Log in>")
    assert "&lt;Log in&gt;</button>" in html
    assert 'data-next="/a/"' in html
    assert "leadexec wide" in html
    assert 'data-load="click"' in html
    assert f'data-visitor="{mark_of(None)}"' in html


def test_a_template_without_request_is_a_clear_error():
    with pytest.raises(ImproperlyConfigured, match="request"):
        render("{{ leadexec_button() }}")


def test_the_rule_of_one_button_holds_here_too(settings):
    settings.DEBUG = True
    with pytest.raises(TemplateSyntaxError, match="one button a page"):
        render("{{ leadexec_button() }}{{ leadexec_button() }}", request=make_request())


@pytest.mark.slow
def test_the_tag_works_where_jinja2_is_not_installed():
    code = (
        "import sys; sys.modules['jinja2'] = None; import django; django.setup();"
        "import django_leadexec.templatetags.leadexec"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
