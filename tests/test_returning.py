"""The automatic return, on a machine that others use."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.sessions.backends.base import SessionBase
from django.test import Client
from pytest_django import Settings

from django_leadexec import returning
from django_leadexec.models import LeadExecConnection

from . import provider as stand_in
from .concurrency.threads import begin
from .factories import make_connection, make_user
from .processes import wait_until
from .provider import Provider
from .visitor import LOGIN, assert_error, elsewhere, post, user_of

pytestmark = pytest.mark.django_db(transaction=True)


ENGINES = ["db", "cached_db", "cache", "file", "signed_cookies"]


def stranger_again(client: Client) -> SessionBase:
    """Log the browser out by a new session, which the site keeps something in."""
    client.cookies.pop("sessionid")
    session = client.session
    session["cart"] = ["a lead"]
    session.save()
    client.cookies["sessionid"] = str(session.session_key)
    return session


@contextmanager
def held(
    provider: Provider, client: Client, *, gesture: bool = False
) -> Iterator[Callable[[], Any]]:
    """Post while the provider holds its answer back; what was answered, once it no longer does."""
    before = provider.refreshes["on-file"]
    provider.held.set()
    thread = begin(lambda: post(client, "on-file", gesture))
    wait_until(lambda: provider.refreshes["on-file"] > before)
    try:
        yield thread.result
    finally:
        provider.held.clear()


class TestAutomaticReturn:
    @pytest.fixture(autouse=True)
    def sign_in(self, configure: Callable[..., None]) -> None:
        configure(SIGN_IN=True)

    def returns(self, client: Client, token: str = "on-file") -> bool:
        """Whether the page signs its visitor in by itself."""
        client.cookies.pop("sessionid", None)
        return bool(post(client, token, False).json()["status"] == "signed_in")

    def test_it_goes_on_after_the_sessions_end(self, client: Client, provider: Provider) -> None:
        make_connection("on-file")
        post(client, "on-file")
        assert self.returns(client)
        assert self.returns(client)

    def test_a_return_does_not_prolong_it(
        self, client: Client, provider: Provider, settings: Settings,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        settings.SESSION_COOKIE_AGE = 1_000
        make_connection("on-file")
        post(client, "on-file")
        began = time.time()
        monkeypatch.setattr("django.core.signing.time.time", lambda: began + 900)
        assert self.returns(client)
        monkeypatch.setattr("django.core.signing.time.time", lambda: began + 1_100)
        assert not self.returns(client)

    def test_a_sign_out_ends_it(self, client: Client, provider: Provider) -> None:
        make_connection("on-file")
        post(client, "on-file")
        client.post("/accounts/logout/")
        assert not self.returns(client)

    def test_a_sign_out_after_the_sessions_end_ends_it_too(
        self, client: Client, provider: Provider
    ) -> None:
        # The page still says "Log out"; whoever presses it means it.
        make_connection("on-file")
        post(client, "on-file")
        client.session.flush()
        client.post("/accounts/logout/")
        assert not self.returns(client)

    def test_the_sign_out_of_another_user_of_the_browser_ends_it_too(
        self, client: Client, provider: Provider
    ) -> None:
        make_connection("on-file")
        post(client, "on-file")
        client.session.flush()
        client.force_login(make_user("next"), backend=LOGIN)
        client.post("/accounts/logout/")
        assert not self.returns(client)

    def test_a_sign_out_elsewhere_by_somebody_else_does_not(
        self, client: Client, provider: Provider
    ) -> None:
        make_connection("on-file")
        post(client, "on-file")
        other = Client()
        other.force_login(make_user("other"), backend=LOGIN)
        other.post("/accounts/logout/")
        assert self.returns(client)

    def test_the_next_user_of_the_browser_is_not_replaced_by_the_one_before(
        self, client: Client, provider: Provider
    ) -> None:
        make_connection("on-file")
        post(client, "on-file")
        client.session.flush()
        client.force_login(make_user("next"), backend=LOGIN)
        assert post(client, "on-file", False).json()["status"] == "ignored"
        assert_error(post(client, "on-file"), 409, "conflict")
        assert user_of(client) == "next"

    @pytest.mark.parametrize("change", ["inactive", "staff", "revoked", "rejected", "deleted"])
    def test_it_ends_with_what_made_it_possible(
        self, client: Client, provider: Provider, change: str
    ) -> None:
        row = make_connection("on-file")
        post(client, "on-file")
        users = get_user_model().objects.filter(pk=row.user.pk)
        if change == "inactive":
            users.update(is_active=False)
        elif change == "staff":
            users.update(is_staff=True)
        elif change == "revoked":
            row.revoke()
        elif change == "rejected":
            provider.answers["on-file"] = stand_in.refused
        else:
            row.user.delete()
        client.cookies.pop("sessionid", None)
        response = post(client, "on-file", False)
        assert response.status_code in (200, 403, 409, 422)
        assert response.json().get("status") != "signed_in"
        assert user_of(client) is None

    @pytest.mark.parametrize(
        "value", ["", "x", "a:b:c", "é", "\x00", "x" * 4_000, "eyJhIjoxfQ:1:x", "..", "[]", "null"]
    )
    def test_a_cookie_that_is_none_of_ours_breaks_nothing(
        self, client: Client, provider: Provider, value: str
    ) -> None:
        make_connection("on-file")
        client.cookies[returning.COOKIE] = value
        assert not self.returns(client)
        client.post("/accounts/logout/")

    @pytest.mark.parametrize("ticket", [[], {}, None, 1, {"connection": "x"}, {"connection": 1}])
    def test_a_ticket_of_another_shape_breaks_nothing(
        self, client: Client, provider: Provider, ticket: object
    ) -> None:
        from django.core import signing

        make_connection("on-file")
        client.cookies[returning.COOKIE] = signing.dumps(ticket, salt=returning.SALT)
        assert not self.returns(client)

    @pytest.mark.parametrize("engine", ENGINES)
    def test_it_goes_on_in_a_strangers_session(
        self, client: Client, provider: Provider, settings: Settings, engine: str
    ) -> None:
        settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
        make_connection("on-file")
        post(client, "on-file")
        stranger_again(client)
        assert post(client, "on-file", False).json()["status"] == "signed_in"

    @pytest.mark.parametrize("engine", [name for name in ENGINES if name != "signed_cookies"])
    def test_a_session_that_is_ended_during_the_call_is_not_signed_in(
        self, client: Client, provider: Provider, settings: Settings, engine: str
    ) -> None:
        # By a sign-out of the site's own making, which tells nobody, or by an operator.
        settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
        make_connection("on-file")
        post(client, "on-file")
        session = stranger_again(client)
        with held(provider, client) as answer:
            elsewhere(session.flush)
        assert answer().json()["status"] == "ignored"
        assert "_auth_user_id" not in client.session

    @pytest.mark.parametrize("whose", ["the same browser", "another browser of the user's"])
    def test_a_sign_out_during_the_call_is_the_last_word(
        self, client: Client, provider: Provider, whose: str
    ) -> None:
        row = make_connection("on-file")
        post(client, "on-file")
        client.cookies.pop("sessionid")
        tab = Client()
        if whose == "the same browser":
            tab.cookies[returning.COOKIE] = client.cookies[returning.COOKIE].value
        else:
            tab.force_login(row.user, backend=LOGIN)
        with held(provider, client) as answer:
            tab.post("/accounts/logout/")
        assert answer().json()["status"] == "ignored"
        assert "sessionid" not in client.cookies
        assert not self.returns(client)

    @pytest.mark.parametrize("change", ["password", "revoked"])
    def test_what_ends_it_during_the_call_does_so_at_once(
        self, client: Client, provider: Provider, change: str
    ) -> None:
        row = make_connection("on-file")
        post(client, "on-file")
        client.cookies.pop("sessionid")
        with held(provider, client) as answer:
            if change == "password":
                row.user.set_password("new")
                row.user.save()
            else:
                LeadExecConnection.objects.filter(pk=row.pk).move_to_outbox()
        assert answer().json().get("status") != "signed_in"
        assert "sessionid" not in client.cookies

    def test_a_sign_out_during_a_clicked_sign_in_does_not_undo_the_click(
        self, client: Client, provider: Provider
    ) -> None:
        row = make_connection("on-file")
        tab = Client()
        tab.force_login(row.user, backend=LOGIN)
        with held(provider, client, gesture=True) as answer:
            tab.post("/accounts/logout/")
        assert answer().json()["status"] == "signed_in"
        assert user_of(client) == row.user.username

    def test_its_cookie_is_out_of_a_scripts_reach_and_follows_the_sessions(
        self, client: Client, provider: Provider, settings: Settings
    ) -> None:
        settings.SESSION_COOKIE_SECURE = True
        make_connection("on-file")
        post(client, "on-file")
        cookie = client.cookies[returning.COOKIE]
        assert (cookie["httponly"], cookie["secure"], cookie["samesite"]) == (True, True, "Lax")
        settings.SESSION_EXPIRE_AT_BROWSER_CLOSE = True
        again = Client()
        post(again, "on-file")
        assert not again.cookies[returning.COOKIE]["max-age"]

    @pytest.mark.parametrize("how", ["disconnected", "already_disconnected"])
    def test_disconnecting_deletes_its_cookie_in_this_browser(
        self, client: Client, provider: Provider, settings: Settings, how: str
    ) -> None:
        settings.SESSION_COOKIE_PATH = "/app/"
        row = make_connection("on-file")
        post(client, "on-file")
        client.force_login(row.user, backend=LOGIN)
        if how == "already_disconnected":
            LeadExecConnection.objects.all().move_to_outbox()
        form = {"connection": row.pk}
        answer = client.post("/leadexec/disconnect/", form, HTTP_ACCEPT="application/json")
        assert answer.json()["status"] == how
        cookie = answer.cookies[returning.COOKIE]
        assert (cookie.value, cookie["max-age"], cookie["path"]) == ("", 0, "/app/")
