"""A session that is not the one a page was made with: another's, an older one, or a planted one.

A site under the same domain can set a session cookie for the whole domain. Then a page of the
victim's posts into a session of the attacker's. test_sibling_hosts does so in a real browser.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.http import HttpRequest, HttpResponse
from django.test import Client
from pytest_django import Settings

from django_leadexec import pending_link
from django_leadexec.models import LeadExecConnection
from django_leadexec.visitor_mark import mark_of

from ..factories import make_connection, make_user
from ..provider import Provider
from ..visitor import (
    CALLBACK,
    CONFIRM,
    LOGIN,
    STATE,
    agree,
    assert_error,
    callback_body,
    link_shown,
    mark_for,
    post,
    user_of,
)

pytestmark = pytest.mark.django_db(transaction=True)


def hijacking(get_response: Callable[[HttpRequest], HttpResponse]) -> Any:
    """As a tool that lets staff see the site as a user does."""

    def middleware(request: HttpRequest) -> HttpResponse:
        if request.COOKIES.get("hijacked"):
            request.user = get_user_model().objects.get(username=request.COOKIES["hijacked"])
        return get_response(request)

    return middleware


@pytest.fixture
def attacker() -> Client:
    client = Client()
    client.force_login(make_user("attacker"), backend=LOGIN)
    return client


def plant(browser: Client, of: Client) -> None:
    browser.cookies["sessionid"] = of.cookies["sessionid"].value


@pytest.mark.parametrize("sign_in", [True, False])
@pytest.mark.parametrize("clicked", [True, False])
class TestTheCallback:
    @pytest.fixture(autouse=True)
    def configured(self, configure: Callable[..., None], sign_in: bool) -> None:
        configure(SIGN_IN=sign_in)

    def test_a_page_of_the_victims_links_nothing_to_the_attacker(
        self, client: Client, victim: Any, provider: Provider, attacker: Client, clicked: bool
    ) -> None:
        mark = mark_for(client)
        plant(client, attacker)
        for token in ("victims", "on-file"):
            make_connection("on-file", user=victim)
            assert_error(post(client, token, clicked, visitor=mark), 409, "reload")
        assert LeadExecConnection.objects.get().user == victim
        assert pending_link.KEY not in attacker.session
        assert not provider.calls

    def test_a_page_for_strangers_does_not_either(
        self, client: Client, provider: Provider, attacker: Client, clicked: bool
    ) -> None:
        plant(client, attacker)
        response = post(client, "victims", clicked, visitor=mark_of(None))
        assert_error(response, 409, "reload")
        assert not LeadExecConnection.objects.exists()
        assert pending_link.KEY not in attacker.session
        assert not provider.calls

    def test_a_page_of_the_victims_says_nothing_for_a_stranger(
        self, client: Client, victim: Any, provider: Provider, clicked: bool
    ) -> None:
        # Their session has ended, or a stranger's was planted.
        make_connection("on-file", user=victim)
        mark = mark_for(client)
        client.logout()
        assert_error(post(client, "on-file", clicked, visitor=mark), 409, "reload")
        assert user_of(client) is None
        assert pending_link.KEY not in client.session
        assert not provider.calls

    @pytest.mark.parametrize("visitor", [None, "", "x", "é", "\ud800", "0" * 64], ids=ascii)
    @pytest.mark.parametrize("logged_in", [True, False])
    def test_a_page_without_a_mark_or_with_a_made_up_one_does_nothing(
        self, client: Client, provider: Provider, clicked: bool, visitor: str, logged_in: bool
    ) -> None:
        if logged_in:
            client.force_login(make_user(), backend=LOGIN)
        assert_error(post(client, "new", clicked, visitor=visitor), 409, "reload")
        body = callback_body(client, "new", clicked)
        del body["visitor"]
        response = client.post(CALLBACK, json.dumps(body), content_type="application/json")
        assert_error(response, 409, "reload")
        assert not LeadExecConnection.objects.exists()
        assert not provider.calls

    def test_who_has_logged_in_in_another_tab_is_asked_to_reload(
        self, client: Client, provider: Provider, clicked: bool
    ) -> None:
        mark = mark_for(client)
        client.force_login(make_user("first"), backend=LOGIN)
        assert_error(post(client, "new", clicked, visitor=mark), 409, "reload")
        mark = mark_for(client)
        client.force_login(make_user("second"), backend=LOGIN)
        assert_error(post(client, "new", clicked, visitor=mark), 409, "reload")
        assert not provider.calls

    def test_the_same_user_in_a_new_session_goes_on(
        self, client: Client, victim: Any, provider: Provider, clicked: bool
    ) -> None:
        # A new password, or logging in once more, changes the session's key and not the visitor.
        make_connection("on-file", user=victim)
        mark = mark_for(client)
        before = client.session.session_key
        client.logout()
        client.force_login(victim, backend=LOGIN)
        assert client.session.session_key != before
        assert post(client, "on-file", clicked, visitor=mark).json()["status"] == "connected"

    def test_it_follows_the_user_whom_the_site_shows_and_not_the_session(
        self,
        client: Client,
        victim: Any,
        provider: Provider,
        settings: Settings,
        clicked: bool,
    ) -> None:
        settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.hijacking"]
        seen = make_user("seen")
        make_connection("on-file", user=seen)
        of_staff = client.get(STATE).json()["visitor"]
        assert of_staff == mark_of(victim)
        client.cookies["hijacked"] = "seen"
        of_seen = client.get(STATE).json()["visitor"]
        assert of_seen == mark_of(seen)
        assert_error(post(client, "on-file", clicked, visitor=of_staff), 409, "reload")
        assert post(client, "on-file", clicked, visitor=of_seen).json()["status"] == "connected"


class TestPlantedStrangers:
    """The attacker's session is a stranger's: its mark is that of all strangers."""

    @pytest.fixture(params=[True, False])
    def sign_in(self, request: pytest.FixtureRequest, configure: Callable[..., None]) -> bool:
        configure(SIGN_IN=request.param, IDENTIFY="tests.site.identify")
        return bool(request.param)

    @pytest.mark.parametrize("engine", ["db", "cached_db", "cache", "file", "signed_cookies"])
    def test_the_attacker_does_not_find_the_victims_link_in_it(
        self, client: Client, provider: Provider, settings: Settings, sign_in: bool, engine: str
    ) -> None:
        settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
        attacker = Client()
        assert post(attacker, "attackers-1").json()["status"] == "login_required"
        planted = attacker.cookies["sessionid"].value
        client.cookies["sessionid"] = planted
        assert post(client, "victims-1").json()["status"] == "login_required"
        attacker.cookies["sessionid"] = planted
        user = make_user("attacker")
        attacker.force_login(user, backend=LOGIN)
        agree(attacker)
        assert not LeadExecConnection.objects.filter(account_id="victims").exists()
        # The victim goes on with their own.
        client.force_login(make_user("victim"), backend=LOGIN)
        assert agree(client).status_code == 302
        assert LeadExecConnection.objects.get(account_id="victims").user.username == "victim"

    def test_what_else_the_session_holds_stays(
        self, client: Client, provider: Provider, sign_in: bool
    ) -> None:
        session = client.session
        session["cart"] = ["a lead"]
        session.save()
        assert post(client, "new-1").json()["status"] == "login_required"
        assert client.session["cart"] == ["a lead"]


class TestTheConfirmPage:
    @pytest.fixture(autouse=True)
    def sign_in(self, configure: Callable[..., None]) -> None:
        configure(SIGN_IN=True, IDENTIFY="tests.site.identify")

    @pytest.mark.parametrize("has_link", [True, False])
    def test_a_page_of_the_victims_confirms_nothing_in_the_attackers_session(
        self, client: Client, victim: Any, provider: Provider, attacker: Client, has_link: bool
    ) -> None:
        post(client, "victims-1")
        if has_link:
            post(attacker, "attackers-1")
        page = client.get(CONFIRM)
        form = {name: page.context[name] for name in ("link", "visitor")} | {"confirm": "yes"}
        plant(client, attacker)
        response = client.post(CONFIRM, form)
        assert response.status_code == (409 if has_link else 302)
        assert not LeadExecConnection.objects.exists()

    @pytest.mark.parametrize("visitor", [None, "", "x", "nobody"])
    def test_a_yes_needs_the_mark_of_whom_the_page_was_shown(
        self, client: Client, victim: Any, provider: Provider, visitor: str | None
    ) -> None:
        post(client, "victims-1")
        form = {"confirm": "yes", "link": link_shown(client)}
        if visitor is not None:
            form["visitor"] = mark_of(None) if visitor == "nobody" else visitor
        assert client.post(CONFIRM, form).status_code == 409
        assert not LeadExecConnection.objects.exists()
        assert agree(client).status_code == 302
        assert LeadExecConnection.objects.get().user == victim
