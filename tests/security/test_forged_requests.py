"""Requests that another site, or a thief of tokens, makes to the callback and its pages."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from pytest_django import Settings

from django_leadexec import pending_link, returning
from django_leadexec.models import LeadExecConnection

from .. import provider as stand_in
from ..factories import make_connection, make_user
from ..provider import Provider, http
from ..sockets import serving
from ..visitor import (
    CALLBACK,
    CONFIRM,
    DISCONNECT,
    LOGIN,
    agree,
    assert_error,
    callback_body,
    csrf_token,
    post,
    send,
    user_of,
)

pytestmark = pytest.mark.django_db(transaction=True)


CSRF: dict[str, dict[str, object]] = {
    "cookie": {},
    "session": {"CSRF_USE_SESSIONS": True},
    "HttpOnly": {"CSRF_COOKIE_HTTPONLY": True},
    "header": {"CSRF_HEADER_NAME": "HTTP_X_XSRF_TOKEN", "CSRF_COOKIE_NAME": "XSRF"},
}


@pytest.fixture(params=list(CSRF.values()), ids=list(CSRF))
def strict(request: pytest.FixtureRequest, settings: Settings) -> Client:
    """A browser whose forgeries are noticed, whatever way the site keeps its CSRF token."""
    for name, value in request.param.items():
        setattr(settings, name, value)
    return Client(enforce_csrf_checks=True)


class TestForgedRequests:
    @pytest.mark.parametrize("logged_in", [True, False])
    @pytest.mark.parametrize("sign_in", [True, False])
    def test_a_post_from_another_site_changes_nothing(
        self,
        strict: Client,
        provider: Provider,
        configure: Callable[..., None],
        logged_in: bool,
        sign_in: bool,
    ) -> None:
        configure(SIGN_IN=sign_in)
        make_connection("attackers")
        victim = make_user("victim")
        if logged_in:
            strict.force_login(victim, backend=LOGIN)
        csrf_token(strict)  # so that the cookie, where there is one, goes along
        before = user_of(strict)
        for token in ("attackers", "new"):
            assert_error(send(strict, token), 403, "csrf")
            assert_error(send(strict, token, headers={"Origin": "https://evil.test"}), 403, "csrf")
        assert user_of(strict) == before
        assert not provider.calls
        assert LeadExecConnection.objects.count() == 1
        assert pending_link.KEY not in strict.session

    def test_a_token_from_another_browser_does_not_pass(
        self, strict: Client, provider: Provider, settings: Settings
    ) -> None:
        header = settings.CSRF_HEADER_NAME.removeprefix("HTTP_").replace("_", "-")
        attackers = csrf_token(Client())
        csrf_token(strict)
        for token in (attackers, "", "x" * 32, "x" * 64, "\xff" * 32):
            assert_error(send(strict, headers={header: token}), 403, "csrf")
        own = csrf_token(strict)
        assert send(strict, headers={header: own}).status_code == 200

    @pytest.mark.parametrize(
        ("origin", "status"),
        [
            (None, 200),
            ("http://testserver", 200),
            ("https://testserver", 403),
            ("http://testserver:8000", 403),
            ("http://evil.test", 403),
            ("http://testserver.evil.test", 403),
            ("http://evil.testserver", 403),
            ("null", 403),
            ("", 403),
            ("http://[", 403),
        ],
    )
    def test_the_right_token_does_not_help_another_origin(
        self, provider: Provider, origin: str | None, status: int
    ) -> None:
        # As with a cookie that a neighbour under the same domain has planted.
        client = Client(enforce_csrf_checks=True)
        headers = {"X-CSRFToken": csrf_token(client)}
        if origin is not None:
            headers["Origin"] = origin
        assert send(client, headers=headers).status_code == status

    @pytest.mark.parametrize(
        ("referer", "status"),
        [
            ("https://testserver/page/", 200),
            (None, 403),
            ("http://testserver/page/", 403),
            ("https://evil.test/", 403),
            ("https://testserver@evil.test/", 403),
            ("https://[", 403),
        ],
    )
    def test_over_https_a_post_without_an_origin_needs_the_sites_own_referer(
        self, provider: Provider, referer: str | None, status: int
    ) -> None:
        client = Client(enforce_csrf_checks=True)
        token = csrf_token(client, secure=True)
        headers = {"X-CSRFToken": token} | ({"Referer": referer} if referer else {})
        assert send(client, headers=headers, secure=True).status_code == status

    @pytest.mark.parametrize(
        "content_type",
        [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "text/plain; application/json",
            "text/plain, application/json",
            "application/jsonp",
            "application/json-seq",
            "application/json/x",
            "application/ld+json",
            "*/*",
            "",
            "\xff",
            "application/json\0",
        ],
    )
    def test_what_another_sites_form_can_send_is_not_json(
        self, client: Client, victim: Any, provider: Provider, content_type: str
    ) -> None:
        # Even if it got past the CSRF check.
        body = '{"token": "attackers", "gesture": true, "x": "="}'
        assert_error(client.post(CALLBACK, body, content_type=content_type), 400, "malformed")
        assert not provider.calls

    @pytest.mark.parametrize(
        "content_type",
        [
            "application/json; charset=utf-8",
            "application/json; charset=utf-7",
            "application/json; charset=no-such",
            "application/json; charset=undefined",
            "application/json;charset=",
            "APPLICATION/JSON",
        ],
    )
    def test_a_charset_changes_nothing(
        self, client: Client, victim: Any, provider: Provider, content_type: str
    ) -> None:
        body = json.dumps(callback_body(client, "+AGEAYg-"))
        client.generic("POST", CALLBACK, body, content_type=content_type)
        assert list(provider.refreshes) == ["+AGEAYg-"]

    def test_the_form_views_check_for_themselves(self, strict: Client, provider: Provider) -> None:
        row = make_connection("mine")
        strict.force_login(row.user, backend=LOGIN)
        session = strict.session
        session.save()
        for address in (DISCONNECT, CONFIRM):
            assert strict.post(address, {"confirm": "yes"}).status_code == 403
        assert LeadExecConnection.objects.active().count() == 1
        assert not provider.calls

    @pytest.mark.parametrize("address", [CALLBACK, DISCONNECT, CONFIRM])
    def test_they_are_checked_on_a_site_without_djangos_middleware_too(
        self, settings: Settings, provider: Provider, address: str
    ) -> None:
        settings.MIDDLEWARE = [it for it in settings.MIDDLEWARE if "Csrf" not in it]
        row = make_connection("mine")
        client = Client(enforce_csrf_checks=True)
        client.force_login(row.user, backend=LOGIN)
        assert client.post(address, {"confirm": "yes"}).status_code == 403
        assert not provider.calls

    @pytest.mark.parametrize(
        "method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
    )
    @pytest.mark.parametrize("address", [CALLBACK, DISCONNECT])
    def test_no_other_method_does_anything(
        self, client: Client, victim: Any, provider: Provider, method: str, address: str
    ) -> None:
        make_connection("mine", user=victim)
        response = client.generic(
            method,
            address,
            '{"token": "t", "gesture": true}',
            content_type="application/json",
            headers={
                "Origin": "https://evil.test",
                "Access-Control-Request-Method": "POST",
                "X-HTTP-Method-Override": "POST",
            },
        )
        assert response.status_code == 405
        assert response["Allow"] == "POST"
        assert not [name for name in response.headers if name.startswith("Access-Control")]
        assert LeadExecConnection.objects.active().count() == 1
        assert not provider.calls


class TestLoginForgery:
    """The attacker's token, posted by the page in the victim's own browser.

    So it would be if the attacker had logged the victim in at LeadExec as themself.
    """

    @pytest.mark.parametrize("sign_in", [True, False])
    def test_without_a_click_nobody_changes(
        self,
        client: Client,
        victim: Any,
        provider: Provider,
        configure: Callable[..., None],
        sign_in: bool,
    ) -> None:
        configure(SIGN_IN=sign_in)
        make_connection("attackers")
        assert post(client, "attackers", False).json()["status"] == "ignored"
        assert post(client, "attackers-new", False).json()["status"] == "ignored"
        assert user_of(client) == "victim"
        assert not provider.calls

    @pytest.mark.parametrize("sign_in", [True, False])
    def test_a_click_does_not_make_the_victim_the_attacker(
        self,
        client: Client,
        victim: Any,
        provider: Provider,
        configure: Callable[..., None],
        sign_in: bool,
    ) -> None:
        configure(SIGN_IN=sign_in)
        make_connection("attackers")
        assert_error(post(client, "attackers"), 409, "conflict")
        assert user_of(client) == "victim"

    def test_a_click_alone_gives_the_attackers_account_no_way_in(
        self, client: Client, victim: Any, provider: Provider, configure: Callable[..., None]
    ) -> None:
        configure(SIGN_IN=True)
        assert post(client, "attackers-new").json()["status"] == "confirm_required"
        assert post(Client(), "attackers-new").json()["status"] == "login_required"
        assert not LeadExecConnection.objects.exists()

    def test_a_victim_who_would_return_by_themself_is_not_made_the_attacker(
        self, client: Client, provider: Provider, configure: Callable[..., None]
    ) -> None:
        configure(SIGN_IN=True, IDENTIFY="tests.site.identify")
        make_connection("victims-1", account_id="victims")
        make_connection("attackers-1", account_id="attackers")
        post(client, "victims-1")
        del client.cookies["sessionid"]
        for token in ("attackers-1", "attackers-2"):
            assert post(client, token, False).json()["status"] == "ignored"
        assert user_of(client) is None

    def test_a_return_cookie_of_the_attackers_does_not_make_the_victim_the_attacker(
        self, client: Client, provider: Provider, configure: Callable[..., None]
    ) -> None:
        # A neighbour under the same domain can plant one; the token is the victim's.
        configure(SIGN_IN=True)
        make_connection("attackers")
        make_connection("victims")
        attacker = Client()
        post(attacker, "attackers")
        client.cookies[returning.COOKIE] = attacker.cookies[returning.COOKIE].value
        assert post(client, "victims", False).json()["status"] == "ignored"
        assert user_of(client) is None


class TestStolenTokens:
    def test_a_body_that_is_sent_again_does_nothing_new(
        self, client: Client, victim: Any, provider: Provider
    ) -> None:
        answers = [post(client, "t").json() for _ in range(3)]
        assert answers == [answers[0]] * 3
        assert LeadExecConnection.objects.count() == 1

    def test_without_sign_in_a_stolen_token_is_worth_nothing(
        self, client: Client, victim: Any, provider: Provider
    ) -> None:
        make_connection("victims", user=victim)
        thief = Client()
        assert post(thief, "victims", False).json()["status"] == "ignored"
        assert post(thief, "victims").json()["status"] == "login_required"
        thief.force_login(make_user("thief"), backend=LOGIN)
        response = agree(thief)
        assert response.status_code == 302
        assert_error(post(thief, "victims"), 409, "conflict")
        assert LeadExecConnection.objects.get().user == victim

    def test_with_sign_in_a_stolen_token_does_not_work_without_a_click(
        self, provider: Provider, configure: Callable[..., None]
    ) -> None:
        configure(SIGN_IN=True)
        make_connection("victims")
        assert post(Client(), "victims", False).json()["status"] == "ignored"

    @pytest.mark.parametrize("sign_in", [True, False])
    def test_a_stolen_token_ends_with_its_revocation(
        self, provider: Provider, configure: Callable[..., None], sign_in: bool
    ) -> None:
        configure(SIGN_IN=sign_in, IDENTIFY="tests.site.identify")
        row = make_connection("victims-1", account_id="victims")
        provider.answers["disconnect victims-1"] = stand_in.unavailable
        row.revoke()
        assert_error(post(Client(), "victims-1"), 409, "revoking")
        del provider.answers["disconnect victims-1"]
        assert_error(post(Client(), "victims-1"), 409, "revoking")
        assert_error(post(Client(), "victims-1"), 422, "rejected")
        assert not LeadExecConnection.objects.live().exists()

    @pytest.mark.parametrize("sign_in", [True, False])
    def test_a_token_made_for_another_application_is_refused(
        self, client: Client, victim: Any, configure: Callable[..., None], settings: Settings,
        sign_in: bool,
    ) -> None:  # fmt: skip
        # Another partner of the provider's holds tokens of the same people.
        yes = http({"valid": True, "authToken": "access"})
        no = http({"valid": False, "errorMessage": "not this application's"})

        def talk(peer: Any) -> None:
            while request := peer.request():
                peer.send(yes if request.target.endswith("?appid=another-app") else no)

        with serving(talk) as server:
            settings.DEBUG = True
            configure(BASE_URL=server.url, SIGN_IN=sign_in)
            assert_error(post(client, "theirs"), 422, "rejected")
            assert [it.target.partition("?")[2] for it in server.requests] == ["appid=test-app"]
