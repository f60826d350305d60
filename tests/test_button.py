from types import SimpleNamespace

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ImproperlyConfigured
from django.template import TemplateSyntaxError
from django.test import Client, RequestFactory
from django.urls import reverse
from django.utils import translation

from django_leadexec.button import render_button
from django_leadexec.models import LeadExecConnection

HOSTILE = "\"'><script>alert(1)</script>"
MARKUP = (
    '<button id="leAppButton" class="le-app-button" data-btnId="test-button">'
    "Sign in with LeadExec</button>"
)
SCRIPT = "https://apps.leadexec.net/js/le-app-button.js"
Status = LeadExecConnection.Status


def make_request(user=None):
    request = RequestFactory().get("/page/")
    request.user = user or AnonymousUser()
    return request


def render(user=None, **options):
    return render_button(request=make_request(user), **options)


@pytest.fixture
def user(db):
    return get_user_model().objects.create_user("ada")


def connect(user, status=Status.ACTIVE, app_id="test-app", account_id="", fingerprint="f"):
    return LeadExecConnection.objects.create(
        user=user, status=status, app_id=app_id, account_id=account_id, fingerprint=fingerprint
    )


# Not connected


def test_an_anonymous_visitor_gets_the_providers_markup_to_the_letter_and_costs_no_query():
    assert MARKUP in render()  # and no database is allowed in this test


def test_a_request_without_a_user_counts_as_anonymous():
    assert MARKUP in render_button(request=RequestFactory().get("/"))


def test_a_user_without_a_connection_gets_the_button_for_one_query(user, django_assert_num_queries):
    with django_assert_num_queries(1):
        assert MARKUP in render(user)


def test_all_code_and_style_comes_from_files(settings):
    html = render()
    assert SCRIPT in html
    assert '<link rel="stylesheet" href="https://apps.leadexec.net/css/le-app-button.css">' in html
    assert '<script src="/static/django_leadexec/leadexec.js" defer></script>' in html
    assert " style=" not in html
    assert " onclick=" not in html
    assert html.count("<script") == html.count("</script>") == html.count("defer></script>")


def test_the_providers_files_follow_base_url(settings):
    settings.LEADEXEC = settings.LEADEXEC | {"BASE_URL": "https://stand-in.example/sandbox/"}
    html = render()
    assert 'data-script="https://stand-in.example/sandbox/js/le-app-button.js"' in html
    assert 'href="https://stand-in.example/sandbox/css/le-app-button.css"' in html


def test_bad_settings_are_an_error_instead_of_a_dead_button(settings):
    settings.LEADEXEC = settings.LEADEXEC | {"BUTTON_ID": ""}
    with pytest.raises(ImproperlyConfigured, match="BUTTON_ID"):
        render()


def test_the_regions_for_messages_are_there_from_the_start():
    html = render()
    assert '<p class="leadexec-status" role="status"></p>' in html
    assert '<p class="leadexec-error" role="alert"></p>' in html
    assert "<noscript>" in html


def test_options_set_the_text_the_wrappers_class_and_where_to_go_next():
    html = render(label="Log in", css_class="wide", next_url="/leads/?page=2&all=1")
    assert 'data-btnId="test-button">Log in</button>' in html
    assert '<div class="leadexec wide"' in html
    assert 'data-next="/leads/?page=2&amp;all=1"' in html
    assert 'class="le-app-button"' in html


@pytest.mark.parametrize("option", ["label", "css_class", "next_url"])
def test_a_hostile_option_stays_text(option):
    html = render(**{option: HOSTILE})
    assert "<script>alert" not in html
    assert "&quot;&#x27;&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_a_hostile_button_id_stays_text(settings):
    settings.LEADEXEC = settings.LEADEXEC | {"BUTTON_ID": HOSTILE}
    assert "<script>alert" not in render()


def test_the_texts_for_the_script_are_in_the_visitors_language_and_cannot_break_out(monkeypatch):
    monkeypatch.setattr("django_leadexec.button.gettext", lambda text: f"«{text}»{HOSTILE}")
    html = render()
    assert "«Sign in with LeadExec»" in html
    assert 'data-text-retry="«Try again»&quot;' in html
    assert "<script>alert" not in html


# CSRF


@pytest.mark.django_db
@pytest.mark.parametrize("use_sessions", [False, True])
def test_the_csrf_token_in_the_markup_is_good_wherever_the_secret_is_kept(settings, use_sessions):
    settings.CSRF_USE_SESSIONS = use_sessions
    settings.CSRF_COOKIE_HTTPONLY = True
    client = Client(enforce_csrf_checks=True)
    html = client.get("/page/").content.decode()
    token = html.split('data-csrf-token="')[1].split('"')[0]

    def post(token):
        headers = {"X-CSRFToken": token}
        url = reverse("leadexec:callback")
        return client.post(url, "{", content_type="application/json", headers=headers)

    assert post("x" * 64).status_code == 403
    assert post(token).status_code == 400


def test_the_csrf_header_follows_the_sites_setting(settings):
    assert 'data-csrf-header="X-CSRFTOKEN"' in render()
    settings.CSRF_HEADER_NAME = "HTTP_X_XSRF_TOKEN"
    assert 'data-csrf-header="X-XSRF-TOKEN"' in render()


# Content-Security-Policy


class LazyNonce:
    def __bool__(self):
        return False

    def __str__(self):
        return "abc+/="


def test_without_a_nonce_none_is_written():
    assert "nonce" not in render()


def test_a_nonce_that_is_false_until_used_is_on_every_script_and_stylesheet():
    request = make_request()
    request.csp_nonce = LazyNonce()
    html = render_button(request=request)
    assert html.count('nonce="abc+/="') == html.count("<link") + html.count("<script") == 3


def test_djangos_own_nonce_is_used():
    csp = pytest.importorskip("django.middleware.csp", reason="Django 6.0 brought it")
    request = make_request()
    csp.ContentSecurityPolicyMiddleware(lambda request: None).process_request(request)
    assert f'nonce="{csp.get_nonce(request)}"' in render_button(request=request)


# Connected


def test_a_connected_user_sees_so_and_can_disconnect_without_javascript(
    user, django_assert_num_queries
):
    connection = connect(user)
    with django_assert_num_queries(1):
        html = render(user, next_url="/after/")
    assert "Connected with LeadExec" in html
    assert f'method="post" action="{reverse("leadexec:disconnect")}"' in html
    assert f'<input type="hidden" name="connection" value="{connection.pk}">' in html
    assert '<input type="hidden" name="next" value="/after/">' in html
    assert 'name="csrfmiddlewaretoken" value="' in html


def test_a_connected_page_loads_nothing_of_the_providers(user):
    connect(user)
    html = render(user)
    assert "apps.leadexec.net" not in html
    assert "leAppButton" not in html
    assert "<script" not in html


def test_each_account_is_named_and_has_its_own_disconnect(user):
    connect(user, account_id="acme", fingerprint="1")
    connect(user, account_id="<b>", fingerprint="2")
    html = render(user)
    assert "Connected with LeadExec as acme" in html
    assert "Connected with LeadExec as &lt;b&gt;" in html
    assert html.count("<form") == 2


def test_the_connections_key_is_written_as_a_number_in_any_locale(user, settings):
    settings.USE_THOUSAND_SEPARATOR = True
    connection = connect(user)
    LeadExecConnection.objects.filter(pk=connection.pk).update(id=1234567)
    with translation.override("de"):
        assert 'value="1234567"' in render(user)


def test_a_rejected_connection_asks_to_reconnect_for_one_query(user, django_assert_num_queries):
    connect(user, Status.REJECTED)
    with django_assert_num_queries(1):
        html = render(user)
    assert "Please reconnect" in html
    assert MARKUP in html
    assert "Please reconnect" not in render()


def test_an_active_connection_beside_a_rejected_one_is_all_that_counts(user):
    connect(user, Status.REJECTED, fingerprint="1")
    connect(user, Status.ACTIVE, fingerprint="2")
    html = render(user)
    assert html.count("<form") == 1
    assert "Please reconnect" not in html


def test_revoked_foreign_and_other_applications_connections_do_not_count(user):
    connect(user, Status.REVOKED, fingerprint=None)
    connect(user, app_id="another", fingerprint="2")
    connect(get_user_model().objects.create_user("bob"), fingerprint="3")
    html = render(user)
    assert MARKUP in html
    assert "Please reconnect" not in html


# One button a page


def test_a_second_button_is_a_clear_error_in_debug(settings):
    settings.DEBUG = True
    request = make_request()
    render_button(request=request)
    with pytest.raises(TemplateSyntaxError, match="one button a page"):
        render_button(request=request)


def test_a_second_button_is_left_out_and_logged_in_production(caplog):
    request = make_request()
    assert render_button(request=request)
    assert render_button(request=request) == ""
    assert "/page/" in caplog.text


def test_a_path_makes_up_no_lines_of_the_log(caplog):
    request = make_request()
    request.path = "/page/\r\n\x1b[31mERROR all is lost"
    render_button(request=request)
    render_button(request=request)
    [record] = caplog.records
    assert record.getMessage().isprintable()
    assert "all is lost" in record.getMessage()


def test_another_page_has_its_own_button(settings):
    settings.DEBUG = True
    assert MARKUP in render()
    assert MARKUP in render()


def test_the_page_may_use_any_user_class():
    # A user object that is no model instance, as some sites' middleware sets.
    assert MARKUP in render(SimpleNamespace(is_authenticated=False))
