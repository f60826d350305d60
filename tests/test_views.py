"""The callback, confirm and disconnect views: who may do what.

The table is in docs/architecture.md, "The callback's decisions".
"""

import json
import traceback
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.auth import get_user_model
from django.contrib.messages import get_messages
from django.core.signals import request_finished
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from django_leadexec import backends, endpoints, responses, returning, views
from django_leadexec.models import LeadExecConnection, PendingRevocation

from . import provider as stand_in
from .factories import make_connection, make_user, plain
from .provider import Provider
from .test_button import LazyNonce
from .visitor import (
    agree,
    assert_error,
    callback_body,
    confirmed,
    elsewhere,
    link_shown,
    post,
    user_of,
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def ana(client: Client) -> Any:
    user = make_user("ana", password="secret")
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return user


@pytest.fixture
def sign_in(settings: Settings) -> None:
    settings.LEADEXEC = settings.LEADEXEC | {"SIGN_IN": True}


@pytest.fixture
def identify(settings: Settings) -> None:
    settings.LEADEXEC = settings.LEADEXEC | {"IDENTIFY": "tests.site.identify"}


def tell_of_forgery(request: HttpRequest, reason: str) -> HttpResponse:
    return HttpResponse("our own page", status=403)


def lazy_nonce(get_response: Any) -> Any:
    def middleware(request: Any) -> Any:
        request.csp_nonce = LazyNonce()
        return get_response(request)

    return middleware


class TestLoggedIn:
    def test_a_click_with_a_new_token_connects(
        self, provider: Provider, client: Client, ana: Any
    ) -> None:
        response = post(client, "new", next="/page/?a=b")
        assert response.json() == {"status": "connected", "redirect": "/page/?a=b"}
        row = LeadExecConnection.objects.get()
        assert (row.user, plain(row.refresh_token), row.status) == (ana, "new", "active")
        assert plain(row.access_token) == "access-1-for-new"

    def test_a_click_with_a_token_of_their_own_verifies_it(
        self, provider: Provider, client: Client, ana: Any
    ) -> None:
        row = make_connection("mine", user=ana)
        assert post(client, "mine").json()["status"] == "connected"
        row.refresh_from_db()
        assert plain(row.access_token) == "access-1-for-mine"

    def test_a_click_revives_a_rejected_connection(
        self, provider: Provider, client: Client, ana: Any
    ) -> None:
        row = make_connection("mine", user=ana, status="rejected", attempts=3)
        assert post(client, "mine").json()["status"] == "connected"
        row.refresh_from_db()
        assert row.status == "active"

    def test_another_token_replaces_the_one_on_file(
        self, provider: Provider, client: Client, ana: Any
    ) -> None:
        make_connection("old", user=ana)
        assert post(client, "new").json()["status"] == "connected"
        assert plain(LeadExecConnection.objects.get().refresh_token) == "new"
        assert not PendingRevocation.objects.exists()

    def test_two_accounts_that_identify_tells_apart_are_two_connections(
        self, provider: Provider, client: Client, ana: Any, identify: None
    ) -> None:
        post(client, "acme-1")
        post(client, "globex-1")
        post(client, "acme-2")
        rows = LeadExecConnection.objects.order_by("pk")
        assert [(row.account_id, plain(row.refresh_token)) for row in rows] == [
            ("acme", "acme-2"),
            ("globex", "globex-1"),
        ]

    def test_without_a_click_their_own_active_token_changes_nothing(
        self, provider: Provider, client: Client, ana: Any
    ) -> None:
        make_connection("mine", user=ana)
        assert post(client, "mine", False).json()["status"] == "connected"
        assert not provider.calls

    @pytest.mark.parametrize(
        "case", ["new", "rejected", "another's", "another's account", "in the outbox"]
    )
    def test_without_a_click_nothing_else_happens_and_every_answer_is_the_same(
        self, provider: Provider, client: Client, ana: Any, identify: None, case: str
    ) -> None:
        if case == "rejected":
            make_connection("token", user=ana, status="rejected")
        elif case == "another's":
            make_connection("token")
        elif case == "another's account":
            make_connection("token-2", account_id="token")
        elif case == "in the outbox":
            LeadExecConnection.objects.filter(pk=make_connection("token").pk).move_to_outbox()
        assert post(client, "token", False).json() == {"status": "ignored", "redirect": None}
        assert not provider.calls

    def test_a_click_with_a_token_of_another_user_is_a_conflict(
        self, provider: Provider, client: Client, ana: Any
    ) -> None:
        make_connection("theirs")
        assert_error(post(client, "theirs"), 409, "conflict")
        assert not provider.calls
        assert LeadExecConnection.objects.get().user != ana

    def test_a_new_token_for_another_users_account_is_a_conflict(
        self, provider: Provider, client: Client, ana: Any, identify: None
    ) -> None:
        row = make_connection("acme-1", account_id="acme")
        assert_error(post(client, "acme-2"), 409, "conflict")
        row.refresh_from_db()
        assert plain(row.refresh_token) == "acme-1"

    def test_with_sign_in_a_new_token_passes_the_confirm_page(
        self, provider: Provider, client: Client, ana: Any, sign_in: None, identify: None
    ) -> None:
        response = post(client, "acme-1", next="/page/")
        assert response.json() == {
            "status": "confirm_required",
            "redirect": reverse("leadexec:confirm"),
        }
        assert not LeadExecConnection.objects.exists()
        page = client.get(reverse("leadexec:confirm")).content.decode()
        assert "acme" in page
        assert "ana" in page
        assert "acme-1" not in page
        assert not LeadExecConnection.objects.exists()
        response = agree(client)
        assert response["Location"] == "/page/"
        assert LeadExecConnection.objects.get().user == ana

    @pytest.mark.parametrize("status", ["active", "rejected"])
    def test_with_sign_in_a_new_token_for_their_own_account_needs_no_confirmation(
        self,
        provider: Provider,
        client: Client,
        ana: Any,
        sign_in: None,
        identify: None,
        status: str,
    ) -> None:
        row = make_connection("acme-1", user=ana, account_id="acme", status=status)
        assert post(client, "acme-2").json()["status"] == "connected"
        row.refresh_from_db()
        assert (plain(row.refresh_token), row.status) == ("acme-2", "active")

    def test_with_sign_in_their_own_token_needs_no_confirmation(
        self, provider: Provider, client: Client, ana: Any, sign_in: None
    ) -> None:
        make_connection("mine", user=ana)
        assert post(client, "mine").json()["status"] == "connected"


def told(response: Any) -> list[str]:
    """What the next page that shows Django's messages will say."""
    return [str(message) for message in get_messages(response.wsgi_request)]


class TestTold:
    """A page that ``next`` leads to may be without the tag, whose script tells it otherwise."""

    @pytest.mark.parametrize(
        ("page", "next_url"),
        [
            ("/page/", "/leads/"),
            ("/page/", "/leads/?x=1"),
            ("/page/", "leads/"),
            ("/page/", "http://testserver/leads/"),
        ],
    )
    def test_who_goes_to_another_page_is_told_there(
        self, provider: Provider, client: Client, ana: Any, page: str, next_url: str
    ) -> None:
        response = post(client, "t", page=page, next=next_url)
        assert response.json() == {"status": "connected", "redirect": next_url}
        assert told(response) == ["You are connected with LeadExec."]

    @pytest.mark.parametrize(
        "posted",
        [
            {"page": "/page/"},
            {"page": "/page/", "next": "/page/"},
            {"page": "/page/", "next": "/page/?x=1#place"},
            {"page": "/page/", "next": "?x=1"},
            {"page": "/page/", "next": "https://evil.example/"},
            # Pages of leadexec.esm.js stay where they are.
            {"next": "/leads/"},
            {"page": None, "next": "/leads/"},
            {"page": "//[", "next": "/leads/"},
            {"page": "/page/", "next": "/leads/", "gesture": False},
        ],
    )
    def test_who_stays_is_told_by_the_script_alone(
        self, provider: Provider, client: Client, ana: Any, posted: dict[str, Any]
    ) -> None:
        assert post(client, "t").json()["status"] == "connected"
        response = post(client, "t", **posted)
        assert response.json()["status"] == "connected"
        assert told(response) == []

    def test_who_is_not_connected_is_told_nothing(
        self, provider: Provider, client: Client, ana: Any
    ) -> None:
        provider.answers["t"] = stand_in.refused
        response = post(client, "t", page="/page/", next="/leads/")
        assert_error(response, 422, "rejected")
        assert told(response) == []

    def test_a_site_without_messages_connects_in_silence(
        self, provider: Provider, client: Client, ana: Any, settings: Settings
    ) -> None:
        settings.MIDDLEWARE = [it for it in settings.MIDDLEWARE if "messages" not in it]
        response = post(client, "t", page="/page/", next="/leads/")
        assert response.json()["status"] == "connected"

    def test_who_confirms_is_told_by_the_confirm_page_alone(
        self, provider: Provider, client: Client, ana: Any, sign_in: None
    ) -> None:
        assert told(post(client, "t", page="/page/", next="/leads/")) == []
        assert told(agree(client)) == ["LeadExec is connected."]


class TestAnonymous:
    def test_a_click_waits_for_login_and_confirmation(
        self, provider: Provider, client: Client
    ) -> None:
        make_user("ana", password="secret")
        response = post(client, "new", next="/page/")
        assert response.json()["status"] == "login_required"
        login = urlsplit(response.json()["redirect"])
        assert login.path == "/accounts/login/"
        assert parse_qs(login.query) == {"next": [reverse("leadexec:confirm")]}
        assert not provider.calls
        client.login(username="ana", password="secret")
        assert b"ana" in client.get(reverse("leadexec:confirm")).content
        assert not LeadExecConnection.objects.exists()
        response = agree(client)
        assert response["Location"] == "/page/"
        assert LeadExecConnection.objects.get().user.username == "ana"

    @pytest.mark.parametrize("host", ["accounts.example.org", "testserver"])
    def test_a_login_page_on_another_host_is_reached_by_way_of_the_confirm_page(
        self, provider: Provider, client: Client, settings: Settings, host: str
    ) -> None:
        settings.LOGIN_URL = f"http://{host}/login/"
        redirect = post(client, "t").json()["redirect"]
        login = f"http://{host}/login/?next="
        if host == "testserver":  # which the page follows by itself
            assert redirect.startswith(login)
        else:
            assert redirect == reverse("leadexec:confirm")
            assert client.get(redirect)["Location"].startswith(login)

    @pytest.mark.parametrize(("next_url", "after"), [("/leads/", "/leads/"), (None, "/home/")])
    @pytest.mark.parametrize("answer", ["yes", "no"])
    def test_after_the_confirm_page_they_are_where_they_began_or_where_a_login_leads(
        self, provider: Provider, client: Client, settings: Settings,
        next_url: str | None, after: str, answer: str,
    ) -> None:  # fmt: skip
        settings.LOGIN_REDIRECT_URL = "/home/"
        post(client, "new", next=next_url)
        client.force_login(make_user())
        form = confirmed(client, link_shown(client)) | {"confirm": answer}
        assert client.post(reverse("leadexec:confirm"), form)["Location"] == after

    def test_the_waiting_token_lies_encrypted_in_the_session(
        self, provider: Provider, client: Client
    ) -> None:
        post(client, "canary-token")
        assert "canary-token" not in json.dumps(dict(client.session))

    def test_no_drops_the_link(self, provider: Provider, client: Client) -> None:
        user = make_user()
        post(client, "new")
        client.force_login(user)
        link = link_shown(client)
        client.post(reverse("leadexec:confirm"), {"confirm": "no"})
        agree(client, link)
        assert not LeadExecConnection.objects.exists()
        assert not provider.calls

    def test_a_link_waits_ten_minutes_at_most(
        self, provider: Provider, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("django_leadexec.pending_link.LIFETIME", -1)
        post(client, "new")
        client.force_login(make_user())
        agree(client)
        assert not LeadExecConnection.objects.exists()

    def test_logging_out_drops_the_link(self, provider: Provider, client: Client) -> None:
        post(client, "new")
        client.force_login(make_user())
        link = link_shown(client)
        client.logout()
        client.force_login(make_user())
        agree(client, link)
        assert not LeadExecConnection.objects.exists()

    def test_the_confirm_page_belongs_to_the_first_who_sees_it(
        self, provider: Provider, client: Client
    ) -> None:
        post(client, "new")
        first, second = make_user(), make_user()
        client.force_login(first)
        link = link_shown(client)
        session = client.session
        kept = session["leadexec_pending_link"]
        client.force_login(second)
        session = client.session
        session["leadexec_pending_link"] = kept
        session.save()
        agree(client, link)
        assert not LeadExecConnection.objects.exists()

    def test_an_unavailable_provider_at_the_confirmation_keeps_the_link(
        self, provider: Provider, client: Client
    ) -> None:
        post(client, "new")
        client.force_login(make_user())
        provider.answers["new"] = stand_in.unavailable
        response = agree(client)
        assert response.status_code == 502
        assert b"LeadExec does not answer as it should." in response.content
        del provider.answers["new"]
        agree(client)
        assert plain(LeadExecConnection.objects.get().refresh_token) == "new"

    def test_a_refusal_at_the_confirmation_links_nothing(
        self, provider: Provider, client: Client
    ) -> None:
        post(client, "new")
        client.force_login(make_user())
        provider.answers["new"] = stand_in.refused
        response = agree(client)
        assert response.status_code == 302
        assert not LeadExecConnection.objects.exists()

    def test_without_a_click_nothing_happens(self, provider: Provider, client: Client) -> None:
        make_connection("on-file")
        for token in ("new", "on-file"):
            assert post(client, token, False).json()["status"] == "ignored"
        assert not provider.calls
        assert not client.session.keys()


@pytest.mark.usefixtures("sign_in")
class TestSignIn:
    def test_a_click_with_a_token_on_file_signs_its_user_in(
        self, provider: Provider, client: Client
    ) -> None:
        row = make_connection("on-file")
        response = post(client, "on-file", next="/page/")
        assert response.json() == {"status": "signed_in", "redirect": "/page/"}
        assert user_of(client) == row.user.username
        assert provider.refreshes["on-file"] == 1

    def test_the_session_is_a_new_one(self, provider: Provider, client: Client) -> None:
        make_connection("on-file")
        session = client.session
        session["planted"] = True
        session.save()
        before = session.session_key
        client.cookies["sessionid"] = str(before)
        post(client, "on-file")
        assert client.session.session_key != before

    def test_a_user_deleted_amid_their_log_in_is_told_so_and_not_logged_in(
        self, provider: Provider, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        user = make_connection("known").user

        def may_sign_in(asked: Any) -> bool:
            elsewhere(lambda: get_user_model().objects.filter(pk=user.pk).delete())
            return True

        monkeypatch.setattr(backends, "may_sign_in", may_sign_in)
        response = post(client, "known")
        assert_error(response, 403, "not_allowed")
        assert user_of(client) is None
        assert returning.COOKIE not in response.cookies

    def test_another_failure_of_the_database_amid_a_log_in_is_not_taken_for_that(
        self, provider: Provider, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*arguments: object) -> None:
            raise DatabaseError("for the test")

        make_connection("known")
        monkeypatch.setattr("django.contrib.auth.login", fail)
        with pytest.raises(DatabaseError):
            post(client, "known")

    def test_a_known_account_signs_in_with_another_token(
        self, provider: Provider, client: Client, identify: None
    ) -> None:
        row = make_connection("acme-1", account_id="acme")
        assert post(client, "acme-2").json()["status"] == "signed_in"
        assert user_of(client) == row.user.username
        row.refresh_from_db()
        assert plain(row.refresh_token) == "acme-2"

    def test_a_refused_token_signs_nobody_in(self, provider: Provider, client: Client) -> None:
        make_connection("on-file")
        provider.answers["on-file"] = stand_in.refused
        assert_error(post(client, "on-file"), 422, "rejected")
        assert user_of(client) is None

    @pytest.mark.parametrize("flag", ["is_staff", "is_superuser", "inactive"])
    def test_staff_superusers_and_the_inactive_are_never_signed_in(
        self, provider: Provider, client: Client, flag: str
    ) -> None:
        fields: dict[str, Any] = {"is_active": False} if flag == "inactive" else {flag: True}
        make_connection("on-file", user=make_user(**fields))
        assert_error(post(client, "on-file"), 403, "not_allowed")
        assert user_of(client) is None
        assert not provider.calls

    def test_who_is_hidden_by_the_default_manager_is_never_signed_in(
        self, provider: Provider, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        user = make_connection("on-file").user
        manager = type(user)._default_manager
        find = type(manager).get_queryset
        monkeypatch.setattr(
            type(manager), "get_queryset", lambda self: find(self).exclude(pk=user.pk)
        )
        assert_error(post(client, "on-file"), 403, "not_allowed")
        assert user_of(client) is None

    def test_who_becomes_staff_is_signed_out(self, provider: Provider, client: Client) -> None:
        row = make_connection("on-file")
        post(client, "on-file")
        get_user_model().objects.filter(pk=row.user.pk).update(is_staff=True)
        assert not client.get("/page/").wsgi_request.user.is_authenticated

    def test_an_unknown_account_waits_for_login(
        self, provider: Provider, client: Client, identify: None
    ) -> None:
        assert post(client, "acme-1").json()["status"] == "login_required"
        assert not LeadExecConnection.objects.exists()

    def test_the_automatic_return_signs_in_the_browser_of_an_earlier_sign_in(
        self, provider: Provider, client: Client
    ) -> None:
        row = make_connection("on-file")
        post(client, "on-file")
        assert client.cookies[returning.COOKIE]["httponly"]
        del client.cookies["sessionid"]  # as if it had run out
        assert post(client, "on-file", False).json()["status"] == "signed_in"
        assert user_of(client) == row.user.username

    def test_another_browser_does_not_return_without_a_click(
        self, provider: Provider, client: Client
    ) -> None:
        make_connection("on-file")
        post(client, "on-file")
        assert post(Client(), "on-file", False).json()["status"] == "ignored"

    def test_a_sign_out_anywhere_holds_the_automatic_return_back(
        self, provider: Provider, client: Client
    ) -> None:
        row = make_connection("on-file")
        post(client, "on-file")
        elsewhere = Client()
        elsewhere.force_login(row.user, backend="django.contrib.auth.backends.ModelBackend")
        elsewhere.logout()
        del client.cookies["sessionid"]
        assert post(client, "on-file", False).json()["status"] == "ignored"
        assert post(client, "on-file", True).json()["status"] == "signed_in"
        del client.cookies["sessionid"]
        assert post(client, "on-file", False).json()["status"] == "signed_in"

    def test_a_new_password_ends_the_automatic_return(
        self, provider: Provider, client: Client
    ) -> None:
        row = make_connection("on-file")
        post(client, "on-file")
        row.user.set_password("changed")
        row.user.save()
        del client.cookies["sessionid"]
        assert post(client, "on-file", False).json()["status"] == "ignored"

    def test_a_tampered_return_cookie_is_worth_nothing(
        self, provider: Provider, client: Client
    ) -> None:
        make_connection("on-file")
        post(client, "on-file")
        del client.cookies["sessionid"]
        client.cookies[returning.COOKIE] = client.cookies[returning.COOKIE].value[:-1] + "x"
        assert post(client, "on-file", False).json()["status"] == "ignored"

    def test_a_browser_returns_only_by_its_own_connection(
        self, provider: Provider, client: Client
    ) -> None:
        make_connection("mine")
        make_connection("other")
        post(client, "mine")
        del client.cookies["sessionid"]
        assert post(client, "other", False).json()["status"] == "ignored"


@pytest.mark.usefixtures("sign_in", "identify")
class TestCreateUser:
    @pytest.fixture(autouse=True)
    def create_user(self, settings: Settings) -> None:
        settings.LEADEXEC = settings.LEADEXEC | {"CREATE_USER": "tests.site.create_user"}

    def test_an_unknown_account_gets_a_user_of_its_own(
        self, provider: Provider, client: Client
    ) -> None:
        assert post(client, "acme-1").json()["status"] == "signed_in"
        assert user_of(client) == "user of acme"
        assert LeadExecConnection.objects.get().account_id == "acme"
        client.logout()
        assert post(client, "acme-2").json()["status"] == "signed_in"
        assert get_user_model().objects.count() == 1

    def test_without_a_click_nobody_is_made(self, provider: Provider, client: Client) -> None:
        assert post(client, "acme-1", False).json()["status"] == "ignored"
        assert not get_user_model().objects.exists()

    @pytest.mark.parametrize("answer", ["hand_out_an_existing_user", "make_a_superuser"])
    def test_only_a_new_ordinary_user_will_do(
        self, provider: Provider, client: Client, settings: Settings, answer: str
    ) -> None:
        make_user("somebody")
        settings.LEADEXEC = settings.LEADEXEC | {"CREATE_USER": f"tests.site.{answer}"}
        client.raise_request_exception = False
        assert post(client, "acme-1").status_code == 500
        assert user_of(client) is None
        assert not LeadExecConnection.objects.exists()
        assert get_user_model().objects.count() == 1

    @pytest.mark.parametrize("answer", ["answer_none", "answer_the_word_null", "answer_too_much"])
    def test_an_account_that_names_nothing_connects_nothing(
        self, provider: Provider, client: Client, settings: Settings, answer: str
    ) -> None:
        settings.LEADEXEC = settings.LEADEXEC | {"IDENTIFY": f"tests.site.{answer}"}
        assert_error(post(client, "acme-1"), 502, "unavailable")
        assert not LeadExecConnection.objects.exists()


class TestAnswers:
    @pytest.mark.parametrize(
        "token", ["", ".", "..", "a b", "a\nb", "a\0b", "ä", "x" * 2049, 7, None, ["t"]]
    )
    def test_what_cannot_be_a_token_is_malformed(
        self, provider: Provider, client: Client, ana: Any, token: object
    ) -> None:
        assert_error(post(client, token), 400, "malformed")
        assert not provider.calls

    @pytest.mark.parametrize("body", ["", "[]", "{", '{"token": "t"}', "[" * 10_000, '"t"', "\xff"])
    def test_a_body_that_cannot_be_read_is_malformed(self, client: Client, body: str) -> None:
        response = client.post(reverse("leadexec:callback"), body, content_type="application/json")
        assert_error(response, 400, "malformed")

    def test_a_gesture_is_true_or_false(self, client: Client) -> None:
        assert_error(post(client, "t", "yes"), 400, "malformed")

    def test_a_form_is_not_json(self, client: Client) -> None:
        response = client.post(reverse("leadexec:callback"), {"token": "t"})
        assert_error(response, 400, "malformed")

    def test_too_much_is_not_even_read(self, client: Client) -> None:
        assert_error(post(client, "x" * 20_000), 413, "too_large")

    def test_only_post_is_allowed(self, client: Client) -> None:
        response = client.get(reverse("leadexec:callback"))
        assert_error(response, 405, "method")
        assert response["Allow"] == "POST"

    def test_a_csrf_failure_is_json(self) -> None:
        response = post(Client(enforce_csrf_checks=True), "t")
        assert_error(response, 403, "csrf")

    def test_the_reason_of_a_csrf_failure_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        strict = Client(enforce_csrf_checks=True, headers={"origin": "https://proxy.example\x1b"})
        post(strict, "t")
        [record] = [record for record in caplog.records if record.name == endpoints.__name__]
        assert record.getMessage() == (
            "A post failed the CSRF check of /leadexec/callback/: Origin checking failed - "
            "https://proxy.example\\x1b does not match any trusted origins."
        )

    @pytest.mark.parametrize("in_session", [True, False])
    def test_the_csrf_token_passes_wherever_it_is_kept(
        self, provider: Provider, settings: Settings, in_session: bool
    ) -> None:
        settings.CSRF_USE_SESSIONS = in_session
        settings.CSRF_COOKIE_HTTPONLY = True
        client = Client(enforce_csrf_checks=True)
        csrf_token = client.get(reverse("leadexec:state")).json()["csrf_token"]
        response = client.post(
            reverse("leadexec:callback"),
            json.dumps(callback_body(client)),
            content_type="application/json",
            headers={"X-CSRFToken": csrf_token},
        )
        assert response.json()["status"] == "login_required"

    def test_a_refusal_is_422(self, provider: Provider, client: Client, ana: Any) -> None:
        provider.answers["bad-token"] = stand_in.refused
        assert_error(post(client, "bad-token"), 422, "rejected")

    @pytest.mark.parametrize(
        ("answer", "words", "logged"),
        [
            (stand_in.refused, "LeadExec refuses this authorization.", "not valid"),
            (stand_in.unavailable, "LeadExec does not answer as it should.", "HTTP 503"),
        ],
    )
    def test_an_error_is_told_in_the_visitors_words_and_language_and_logged_in_its_own(
        self,
        provider: Provider,
        client: Client,
        ana: Any,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        answer: Any,
        words: str,
        logged: str,
    ) -> None:
        monkeypatch.setattr("django.utils.translation._trans.gettext", lambda text: f"«{text}»")
        provider.answers["new"] = answer
        message = post(client, "new").json()["error"]["message"]
        assert message.startswith(f"«{words}")
        assert logged not in message
        assert logged in caplog.text

    def test_an_unavailable_provider_is_502(
        self, provider: Provider, client: Client, ana: Any
    ) -> None:
        provider.answers["new"] = stand_in.throttling(30)
        response = post(client, "new")
        assert_error(response, 502, "unavailable")
        assert response["Retry-After"] == "30"
        assert not LeadExecConnection.objects.exists()

    @pytest.mark.usefixtures("set_clock")
    def test_the_rate_of_provider_calls_is_limited(
        self, provider: Provider, client: Client, ana: Any, settings: Settings
    ) -> None:
        settings.LEADEXEC = settings.LEADEXEC | {"CALLBACK_RATE": "2/d"}
        settings.CACHES = {
            "default": {
                "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
                "LOCATION": "rate",
            }
        }
        assert [post(client, f"t{number}").status_code for number in range(3)] == [200, 200, 429]
        assert int(post(client, "t4")["Retry-After"]) > 0
        assert sum(provider.refreshes.values()) == 2

    @pytest.mark.parametrize(
        "wanted",
        ["//evil.example", "https://evil.example/", "javascript:alert(1)", "\\\\evil.example", ""],
    )
    def test_next_stays_within_the_site(
        self, provider: Provider, client: Client, ana: Any, wanted: str
    ) -> None:
        assert post(client, "t", next=wanted).json()["redirect"] is None

    def test_answers_are_never_cached_and_hold_no_token(
        self, provider: Provider, client: Client, ana: Any
    ) -> None:
        response = post(client, "canary-token")
        assert "no-store" in response["Cache-Control"]
        assert "canary" not in response.content.decode() + str(response.headers)

    def test_a_token_in_the_outbox_is_revoked_and_not_linked(
        self, provider: Provider, client: Client, ana: Any
    ) -> None:
        make_connection("t", user=ana)
        LeadExecConnection.objects.all().move_to_outbox()
        assert_error(post(client, "t"), 409, "revoking")
        assert provider.revoked == {"t"}
        assert not LeadExecConnection.objects.live().exists()


class TestDisconnect:
    def disconnect(self, client: Client, **fields: Any) -> Any:
        return client.post(reverse("leadexec:disconnect"), fields)

    def test_a_form_revokes_the_connection_and_goes_back(
        self, provider: Provider, client: Client, ana: Any
    ) -> None:
        row = make_connection("t", user=ana)
        response = self.disconnect(client, connection=row.pk, next="/page/?x=1")
        assert response["Location"] == "/page/?x=1"
        assert provider.revoked == {"t"}

    @pytest.mark.parametrize(
        ("referer", "expected"),
        [
            ("http://testserver/leads/?page=2&q=a%20b", "/leads/?page=2&q=a%20b"),
            ("http://testserver/leads/", "/leads/"),
            ("http://testserver//evil.test/?x=1", "/page/"),
            ("https://evil.test/leads/?page=2", "/page/"),
        ],
    )
    def test_without_next_it_goes_back_to_the_page_the_form_stood_on(
        self, provider: Provider, client: Client, ana: Any, referer: str, expected: str
    ) -> None:
        make_connection("t", user=ana)
        response = client.post(reverse("leadexec:disconnect"), headers={"Referer": referer})
        assert response["Location"] == expected

    def test_on_a_site_without_messages_it_goes_back_in_silence(
        self, provider: Provider, client: Client, ana: Any, settings: Settings
    ) -> None:
        settings.MIDDLEWARE = [it for it in settings.MIDDLEWARE if "messages" not in it]
        make_connection("t", user=ana)
        assert self.disconnect(client, next="/page/?x=1")["Location"] == "/page/?x=1"
        assert provider.revoked == {"t"}

    def test_the_only_connection_need_not_be_named(
        self, provider: Provider, client: Client, ana: Any
    ) -> None:
        make_connection("t", user=ana)
        response = client.post(
            reverse("leadexec:disconnect"), headers={"Accept": "application/json"}
        )
        assert response.json() == {
            "status": "disconnected",
            "message": "LeadExec is disconnected.",
            "redirect": "/page/",
        }

    def post_json(self, client: Client, body: str) -> Any:
        url = reverse("leadexec:disconnect")
        return client.post(url, body, content_type="application/json")

    def test_a_script_may_post_json(self, provider: Provider, client: Client, ana: Any) -> None:
        make_connection("a", user=ana, account_id="a")
        row = make_connection("b", user=ana, account_id="b")
        body = json.dumps({"connection": row.pk, "next": "/page/?x=1"})
        answer = self.post_json(client, body).json()
        assert (answer["status"], answer["redirect"]) == ("disconnected", "/page/?x=1")
        assert provider.revoked == {"b"}

    @pytest.mark.parametrize("named", [999_999, 0, -1, 1.5, True, [], {}, "x", "1e3", 10**30])
    def test_a_script_that_names_what_is_not_the_users_own_is_told_so(
        self, provider: Provider, client: Client, ana: Any, named: object
    ) -> None:
        make_connection("mine", user=ana)
        body = json.dumps({"connection": named})
        assert_error(self.post_json(client, body), 404, "not_found")
        assert LeadExecConnection.objects.active().count() == 1

    def test_what_else_a_script_posts_is_in_no_traceback(
        self, client: Client, ana: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(row: LeadExecConnection) -> bool:
            raise RuntimeError("failed on purpose")

        make_connection("mine", user=ana)
        monkeypatch.setattr(views, "start_revocation", fail)
        with pytest.raises(RuntimeError, match="on purpose") as caught:
            self.post_json(client, '{"token": "canary"}')
        frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
        modules = {views.__name__, endpoints.__name__}
        ours = [frame for frame in frames if frame.f_globals["__name__"] in modules]
        assert {frame.f_globals["__name__"] for frame in ours} == modules
        assert "canary" not in repr([frame.f_locals for frame in ours])

    @pytest.mark.parametrize("body", ["[]", "{", '"x"', '{"next": 1}'])
    def test_a_script_that_posts_what_cannot_be_read_revokes_nothing(
        self, client: Client, ana: Any, body: str
    ) -> None:
        make_connection("mine", user=ana)
        assert_error(self.post_json(client, body), 400, "malformed")
        assert LeadExecConnection.objects.active().count() == 1

    def test_an_unreachable_provider_is_told_later(
        self, provider: Provider, client: Client, ana: Any
    ) -> None:
        make_connection("t", user=ana)
        provider.answers["disconnect t"] = stand_in.unavailable
        response = client.post(
            reverse("leadexec:disconnect"), headers={"Accept": "application/json"}
        )
        assert response.json()["status"] == "disconnected"
        assert provider.calls["disconnectapplicationtoken"] == 1
        assert PendingRevocation.objects.get().attempts == 1

    def test_what_fails_after_the_answer_is_logged_and_the_request_ends(
        self,
        client: Client,
        ana: Any,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def fail(fingerprint: str, using: str) -> bool:
            raise RuntimeError("failed on purpose")

        ended: list[object] = []

        def hear(**kwargs: object) -> None:
            ended.append(kwargs)

        make_connection("t", user=ana)
        monkeypatch.setattr("django_leadexec.revocation.send_revocation", fail)
        request_finished.connect(hear)
        try:
            assert self.disconnect(client).status_code == 302
        finally:
            request_finished.disconnect(hear)
        assert len(ended) == 1
        assert "after a response" in caplog.text
        assert PendingRevocation.objects.exists()

    def message(self, client: Client, **fields: Any) -> str:
        url = reverse("leadexec:disconnect")
        response = client.post(url, {"next": "/page/", **fields}, follow=True)
        assert response.redirect_chain == [("/page/", 302)]
        return [str(message) for message in get_messages(response.wsgi_request)][-1]

    def test_a_form_that_is_sent_twice_says_that_it_is_done(
        self, provider: Provider, client: Client, ana: Any
    ) -> None:
        row = make_connection("t", user=ana)
        assert self.message(client, connection=row.pk) == "LeadExec is disconnected."
        assert self.message(client, connection=row.pk) == "LeadExec was disconnected already."
        assert provider.calls["disconnectapplicationtoken"] == 1

    def test_an_old_page_ends_no_newer_connection(
        self, provider: Provider, client: Client, ana: Any
    ) -> None:
        old = make_connection("old", user=ana)
        old.revoke()
        make_connection("new", user=ana)
        assert self.message(client, connection=old.pk) == "LeadExec was disconnected already."
        assert LeadExecConnection.objects.active().count() == 1

    @pytest.mark.parametrize("fields", [{}, {"connection": "999999"}, {"connection": "x"}])
    def test_who_has_no_connection_is_told_that_it_is_done(
        self, client: Client, ana: Any, fields: dict[str, str]
    ) -> None:
        assert self.message(client, **fields) == "LeadExec was disconnected already."

    def test_who_has_none_learns_nothing_of_other_users(self, client: Client, ana: Any) -> None:
        theirs, gone = make_connection("theirs"), make_connection("gone")
        LeadExecConnection.objects.filter(pk=gone.pk).move_to_outbox()
        for key in (theirs.pk, gone.pk, 999_999):
            said = self.message(client, connection=key)
            assert said == "LeadExec was disconnected already."
        assert LeadExecConnection.objects.active().count() == 1

    def test_a_script_is_told_so_too(self, provider: Provider, client: Client, ana: Any) -> None:
        row = make_connection("t", user=ana)
        body = json.dumps({"connection": row.pk})
        answers = [self.post_json(client, body).json()["status"] for _ in range(2)]
        assert answers == ["disconnected", "already_disconnected"]

    @pytest.mark.parametrize("named", ["999999", "x", "1e3", "9" * 30, "-1"])
    def test_what_is_not_the_users_own_is_not_found(
        self, provider: Provider, client: Client, ana: Any, named: str
    ) -> None:
        make_connection("mine", user=ana)
        theirs, gone = make_connection("theirs"), make_connection("gone")
        LeadExecConnection.objects.filter(pk=gone.pk).move_to_outbox()
        for key in (named, str(theirs.pk), str(gone.pk)):
            assert self.disconnect(client, connection=key).status_code == 404
        assert LeadExecConnection.objects.active().count() == 2

    def test_two_connections_have_to_be_told_apart(
        self, provider: Provider, client: Client, ana: Any
    ) -> None:
        make_connection("a", user=ana, account_id="a")
        make_connection("b", user=ana, account_id="b")
        assert self.disconnect(client).status_code == 404

    def test_the_anonymous_are_sent_to_log_in(self, client: Client) -> None:
        response = self.disconnect(client)
        assert response["Location"].startswith("/accounts/login/")

    def test_it_needs_post_and_csrf(self, ana: Any, client: Client) -> None:
        assert client.get(reverse("leadexec:disconnect")).status_code == 405
        strict = Client(enforce_csrf_checks=True)
        strict.force_login(ana)
        assert self.disconnect(strict).status_code == 403

    def test_a_forms_csrf_failure_is_told_by_the_sites_own_page(self, settings: Settings) -> None:
        settings.CSRF_FAILURE_VIEW = f"{__name__}.tell_of_forgery"
        response = self.disconnect(Client(enforce_csrf_checks=True))
        assert (response.status_code, response.content) == (403, b"our own page")
        assert "no-store" in response["Cache-Control"]


class TestConnect:
    def test_it_and_the_confirm_page_put_the_nonce_on_their_stylesheet(
        self, provider: Provider, client: Client, ana: Any, sign_in: None, settings: Settings
    ) -> None:
        settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.lazy_nonce"]
        post(client, "new")
        for name in ("connect", "confirm"):
            page = client.get(reverse(f"leadexec:{name}")).content.decode()
            assert page.count('nonce="abc+/="') == page.count("<link") + page.count("<script") > 0

    def test_it_shows_the_button_and_where_to_go_on(self, client: Client, ana: Any) -> None:
        page = client.get(reverse("leadexec:connect"), {"next": "/leads/"}).content.decode()
        assert 'id="leAppButton"' in page
        assert 'data-next="/leads/"' in page

    def test_neither_page_can_be_framed(
        self, provider: Provider, client: Client, ana: Any, sign_in: None, settings: Settings
    ) -> None:
        # Whatever the site allows for its other pages.
        settings.X_FRAME_OPTIONS = "SAMEORIGIN"
        post(client, "new")
        for name in ("connect", "confirm"):
            response = client.get(reverse(f"leadexec:{name}"))
            assert (response.status_code, response["X-Frame-Options"]) == (200, "DENY")

    def test_it_can_be_asked_for_its_head(self, client: Client, ana: Any) -> None:
        assert client.head(reverse("leadexec:connect")).status_code == 200

    def test_who_is_connected_goes_on_at_once(self, client: Client, ana: Any) -> None:
        make_connection(user=ana)
        response = client.get(reverse("leadexec:connect"), {"next": "/leads/"})
        assert response["Location"] == "/leads/"

    def test_it_leads_nowhere_else(self, client: Client, ana: Any) -> None:
        make_connection(user=ana)
        response = client.get(reverse("leadexec:connect"), {"next": "//evil.example"})
        assert response["Location"] == "/page/"


class TestBehindLoginRequiredMiddleware:
    @pytest.fixture(autouse=True)
    def middleware(self, settings: Settings) -> None:
        name = "django.contrib.auth.middleware.LoginRequiredMiddleware"
        settings.MIDDLEWARE = [*settings.MIDDLEWARE, name]

    def test_a_stranger_signs_in_all_the_same(
        self, provider: Provider, client: Client, sign_in: None
    ) -> None:
        row = make_connection("known")
        assert post(client, "known").json()["status"] == "signed_in"
        assert user_of(client) == row.user.username

    def test_a_script_of_a_strangers_is_answered_in_json(self, client: Client) -> None:
        response = client.post(
            reverse("leadexec:disconnect"), "{}", content_type="application/json"
        )
        assert_error(response, 403, "not_allowed")

    @pytest.mark.parametrize("name", ["confirm", "connect"])
    def test_the_pages_still_ask_for_a_log_in(self, client: Client, name: str) -> None:
        response = client.get(reverse(f"leadexec:{name}"))
        assert response["Location"].startswith("/accounts/login/")


@pytest.mark.parametrize("name", ["callback", "disconnect", "confirm"])
def test_no_view_that_calls_the_provider_runs_in_a_transaction(name: str) -> None:
    from django.urls import resolve

    view = resolve(reverse(f"leadexec:{name}")).func
    assert view._non_atomic_requests == {"default"}  # type: ignore[attr-defined]


def test_what_fails_after_the_answer_is_logged_by_its_kind_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> None:
        raise RuntimeError("a-token")

    response = HttpResponse()
    responses.after_response(response, fail)
    response.close()
    assert "RuntimeError" in caplog.text
    assert "a-token" not in caplog.text
    assert response.closed
