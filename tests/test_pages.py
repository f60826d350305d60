"""The templates of the package's own pages, as a site may render or extend them."""

from types import SimpleNamespace

import pytest
from django.template import engines
from django.template.loader import render_to_string
from django.test import RequestFactory
from django.utils import translation

from django_leadexec.models import LeadExecConnection
from django_leadexec.pages import find_template

from .factories import make_connection, make_user
from .needs import import_or_skip


def confirm(**context):
    user = SimpleNamespace(get_username=lambda: "<ada>")
    defaults = {"account_id": "acme", "site_user": user, "next_url": "/after/", "error": ""}
    request = RequestFactory().get("/leadexec/confirm/")
    return render_to_string("django_leadexec/confirm.html", defaults | context, request=request)


def test_the_confirm_page_names_both_sides_as_text():
    html = confirm(account_id="<acme>")
    assert "<dd><bdi>&lt;acme&gt;</bdi></dd>" in html
    assert "<dd><bdi>&lt;ada&gt;</bdi></dd>" in html


def test_an_account_that_is_not_known_by_name_is_described():
    assert "the LeadExec account you just authorized in this browser" in confirm(account_id="")


def test_its_form_posts_yes_or_no_with_a_csrf_token():
    html = confirm()
    assert '<form class="leadexec-choice" method="post">' in html
    assert 'name="csrfmiddlewaretoken"' in html
    assert 'name="confirm" value="yes"' in html
    assert 'name="confirm" value="no"' in html


def test_it_tells_how_to_connect_another_account():
    html = confirm()
    assert "Use another LeadExec account" in html
    assert "Sign out at LeadExec" in html


def test_an_error_is_shown_where_a_screen_reader_hears_it():
    assert 'role="alert"' not in confirm()
    assert 'role="alert">Try &lt;later&gt;</p>' in confirm(error="Try <later>")


def test_the_pages_hold_no_inline_code_or_style():
    html = confirm()
    assert "<script" not in html
    assert "style=" not in html
    assert "<style" not in html


@pytest.mark.parametrize("language", ["en", "ar", "he"])
def test_the_page_states_its_language_and_direction(language):
    with translation.override(language):
        html = confirm()
    assert f'<html lang="{language}"' in html
    assert ('dir="rtl"' in html) is (language != "en")


def test_a_dark_page_is_dark_before_its_stylesheet_has_come():
    assert '<meta name="color-scheme" content="light dark">' in confirm()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("is_rejected", "label"), [(False, "Connect LeadExec"), (True, "Reconnect LeadExec")]
)
def test_the_connect_page_shows_what_a_click_does_and_where_it_leads(client, is_rejected, label):
    user = make_user()
    if is_rejected:
        make_connection("t", user=user, status=LeadExecConnection.Status.REJECTED)
    client.force_login(user)
    html = client.get("/leadexec/connect/", {"next": "/after/"}).text
    assert f">{label}</button>" in html
    assert 'data-next="/after/"' in html


def test_a_site_puts_the_pages_into_its_own_frame_by_overriding_the_base():
    source = '{% extends "django_leadexec/confirm.html" %}{% block title %}Ours{% endblock %}'
    html = (
        engines["django"]
        .from_string(source)
        .render(
            {"site_user": SimpleNamespace(get_username=lambda: "ada")}, RequestFactory().get("/")
        )
    )
    assert "<title>Ours</title>" in html


@pytest.mark.django_db
@pytest.mark.parametrize(
    "engine",
    [
        [],
        [{"BACKEND": "django.template.backends.jinja2.Jinja2", "APP_DIRS": True}],
        [{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
    ],
    ids=["no engine", "Jinja2 alone", "an engine that looks into no app"],
)
@pytest.mark.parametrize("path", ["/leadexec/connect/", "/sandbox/", "/sandbox/connections/"])
def test_a_site_whose_engines_do_not_find_them_has_them_all_the_same(
    settings, client, engine, path
):
    import_or_skip("jinja2")
    settings.TEMPLATES = engine
    client.force_login(make_user())
    response = client.get(path)
    assert response.status_code == 200
    assert "<title>" in response.text


def test_a_site_may_write_them_in_jinja2(settings, tmp_path):
    import_or_skip("jinja2")
    (tmp_path / "django_leadexec").mkdir()
    (tmp_path / "django_leadexec" / "confirm.html").write_text("Ours: {{ site_user }}")
    backend = "django.template.backends.jinja2.Jinja2"
    settings.TEMPLATES = [{"BACKEND": backend, "DIRS": [tmp_path]}]
    template = find_template("django_leadexec/confirm.html")
    assert template.render({"site_user": "ada"}) == "Ours: ada"
