"""``leadexec:state``: what a script needs to know, and only by itself."""

import json

import pytest
from django.test import Client
from django.urls import reverse
from django.utils.dateparse import parse_datetime

from django_leadexec.models import LeadExecConnection
from django_leadexec.visitor_mark import mark_of

from .factories import make_user

pytestmark = pytest.mark.django_db

STATE = "/leadexec/state/"
Status = LeadExecConnection.Status


def connect(user, *, fingerprint, status=Status.ACTIVE, app_id="test-app", account_id=""):
    is_live = status != Status.REVOKED
    return LeadExecConnection.objects.create(
        user=user,
        status=status,
        app_id=app_id,
        account_id=account_id,
        fingerprint=fingerprint,
        identity=fingerprint if is_live else None,
        refresh_token="t" if is_live else "",
    )


def test_a_stranger_learns_where_the_button_talks_to(client):
    assert reverse("leadexec:state") == STATE
    found = client.get(STATE).json()
    assert len(found.pop("csrf_token")) == 64
    assert found.pop("visitor") == mark_of(None)
    assert found == {
        "button_id": "test-button",
        "script_url": "https://apps.leadexec.net/js/le-app-button.js",
        "stylesheet_url": "https://apps.leadexec.net/css/le-app-button.css",
        "callback_url": "/leadexec/callback/",
        "disconnect_url": "/leadexec/disconnect/",
        "csrf_header": "X-CSRFTOKEN",
        "connections": [],
    }


def test_a_user_sees_their_own_live_connections_of_this_application(client):
    user = make_user("ada")
    active = connect(user, fingerprint="1", account_id="acme")
    rejected = connect(user, fingerprint="2", status=Status.REJECTED)
    connect(user, fingerprint=None, status=Status.REVOKED)
    connect(user, fingerprint="3", app_id="another")
    connect(make_user("bob"), fingerprint="4")
    client.force_login(user)
    found = client.get(STATE).json()["connections"]
    assert [parse_datetime(row.pop("since")) for row in found] == [
        active.created_at,
        rejected.created_at,
    ]
    assert found == [
        {"id": active.pk, "account_id": "acme", "status": "active"},
        {"id": rejected.pk, "account_id": "", "status": "rejected"},
    ]


def test_it_costs_one_query_beside_those_for_session_and_user(client, django_assert_num_queries):
    client.force_login(make_user("ada"))
    with django_assert_num_queries(3):
        client.get(STATE)
    with django_assert_num_queries(0):
        Client().get(STATE)


@pytest.mark.parametrize("use_sessions", [False, True])
@pytest.mark.parametrize("has_middleware", [False, True])
def test_its_csrf_token_is_good_wherever_the_secret_is_kept(settings, use_sessions, has_middleware):
    settings.CSRF_USE_SESSIONS = use_sessions
    settings.CSRF_COOKIE_HTTPONLY = True
    if not has_middleware:
        settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if "Csrf" not in name]
    client = Client(enforce_csrf_checks=True)
    token = client.get(STATE).json()["csrf_token"]

    def post(token):
        headers = {"X-CSRFToken": token}
        url = reverse("leadexec:callback")
        return client.post(url, "{", content_type="application/json", headers=headers)

    assert post("x" * 64).status_code == 403
    assert post(token).status_code == 400


def test_it_is_kept_by_nobody_and_changes_nothing(client):
    response = client.get(STATE)
    assert "no-store" in response["Cache-Control"]
    assert "private" in response["Cache-Control"]
    assert "Cookie" in response["Vary"]
    refused = client.post(STATE)
    assert refused.status_code == 405
    assert client.head(STATE).status_code == 200


def test_strangers_get_it_on_a_site_that_asks_for_a_login_everywhere(settings, client):
    login = "django.contrib.auth.middleware.LoginRequiredMiddleware"
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, login]
    assert client.get(STATE).status_code == 200


def test_no_token_is_in_it(client):
    user = make_user("ada")
    row = connect(user, fingerprint="1")
    LeadExecConnection.objects.filter(pk=row.pk).write(
        refresh_token="cipher-refresh", access_token="cipher-access"
    )
    client.force_login(user)
    body = json.dumps(client.get(STATE).json())
    assert "cipher" not in body
    assert "refresh" not in body


def test_it_brings_the_tags_own_markup_for_who_asks(client):
    found = client.get(STATE, {"button": "", "label": "Go <b>", "next": "/x/", "load": "click"})
    html = found.json()["button"]
    assert "Go &lt;b&gt;</button>" in html
    assert 'data-next="/x/"' in html
    assert 'data-load="click"' in html
    assert found["Content-Type"] == "application/json"


def test_its_markup_is_the_visitors(client):
    user = make_user("ada")
    row = connect(user, fingerprint="1", account_id="acme")
    client.force_login(user)
    html = client.get(STATE, {"button": ""}).json()["button"]
    assert "Connected with LeadExec as <bdi>acme</bdi>" in html
    assert f'name="connection" value="{row.pk}"' in html


def test_a_time_to_load_that_does_not_exist_is_the_usual_one(client):
    assert 'data-load="page"' in client.get(STATE, {"button": "", "load": "x"}).json()["button"]
