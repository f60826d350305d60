"""Links that wait for a log-in, planted ones included, and the page that confirms them."""

import json
import time
from collections.abc import Callable

import pytest
from django.contrib.messages import get_messages
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from django_leadexec import accounts, pending_link
from django_leadexec.models import LeadExecConnection

from . import provider as stand_in
from .factories import make_connection, make_user
from .provider import Provider
from .visitor import (
    CONFIRM,
    CONNECT,
    LOGIN,
    agree,
    confirmed,
    link_shown,
    post,
)

pytestmark = pytest.mark.django_db(transaction=True)


class TestPlantedLinks:
    """Somebody leaves a link behind in a browser, for whoever logs in next."""

    @pytest.fixture(autouse=True)
    def sign_in(self, configure: Callable[..., None]) -> None:
        configure(SIGN_IN=True, IDENTIFY="tests.site.identify")

    def test_it_is_linked_to_nobody_who_does_not_go_to_the_page(
        self, client: Client, provider: Provider
    ) -> None:
        post(client, "attackers-1")
        client.force_login(make_user("victim"), backend=LOGIN)
        client.get("/page/")
        post(client, "x-1", False)
        client.get(CONNECT)
        assert not LeadExecConnection.objects.exists()

    def test_the_page_names_the_account_and_the_user_before_anything_is_linked(
        self, client: Client, provider: Provider
    ) -> None:
        post(client, "attackers-1")
        client.force_login(make_user("victim"), backend=LOGIN)
        page = client.get(CONFIRM).content.decode()
        assert "attackers" in page
        assert "victim" in page
        assert "only if both are yours" in page
        assert not LeadExecConnection.objects.exists()

    @pytest.mark.parametrize(
        "fields", [{}, {"confirm": "no"}, {"confirm": "YES"}, {"confirm": "1"}, {"confirm": ""}]
    )
    def test_anything_but_yes_drops_it(
        self, client: Client, provider: Provider, fields: dict[str, str]
    ) -> None:
        post(client, "attackers-1")
        client.force_login(make_user("victim"), backend=LOGIN)
        link = link_shown(client)
        client.post(CONFIRM, fields | {"link": link})
        agree(client, link)
        assert not LeadExecConnection.objects.exists()
        assert pending_link.KEY not in client.session

    def test_a_yes_that_has_not_seen_the_page_links_nothing(
        self, client: Client, provider: Provider
    ) -> None:
        post(client, "attackers-1")
        client.force_login(make_user("victim"), backend=LOGIN)
        for fields in ({}, {"link": ""}, {"link": "x"}, {"link": "attackers-1"}):
            response = client.post(CONFIRM, confirmed(client, "x") | fields)
            assert response.status_code == 409
            assert "attackers" in response.content.decode()
        assert not LeadExecConnection.objects.exists()
        assert agree(client).status_code == 302
        assert LeadExecConnection.objects.get().account_id == "attackers"

    def test_what_one_tab_shows_is_not_what_another_tab_put_in_its_place(
        self, client: Client, provider: Provider
    ) -> None:
        client.force_login(make_user("victim"), backend=LOGIN)
        post(client, "mine-1")
        seen = link_shown(client)
        post(client, "attackers-1")
        for _ in range(2):
            response = agree(client, seen)
            assert "attackers" in response.content.decode()
            assert not LeadExecConnection.objects.exists()
            client.get(CONFIRM)  # as the other tab would

    def test_it_is_gone_after_ten_minutes_however_often_it_is_tried(
        self, client: Client, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        began = int(time.time())

        def set_clock(seconds: int) -> None:
            monkeypatch.setattr("django_leadexec.pending_link.time.time", lambda: began + seconds)

        set_clock(0)
        post(client, "attackers-1")
        client.force_login(make_user("victim"), backend=LOGIN)
        link = link_shown(client)
        provider.default = stand_in.unavailable
        for seconds in (200, 400, 599, 600):
            set_clock(seconds)
            agree(client, link)
            assert pending_link.KEY in client.session
        provider.default = stand_in.fresh
        set_clock(601)
        agree(client, link)
        assert not LeadExecConnection.objects.exists()
        assert pending_link.KEY not in client.session

    def test_an_account_that_has_become_another_users_meanwhile_is_a_conflict(
        self, client: Client, provider: Provider
    ) -> None:
        client.force_login(make_user("victim"), backend=LOGIN)
        post(client, "attackers-1")
        make_connection("attackers-2", account_id="attackers")
        asked = sum(provider.refreshes.values())
        page = agree(client)
        told = [str(message) for message in get_messages(page.wsgi_request)]
        assert told == ["This LeadExec account is connected to another user of this site."]
        assert LeadExecConnection.objects.count() == 1
        assert sum(provider.refreshes.values()) <= asked + 1
        assert pending_link.KEY not in client.session

    def test_a_change_of_user_drops_it(self, client: Client, provider: Provider) -> None:
        post(client, "attackers-1")
        client.force_login(make_user("first"), backend=LOGIN)
        link = link_shown(client)
        client.force_login(make_user("second"), backend=LOGIN)
        agree(client, link)
        assert not LeadExecConnection.objects.exists()

    def test_a_new_password_of_the_same_user_drops_it(
        self, client: Client, provider: Provider
    ) -> None:
        user = make_user("victim")
        client.force_login(user, backend=LOGIN)
        post(client, "t-1")
        user.set_password("changed")
        user.save()
        assert client.get(CONFIRM).status_code == 302
        client.force_login(user, backend=LOGIN)
        assert link_shown(client) == ""

    def test_the_other_sides_account_is_never_taken_over(
        self, client: Client, provider: Provider
    ) -> None:
        # The account is linked to somebody else between the page and its POST.
        post(client, "acme-1")
        client.force_login(make_user("late"), backend=LOGIN)
        link = link_shown(client)
        owner = make_user("owner")
        make_connection("acme-2", user=owner, account_id="acme")
        agree(client, link)
        assert [row.user for row in LeadExecConnection.objects.all()] == [owner]

    def test_what_is_linked_is_the_account_that_was_shown(
        self, client: Client, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # IDENTIFY takes something that its owner can change, against what SECURITY.md says.
        post(client, "attackers-1")
        client.force_login(make_user("victim"), backend=LOGIN)
        link = link_shown(client)
        monkeypatch.setattr(accounts, "identify", lambda path, access_token: "renamed")
        response = agree(client, link)
        assert response.status_code == 409
        assert "renamed" in response.content.decode()
        assert not LeadExecConnection.objects.exists()
        assert agree(client, response.context["link"]).status_code == 302
        assert LeadExecConnection.objects.get().account_id == "renamed"

    def test_what_lies_in_the_session_tells_no_token(
        self, client: Client, provider: Provider
    ) -> None:
        post(client, "canary-1")
        kept = json.dumps(dict(client.session))
        assert "canary-1" not in kept
        assert "access-1" not in kept

    def test_a_session_that_was_tampered_with_links_nothing(
        self, client: Client, provider: Provider
    ) -> None:
        post(client, "t-1")
        client.force_login(make_user(), backend=LOGIN)
        link = link_shown(client)
        session = client.session
        session[pending_link.KEY] = {**session[pending_link.KEY], "refresh_token": "plain-token"}
        session.save()
        agree(client, link)
        assert not LeadExecConnection.objects.exists()
        assert pending_link.KEY not in client.session


class TestConfirmPage:
    @pytest.fixture
    def waiting(self, client: Client, provider: Provider) -> Client:
        post(client, "t-1")
        client.force_login(make_user("victim"), backend=LOGIN)
        return client

    def test_no_page_may_frame_it(self, waiting: Client, settings: Settings) -> None:
        assert "XFrameOptions" not in repr(settings.MIDDLEWARE)
        settings.X_FRAME_OPTIONS = "SAMEORIGIN"
        assert waiting.get(CONFIRM)["X-Frame-Options"] == "DENY"
        settings.MIDDLEWARE = [
            *settings.MIDDLEWARE,
            "django.middleware.clickjacking.XFrameOptionsMiddleware",
        ]
        assert waiting.get(CONFIRM)["X-Frame-Options"] == "DENY"

    def test_no_cache_keeps_it(self, waiting: Client) -> None:
        for response in (waiting.get(CONFIRM), Client().get(CONFIRM), agree(waiting)):
            assert "no-store" in response["Cache-Control"]
            assert "private" in response["Cache-Control"]

    def test_its_address_tells_nothing_to_whom_it_links_to(self, waiting: Client) -> None:
        response = waiting.get(CONFIRM)
        assert response["Referrer-Policy"] == "same-origin"
        assert "http://" not in response.content.decode()
        assert "https://" not in response.content.decode()

    def test_it_shows_a_hostile_account_as_text(
        self, client: Client, provider: Provider, configure: Callable[..., None]
    ) -> None:
        configure(IDENTIFY="tests.security.plugins.hostile")
        post(client, "t-1")
        client.force_login(make_user("victim"), backend=LOGIN)
        page = client.get(CONFIRM).content.decode()
        assert "<script>" not in page
        assert "&lt;script&gt;alert(&#x27;acme&#x27;)&lt;/script&gt;" in page

    def test_head_shows_it_and_links_nothing(self, waiting: Client) -> None:
        assert waiting.head(CONFIRM).status_code == 200
        assert not LeadExecConnection.objects.exists()

    def test_only_the_first_look_writes_the_session(self, waiting: Client) -> None:
        # What another tab has just put into it would be lost.
        for is_written in (True, False):
            with CaptureQueriesContext(connection) as queries:
                assert waiting.get(CONFIRM).status_code == 200
            written = [query for query in queries if query["sql"].startswith("UPDATE")]
            assert bool(written) is is_written

    @pytest.mark.parametrize("method", ["OPTIONS", "PUT", "PATCH", "DELETE", "TRACE"])
    def test_it_knows_no_other_method(self, waiting: Client, method: str) -> None:
        assert waiting.generic(method, CONFIRM, "confirm=yes").status_code == 405
        assert not LeadExecConnection.objects.exists()

    def test_the_anonymous_are_sent_to_log_in_and_bind_nothing(
        self, client: Client, provider: Provider
    ) -> None:
        post(client, "t-1")
        assert client.get(CONFIRM)["Location"] == f"/accounts/login/?next={CONFIRM}"
        response = client.post(CONFIRM, {"confirm": "yes"})
        assert response["Location"].startswith("/accounts/login/")
        assert client.session[pending_link.KEY]["user"] == ""
