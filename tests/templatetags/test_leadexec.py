import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ImproperlyConfigured
from django.template import Context, RequestContext, Template, TemplateSyntaxError
from django.test import RequestFactory


def make_request():
    request = RequestFactory().get("/page/")
    request.user = AnonymousUser()
    return request


def render(tag, context=None):
    return Template(f"{{% load leadexec %}}{tag}").render(
        RequestContext(make_request()) if context is None else context
    )


def test_the_tag_renders_the_button():
    assert '<button id="leAppButton"' in render("{% leadexec_button %}")


def test_options_may_be_variables_and_are_escaped():
    context = RequestContext(make_request(), {"name": "<Log in>"})
    html = render(
        '{% leadexec_button label=name next="/a/" css_class="wide" load="click" %}', context
    )
    assert "&lt;Log in&gt;</button>" in html
    assert 'data-next="/a/"' in html
    assert "leadexec wide" in html
    assert 'data-load="click"' in html


def test_the_markup_survives_being_kept_in_a_variable():
    html = render("{% leadexec_button as button %}<main>{{ button }}</main>")
    assert '<main><div class="leadexec"' in html


def test_an_unknown_option_is_an_error():
    with pytest.raises(TemplateSyntaxError, match="color"):
        render('{% leadexec_button color="red" %}')


def test_a_request_context_is_enough_without_the_context_processor(settings):
    settings.TEMPLATES = [settings.TEMPLATES[0] | {"OPTIONS": {}}]
    assert '<button id="leAppButton"' in render("{% leadexec_button %}")


def test_a_context_without_request_is_an_error_that_names_the_context_processor():
    with pytest.raises(ImproperlyConfigured, match=r"context_processors\.request"):
        render("{% leadexec_button %}", Context())


def test_two_tags_in_a_template_are_an_error_in_debug_and_one_button_otherwise(settings):
    twice = "{% leadexec_button %}{% leadexec_button %}"
    assert render(twice).count("leAppButton") == 1
    settings.DEBUG = True
    with pytest.raises(TemplateSyntaxError, match="twice"):
        render(twice)
