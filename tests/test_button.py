import re
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpResponse
from django.template import TemplateSyntaxError
from django.test import Client, RequestFactory
from django.urls import path, reverse
from django.utils import translation
from django.views.decorators.cache import cache_page
from django.views.decorators.vary import vary_on_cookie

from django_leadexec import authorization, pending_link
from django_leadexec.button import render_button
from django_leadexec.models import LeadExecConnection
from django_leadexec.secret import Secret
from django_leadexec.visitor_mark import mark_of

from . import urls

HOSTILE = "\"'><script>alert(1)</script>"
OPENING = '<button id="leAppButton" class="le-app-button" data-btnId="test-button">'
MARKUP = f"{OPENING}Sign in with LeadExec</button>"
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
        user=user,
        status=status,
        app_id=app_id,
        account_id=account_id,
        fingerprint=fingerprint,
        refresh_token="" if status == Status.REVOKED else "t",
    )


# Not connected


def test_an_anonymous_visitor_gets_the_providers_markup_to_the_letter_and_costs_no_query():
    assert MARKUP in render()  # and no database is allowed in this test


def test_a_request_without_a_user_counts_as_anonymous():
    assert MARKUP in render_button(request=RequestFactory().get("/"))


def test_a_user_without_a_connection_gets_the_button_for_one_query(user, django_assert_num_queries):
    with django_assert_num_queries(1):
        assert OPENING in render(user)


def test_the_text_says_what_a_click_does_for_this_visitor(user):
    assert f"{OPENING}Sign in with LeadExec</button>" in render()
    assert f"{OPENING}Connect LeadExec</button>" in render(user)
    assert f"{OPENING}Ours</button>" in render(user, label="Ours")
    connect(user, Status.REJECTED)
    html = render(user)
    assert f"{OPENING}Reconnect LeadExec</button>" in html
    # The note says why. A second sentence, and a button of another name, would only confuse.
    assert 'data-text-recognized=""' in html
    assert 'data-text-continue="Reconnect LeadExec"' in html
    assert 'data-text-continue="Ours"' in render(user, label="Ours")


def test_all_code_and_style_comes_from_files(settings):
    html = render()
    assert SCRIPT in html
    assert 'data-stylesheet="https://apps.leadexec.net/css/le-app-button.css"' in html
    assert '<script src="/static/django_leadexec/leadexec.min.js" defer></script>' in html
    assert " style=" not in html
    assert " onclick=" not in html
    assert html.count("<script") == html.count("</script>") == html.count("defer></script>")


def test_no_file_of_the_providers_is_in_the_way_of_the_pages_parser():
    html = render()
    assert 'src="https://apps.leadexec.net' not in html
    assert 'href="https://apps.leadexec.net' not in html


def test_the_providers_files_follow_base_url(settings):
    settings.LEADEXEC = settings.LEADEXEC | {"BASE_URL": "https://stand-in.example/sandbox/"}
    html = render()
    assert 'data-script="https://stand-in.example/sandbox/js/le-app-button.js"' in html
    assert 'data-stylesheet="https://stand-in.example/sandbox/css/le-app-button.css"' in html


def test_bad_settings_are_an_error_instead_of_a_dead_button(settings):
    settings.LEADEXEC = settings.LEADEXEC | {"BUTTON_ID": ""}
    with pytest.raises(ImproperlyConfigured, match="BUTTON_ID"):
        render()


def test_the_regions_for_messages_are_there_from_the_start():
    html = render()
    assert '<p class="leadexec-status" dir="auto" role="status"></p>' in html
    assert '<p class="leadexec-error" dir="auto" role="alert" id="leadexec-error"></p>' in html
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
def test_the_csrf_token_in_the_markup_is_good_wherever_the_secret_is_kept(
    settings, use_sessions, user
):
    settings.CSRF_USE_SESSIONS = use_sessions
    settings.CSRF_COOKIE_HTTPONLY = True
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
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


# What a stranger costs


def bare(request):
    return HttpResponse(render_button(request=request, load=request.GET.get("load", "page")))


kept = cache_page(60)(vary_on_cookie(bare))
urlpatterns = [path("bare/", bare), path("kept/", kept), *urls.urlpatterns]


@pytest.mark.parametrize("load", ["page", "click"])
def test_a_page_for_strangers_sets_no_cookie_and_may_be_cached(settings, client, load):
    settings.ROOT_URLCONF = __name__
    response = client.get("/bare/", {"load": load})
    assert response.cookies == {}
    assert "Cookie" not in response.get("Vary", "")
    assert f'data-visitor="{mark_of(None)}"' in response.text
    assert 'data-csrf-token=""' in response.text
    assert f'data-state="{reverse("leadexec:state")}"' in response.text


@pytest.mark.parametrize("load", ["page", "click"])
def test_a_users_page_says_that_it_was_made_for_them_and_not_who_they_are(settings, user, load):
    settings.ROOT_URLCONF = __name__
    type(user).objects.filter(pk=user.pk).update(id=987_654)
    user = type(user).objects.get()
    known = Client()
    known.force_login(user)
    html = known.get("/bare/", {"load": load}).text
    assert f'data-visitor="{mark_of(user)}"' in html
    assert "987654" not in html
    connect(user)
    # What a connected page posts names the connection, and another's is none.
    assert "data-visitor" not in known.get("/bare/").text


def test_a_page_for_whoever_has_a_session_differs_by_cookie(settings, client, user):
    settings.ROOT_URLCONF = __name__
    client.force_login(user)
    assert "Cookie" in client.get("/bare/")["Vary"]
    session = Client()
    session.cookies["sessionid"] = "long gone"
    assert "Cookie" in session.get("/bare/")["Vary"]


def test_a_cache_that_looks_at_cookies_keeps_one_page_for_strangers_alone(
    settings, client, user, django_assert_num_queries
):
    settings.ROOT_URLCONF = __name__
    assert OPENING in client.get("/kept/").text
    connect(user)
    known = Client()
    known.force_login(user)
    assert "Connected with LeadExec" in known.get("/kept/").text
    with django_assert_num_queries(0):
        assert Client().get("/kept/").text == client.get("/kept/").text


def test_a_page_that_looks_at_the_session_itself_still_differs_by_cookie(settings, client):
    settings.ROOT_URLCONF = __name__
    assert "Cookie" in client.get("/page/")["Vary"]


def test_a_user_whom_no_session_holds_is_known_all_the_same(rf, user):
    request = rf.get("/")
    SessionMiddleware(lambda request: HttpResponse()).process_request(request)
    request.user = user
    connect(user)
    assert "Connected with LeadExec" in render_button(request=request)
    assert request.session.accessed is False


def test_when_to_load_is_written_into_the_markup():
    assert 'data-load="page"' in render()
    assert 'data-load="click"' in render(load="click")


@pytest.mark.parametrize("load", ["", "never", None, True])
def test_another_time_to_load_is_an_error_that_names_both(load):
    with pytest.raises(TemplateSyntaxError, match='"page" or "click"'):
        render(load=load)


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
    assert html.count('nonce="abc+/="') == html.count("<link") + html.count("<script") == 2


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
    [script] = re.findall(r"<script.*?</script>", html)
    assert script == '<script src="/static/django_leadexec/leadexec.min.js" defer></script>'


def test_since_when_is_told_in_the_visitors_way_to_write_dates(user):
    connection = connect(user)
    LeadExecConnection.objects.filter(pk=connection.pk).update(
        created_at=datetime(2026, 5, 3, 12, tzinfo=UTC)
    )
    assert "since May 3, 2026" in render(user)
    with translation.override("de"):
        assert "3. Mai 2026" in render(user)


def test_the_regions_for_messages_of_a_connected_page_are_there_from_the_start(user):
    connect(user)
    html = render(user)
    assert '<p class="leadexec-status" dir="auto" role="status"></p>' in html
    assert 'data-text-disconnecting="Disconnecting…"' in html


def test_each_account_is_named_and_has_its_own_disconnect(user):
    connect(user, account_id="acme", fingerprint="1")
    connect(user, account_id="<b>", fingerprint="2")
    html = render(user)
    assert "Connected with LeadExec as <bdi>acme</bdi>" in html
    assert "Connected with LeadExec as <bdi>&lt;b&gt;</bdi>" in html
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
    assert OPENING in html
    assert "Please reconnect" not in render()


def test_an_active_connection_beside_a_rejected_one_is_all_that_counts(user):
    connect(user, Status.REJECTED, account_id="former", fingerprint="1")
    connect(user, Status.ACTIVE, fingerprint="2")
    html = render(user)
    assert html.count("<form") == 1
    assert "Please reconnect" not in html


def test_revoked_foreign_and_other_applications_connections_do_not_count(user):
    connect(user, Status.REVOKED, fingerprint=None)
    connect(user, app_id="another", fingerprint="2")
    connect(get_user_model().objects.create_user("bob"), fingerprint="3")
    html = render(user)
    assert OPENING in html
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


# The documentation

ROOT = Path(__file__).parent.parent
DOCUMENTED = (ROOT / "docs" / "button.md").read_text("utf-8")
FRONTEND = ROOT / "frontend"
PACKAGE = ROOT / "django_leadexec"
SINGLE_PAGE = (ROOT / "docs" / "single-page.md").read_text("utf-8")


def first_cells(heading, documented=DOCUMENTED, column=0):
    """What a column of a section's tables names in code."""
    section = documented.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \|$", section, flags=re.MULTILINE)
    cells = [row.split(" | ")[column] for row in rows]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_each_custom_property_is_documented():
    css = (FRONTEND / "leadexec.css").read_text("utf-8")
    assert first_cells("Looks") == set(re.findall(r"var\((--leadexec-[\w-]+)", css))


def test_each_event_and_code_of_the_script_is_documented():
    script = (FRONTEND / "leadexec.js").read_text("utf-8")
    events = {f"leadexec:{name}" for name in re.findall(r'emit\("(\w+)"', script)}
    codes = set(re.findall(r'(?:fail|failed|failure)\(\s*"(\w+)"', script))
    assert first_cells("Events") == events | codes


def attributes_of(html):
    """The names of what the element around the button carries, but for its classes."""
    opening = html[html.index("<div") : html.index(">", html.index("<div"))]
    return set(re.findall(r'\s([\w-]+)="', opening)) - {"class"}


def test_each_attribute_of_the_tag_is_documented(user):
    written = set()
    # Each language has the forms of a number that it tells apart.
    for locale in (PACKAGE / "locale").iterdir():
        with translation.override(translation.to_language(locale.name)):
            written |= attributes_of(render())
    connect(user)
    written |= attributes_of(render(user))
    assert "data-text-throttled-few" in written
    assert first_cells("What the tag writes") == written


def test_each_key_of_the_state_is_documented(client):
    documented = first_cells("What it exports", SINGLE_PAGE) - {"ready", "refresh()", "remove()"}
    documented -= {"stateUrl", "label", "next", "load", "nonce", "onState"}
    assert documented == set(client.get(reverse("leadexec:state")).json())


def test_each_answer_of_the_views_is_documented():
    code = "".join((PACKAGE / name).read_text("utf-8") for name in ("views.py", "responses.py"))
    errors = set(re.findall(r'(?:ErrorAnswer|answer_error)\(\s*\d{3},\s*"(\w+)"', code))
    assert "conflict" in errors
    statuses = set(re.findall(r'answer(?:_disconnect)?\((?:request, )?"(\w+)"', code))
    assert {"connected", "already_disconnected"} <= statuses
    heading = "What the site answers"
    assert first_cells(heading, SINGLE_PAGE, 1) >= errors
    assert first_cells(heading, SINGLE_PAGE) >= statuses


@pytest.mark.parametrize(("account_id", "text"), [("acme", "<bdi>acme</bdi>"), ("", "LeadExec")])
def test_who_was_not_led_back_to_a_waiting_link_is_shown_the_way_to_it(
    client, user, account_id, text
):
    request = make_request(AnonymousUser())
    request.session = client.session
    waiting = authorization.LinkWaiting(Secret("t"), account_id)
    pending_link.keep(request, waiting, "")
    request.user = user
    link = f'<a href="/leadexec/confirm/">Finish connecting {text}</a>'
    assert link in render_button(request=request)
    pending_link.drop(request)
    assert "/leadexec/confirm/" not in render_button(request=request)
