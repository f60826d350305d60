"""The automatic return, on a machine that others use."""

import time
from collections.abc import Callable

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from pytest_django import Settings

from django_leadexec import returning

from . import provider as stand_in
from .factories import make_connection, make_user
from .provider import Provider
from .visiting import LOGIN, assert_error, post, user_of

pytestmark = pytest.mark.django_db(transaction=True)


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
        assert_error(post(client, "on-file", False), 409, "conflict")
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
