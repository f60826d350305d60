"""The callback and its pages as an attacker sees them.

Who may do what is in tests/test_views.py; here is what is tried with forged requests, planted
links, tokens and bodies of any shape, redirects, a flood, and careless code of the site's own.
"""

import hmac
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.core.cache.backends.locmem import LocMemCache
from django.db import connection
from django.http import HttpResponse
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from pytest_django import Settings

from django_leadexec import authorization, pending_link, returning, views
from django_leadexec.models import LeadExecConnection, PendingRevocation

from .. import provider as stand_in
from ..factories import make_connection, make_user
from ..provider import Provider, http
from ..sockets import answering, serving
from ..test_views import agree, assert_error, link_shown, post, user_of

pytestmark = pytest.mark.django_db(transaction=True)

CALLBACK, CONFIRM, DISCONNECT, CONNECT = (
    f"/leadexec/{name}/" for name in ("callback", "confirm", "disconnect", "connect")
)
LOGIN = "django.contrib.auth.backends.ModelBackend"


@pytest.fixture
def configure(settings: Settings) -> Callable[..., None]:
    def configure(**changes: object) -> None:
        settings.LEADEXEC = settings.LEADEXEC | changes

    return configure


@pytest.fixture
def victim(client: Client) -> Any:
    """Somebody who is logged in, in the browser ``client``."""
    user = make_user("victim", password="secret")
    client.force_login(user, backend=LOGIN)
    return user


def elsewhere(do: Callable[[], object]) -> None:
    """Use the database as another process would, also from within the stand-in's event loop."""

    def run() -> None:
        try:
            do()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


# Forged requests

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


def csrf_token(client: Client) -> str:
    return str(client.get("/page/").context["csrf_token"])


def send(client: Client, token: str = "attackers", **options: Any) -> Any:
    body = json.dumps({"refreshToken": token, "gesture": True})
    return client.post(CALLBACK, body, content_type="application/json", **options)


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
        strict.get("/page/")  # so that the cookie, where there is one, goes along
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
        token = str(client.get("/page/", secure=True).context["csrf_token"])
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
        body = '{"refreshToken": "attackers", "gesture": true, "x": "="}'
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
        body = '{"refreshToken": "+AGEAYg-", "gesture": true}'
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
            '{"refreshToken": "t", "gesture": true}',
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
        assert_error(post(client, "attackers", False), 409, "conflict")
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


# Tokens and bodies

HOSTILE = [
    "../../admin/",
    "..%2f..%2fadmin",
    "%2e%2e/%2E%2E",
    "%00",
    "%",
    "%%%",
    "a%0d%0aHost:evil",
    "?appid=other",
    "t?appid=other&x=",
    "#",
    "t#/x",
    "//evil.test/",
    "\\\\evil.test\\",
    "http://evil.test/",
    "@evil.test",
    ":80@evil.test/",
    "t;jsessionid=1",
    "&valid=true",
    "'--",
    '";alert(1)//',
    "<script>",
    "${jndi:ldap://x}",
    "{{7*7}}",
    "...",
    "....//",
    "~",
    "+",
    "x" * 2_048,
]


class TestTokens:
    @pytest.mark.parametrize("token", HOSTILE)
    def test_the_provider_sees_one_path_segment_and_our_application(
        self, client: Client, victim: Any, settings: Settings, token: str
    ) -> None:
        with serving(answering(http({"valid": True, "authToken": "access"}))) as server:
            settings.DEBUG = True
            settings.LEADEXEC = settings.LEADEXEC | {"BASE_URL": f"{server.url}/base"}
            assert post(client, token).json()["status"] == "connected"
            [request] = server.requests
        assert_one_segment(request.target, token)
        assert LeadExecConnection.objects.get().refresh_token == token

    def test_each_visible_character_arrives_as_it_was_posted(
        self, client: Client, victim: Any, settings: Settings
    ) -> None:
        visible = [chr(code) for code in range(0x21, 0x7F)]
        tokens = [*(f"{it}{it}" for it in visible), "".join(visible), "".join(reversed(visible))]
        settings.LEADEXEC = settings.LEADEXEC | {"CALLBACK_RATE": "1000/m"}
        with serving(answering(http({"valid": True, "authToken": "access"}))) as server:
            settings.DEBUG = True
            settings.LEADEXEC = settings.LEADEXEC | {"BASE_URL": server.url}
            for token in tokens:
                if token != "..":
                    assert post(client, token).status_code == 200
        sent = [token for token in tokens if token != ".."]
        for request, token in zip(server.requests, sent, strict=True):
            assert_one_segment(request.target, token)

    @pytest.mark.parametrize(
        "token",
        [
            *("\x00", "a\x00b", "\x1b[31m", "a\x7f", "\x85", "a b", "\ta", "a\r\nHost: evil"),
            *("\ud800", "\udfff\ud800", "\N{FULLWIDTH FULL STOP}", "\u202e", "\u200b", "é", "Ⅸ"),
            *("\ufeff", "\U0001f600", "\u2028", "x" * 2_049, "é" * 2_000),
            *(1e400, 10**400, -1, 0, True, {}, {"refreshToken": "t"}, ["t"], [[]], None),
        ],
        ids=ascii,
    )
    def test_what_is_no_token_is_malformed_and_asked_about_nowhere(
        self, client: Client, provider: Provider, token: object
    ) -> None:
        assert_error(post(client, token), 400, "malformed")
        assert not provider.calls
        assert not client.session.keys()

    def test_three_megabytes_are_not_read(
        self, client: Client, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(json, "loads", lambda *args: pytest.fail("it was parsed"))
        body = '{"refreshToken": "%s", "gesture": true}' % ("x" * 3_000_000)
        response = client.post(CALLBACK, body, content_type="application/json")
        monkeypatch.undo()
        assert_error(response, 413, "too_large")

    def test_an_unknown_token_costs_as_many_digests_and_queries_as_a_known_one(
        self,
        client: Client,
        provider: Provider,
        monkeypatch: pytest.MonkeyPatch,
        settings: Settings,
    ) -> None:
        from cryptography.fernet import Fernet

        settings.LEADEXEC = settings.LEADEXEC | {
            "ENCRYPTION_KEYS": [
                Fernet.generate_key().decode(),
                *settings.LEADEXEC["ENCRYPTION_KEYS"],
                Fernet.generate_key().decode(),
            ]
        }
        make_connection("known")
        make_connection("staffs", user=make_user(is_staff=True))
        digests: list[bytes] = []
        new = hmac.new

        def counting(key: bytes, *args: Any) -> Any:
            digests.append(key)
            return new(key, *args)

        costs = set()
        answers = set()
        for token in ("known", "knowm", "unknown", "staffs", "x" * 2_048):
            monkeypatch.setattr("django_leadexec.crypto.hmac.new", counting)
            digests.clear()
            with CaptureQueriesContext(connection) as queries:
                answers.add(post(client, token, False).content)
            monkeypatch.undo()
            costs.add((len(digests), len(queries)))
        assert costs == {(3, 1)}
        assert len(answers) == 1

    def test_a_digest_is_looked_up_and_never_the_token(
        self, client: Client, provider: Provider
    ) -> None:
        # So what the database takes tells nothing of how much of a token was right.
        make_connection("known-canary")
        with CaptureQueriesContext(connection) as queries:
            post(client, "known-canary")
        assert queries.captured_queries
        assert "known-canary" not in repr(queries.captured_queries)


def assert_one_segment(target: str, token: str) -> None:
    from urllib.parse import unquote

    path, _, query = target.partition("?")
    head, _, segment = path.rpartition("/authorize/refreshaccesstoken/")
    assert head in ("", "/base")
    assert not set(segment) & set("/\\?#&;=@:+ \"'<>")
    assert unquote(segment) == token
    assert query == "appid=test-app"


class TestBodies:
    @pytest.mark.parametrize(
        "body",
        [
            b"[" * 16_000,
            b"[" * 8_000 + b"]" * 8_000,
            b'{"a":' * 2_500 + b"1" + b"}" * 2_500,
            b'{"refreshToken": ' + b"9" * 16_000 + b', "gesture": true}',
            b'{"refreshToken": "t", "gesture": true, "n": ' + b"9" * 16_000 + b"}",
            b'{"refreshToken": 1e999999, "gesture": true}',
            b'{"refreshToken": NaN, "gesture": true}',
            b'{"refreshToken": "t", "gesture": 1}',
            b'{"refreshToken": "t", "gesture": "true"}',
            b'{"refreshToken": "t", "gesture": null}',
            b'{"refreshToken": "t", "gesture": [true]}',
            b'{"refreshToken": "t", "gesture": true, "next": 1}',
            b'{"refreshToken": "t", "gesture": true, "next": ["/"]}',
            b'{"refreshToken": "t", "gesture": true',
            b'{"refreshToken": "t", "gesture": true}}',
            b"{'refreshToken': 't', 'gesture': true}",
            b'{"refresh\\u0000Token": "t", "gesture": true}',
            b'\xff\xfe{"refreshToken": "t", "gesture": true}',
            b"\x00" * 1_000,
            b"null",
            b'"refreshToken"',
            b"\xef\xbb\xbf",
        ],
        ids=lambda body: f"{body[:40]!r}{body[-9:]!r}{len(body)}",
    )
    def test_nothing_that_is_not_the_one_object_breaks_or_does_anything(
        self, client: Client, victim: Any, provider: Provider, body: bytes
    ) -> None:
        response = client.post(CALLBACK, body, content_type="application/json")
        assert_error(response, 400, "malformed")
        assert not provider.calls

    def test_of_a_key_that_comes_twice_the_last_counts(
        self, client: Client, victim: Any, provider: Provider
    ) -> None:
        body = '{"refreshToken": "../", "refreshToken": "last", "gesture": false, "gesture": true}'
        response = client.post(CALLBACK, body, content_type="application/json")
        assert response.json()["status"] == "connected"
        assert list(provider.refreshes) == ["last"]

    def test_keys_that_nobody_knows_are_left_alone(
        self, client: Client, victim: Any, provider: Provider
    ) -> None:
        more = {
            "user": 1,
            "is_staff": True,
            "__proto__": {},
            "account_id": "x",
            "authToken": "mine",
        }
        assert post(client, "t", **more).json()["status"] == "connected"
        row = LeadExecConnection.objects.get()
        assert (row.user, row.account_id, row.access_token) == (victim, "", "access-1-for-t")

    @pytest.mark.parametrize(
        "length", ["²", "٣", "-1", "+5", "1e3", "0x10", "1_0", " 5", "9" * 5_000, "abc", "5, 5"]
    )
    def test_a_length_that_is_none_breaks_nothing(
        self, client: Client, victim: Any, provider: Provider, length: str
    ) -> None:
        response = client.post(
            CALLBACK, '{"refreshToken": "t"}', content_type="application/json",
            CONTENT_LENGTH=length,
        )  # fmt: skip
        assert response.status_code in (400, 413)
        assert not provider.calls

    def test_a_length_that_promises_less_is_all_that_is_read(
        self, client: Client, victim: Any, provider: Provider
    ) -> None:
        body = '{"refreshToken": "t", "gesture": true}' + "x" * 50_000
        response = client.post(CALLBACK, body, content_type="application/json", CONTENT_LENGTH="38")
        assert response.json()["status"] == "connected"

    def test_a_body_that_breaks_off_is_malformed(self, victim: Any, provider: Provider) -> None:
        class Gone:
            def read(self, size: int = -1) -> bytes:
                raise OSError("Apache/mod_wsgi request data read error")

        request = RequestFactory().post(CALLBACK, "{}", content_type="application/json")
        request._stream = Gone()  # type: ignore[assignment]
        request.user = victim
        request._dont_enforce_csrf_checks = True  # type: ignore[attr-defined]
        response = views.callback(request)
        assert_error(Answer(response), 400, "malformed")

    @pytest.mark.parametrize("read", ["body", "read"])
    def test_a_middleware_that_reads_the_body_first_breaks_nothing(
        self, victim: Any, provider: Provider, client: Client, settings: Settings, read: str
    ) -> None:
        settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.reading_{read}"]
        response = post(client, "t")
        assert response.status_code == (200 if read == "body" else 400)


class Answer:
    """A bare response with the test client's ``json``."""

    def __init__(self, response: Any) -> None:
        self.status_code = response.status_code
        self.json = lambda: json.loads(response.content)


def reading_body(get_response: Callable[[Any], HttpResponse]) -> Callable[[Any], HttpResponse]:
    def middleware(request: Any) -> HttpResponse:
        assert request.body
        return get_response(request)

    return middleware


def reading_read(get_response: Callable[[Any], HttpResponse]) -> Callable[[Any], HttpResponse]:
    def middleware(request: Any) -> HttpResponse:
        request.read()
        return get_response(request)

    return middleware


# Redirects

ELSEWHERE = [
    "//evil.test",
    "///evil.test",
    "////evil.test",
    "/\\evil.test",
    "\\/evil.test",
    "\\\\evil.test",
    "/\t/evil.test",
    "/\n/evil.test",
    "\t//evil.test",
    "\x00//evil.test",
    "\x08//evil.test",
    " //evil.test",
    "/page/\r\nSet-Cookie: a=b",
    "http:///evil.test",
    "http:evil.test",
    "http:/evil.test",
    "http:\\\\evil.test",
    "HTTP://evil.test",
    "https://evil.test/",
    "https://testserver@evil.test/",
    "https://evil.test\\@testserver/",
    "https://testserver.evil.test/",
    "https://evil.test#@testserver/",
    "http://testserver:8000/",
    "http://ⓣestserver/",
    "//testserver@evil.test",
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "java\nscript:alert(1)",
    "\x01javascript:alert(1)",
    "javascript://testserver/%0aalert(1)",
    "data:text/html,x",
    "vbscript:x",
    "file:///etc/passwd",
    "ftp://testserver/",
    "http://[",
    "http://[::1",
    "//[",
    "http://testserver]/",
    "\ud800",
    "/\ud800",
    "/\u202e",
]


class TestRedirects:
    @pytest.mark.parametrize("wanted", ELSEWHERE, ids=ascii)
    def test_the_callback_sends_nobody_elsewhere(
        self, client: Client, victim: Any, provider: Provider, wanted: str
    ) -> None:
        assert post(client, "t", next=wanted).json() == {"status": "connected", "redirect": None}

    @pytest.mark.parametrize("wanted", ELSEWHERE, ids=ascii)
    def test_the_confirm_page_sends_nobody_elsewhere(
        self, client: Client, provider: Provider, wanted: str
    ) -> None:
        post(client, "t", next=wanted)
        client.force_login(make_user(), backend=LOGIN)
        assert agree(client)["Location"] == "/page/"

    @pytest.mark.parametrize("wanted", [it for it in ELSEWHERE if "\ud800" not in it], ids=ascii)
    def test_the_forms_send_nobody_elsewhere(
        self, client: Client, victim: Any, provider: Provider, wanted: str
    ) -> None:
        make_connection("mine", user=victim)
        assert client.get(CONNECT, {"next": wanted})["Location"] == "/page/"
        assert client.post(DISCONNECT, {"next": wanted})["Location"] == "/page/"

    @pytest.mark.parametrize(
        ("referer", "after"),
        [
            ("http://testserver/leads/", "/leads/"),
            ("http://evil.test/leads/", "/page/"),
            ("http://testserver//evil.test/", "/page/"),
            ("http://testserver/\\evil.test/", "/page/"),
            ("http://testserver@evil.test/", "/page/"),
            ("http://[", "/page/"),
            ("http://[::1", "/page/"),
            ("http://testserver]/", "/page/"),
            ("http://ⓣestserver\u2100/", "/page/"),
            ("//testserver//evil.test", "/page/"),
            ("javascript:alert(1)", "/page/"),
            ("", "/page/"),
        ],
    )
    def test_a_referer_sends_nobody_elsewhere(
        self, client: Client, victim: Any, provider: Provider, referer: str, after: str
    ) -> None:
        make_connection("mine", user=victim)
        response = client.post(DISCONNECT, headers={"Referer": referer})
        assert response["Location"] == after

    @pytest.mark.parametrize("wanted", ["http://testserver/page/", "http://testserver/"])
    def test_a_page_over_https_goes_on_over_https(
        self, client: Client, victim: Any, provider: Provider, wanted: str
    ) -> None:
        for secure, redirect in ((True, None), (False, wanted)):
            response = client.post(
                CALLBACK,
                json.dumps({"refreshToken": "t", "gesture": True, "next": wanted}),
                content_type="application/json",
                secure=secure,
            )
            assert response.json()["redirect"] == redirect

    def test_a_host_that_is_forged_is_refused(
        self, client: Client, victim: Any, provider: Provider
    ) -> None:
        response = client.post(
            CALLBACK,
            json.dumps({"refreshToken": "t", "gesture": True, "next": "http://evil.test/"}),
            content_type="application/json",
            headers={"Host": "evil.test"},
        )
        assert response.status_code == 400
        assert not provider.calls


# A flood

LOCMEM = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "t"}}
DUMMY = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
DATABASE = {"default": {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "c"}}
BROKEN = {"default": {"BACKEND": f"{__name__}.BrokenCache"}}


class BrokenCache(LocMemCache):
    """As a client library of a cache that is down."""

    def __init__(self, *args: Any) -> None:
        super().__init__("broken", {})

    def add(self, *args: Any, **options: Any) -> Any:
        raise RuntimeError("redis://:canary-password@cache:6379 refused the connection")

    incr = add


class TestFlood:
    @pytest.fixture(autouse=True)
    def two_a_day(self, configure: Callable[..., None], settings: Settings) -> None:
        configure(CALLBACK_RATE="2/d")
        settings.CACHES = LOCMEM
        cache.clear()

    def flood(self, client: Client, count: int = 3, **extra: Any) -> list[int]:
        return [
            client.post(
                CALLBACK,
                json.dumps({"refreshToken": f"t{number}", "gesture": True}),
                content_type="application/json",
                **extra,
            ).status_code
            for number in range(count)
        ]

    def test_an_address_is_counted_whatever_its_session(
        self, provider: Provider, configure: Callable[..., None]
    ) -> None:
        configure(SIGN_IN=True)
        statuses = [self.flood(Client(), 1)[0] for _ in range(4)]
        assert statuses == [200, 200, 429, 429]
        assert sum(provider.refreshes.values()) == 2

    def test_a_session_is_counted_whatever_its_address(
        self, client: Client, victim: Any, provider: Provider
    ) -> None:
        statuses = [self.flood(client, 1, REMOTE_ADDR=f"192.0.2.{it}")[0] for it in range(4)]
        assert statuses == [200, 200, 429, 429]

    def test_another_address_with_another_session_is_not_held_up(
        self, client: Client, victim: Any, provider: Provider
    ) -> None:
        assert self.flood(client) == [200, 200, 429]
        client.logout()
        client.force_login(victim, backend=LOGIN)
        assert self.flood(client, 2, REMOTE_ADDR="192.0.2.1") == [200, 200]

    @pytest.mark.parametrize(
        "header",
        ["X-Forwarded-For", "X-Real-IP", "Forwarded", "CF-Connecting-IP", "True-Client-IP"],
    )
    def test_what_a_client_says_of_its_address_is_not_believed(
        self, provider: Provider, configure: Callable[..., None], header: str
    ) -> None:
        configure(SIGN_IN=True)
        statuses = [
            self.flood(Client(), 1, headers={header: f"192.0.2.{number}"})[0] for number in range(3)
        ]
        assert statuses == [200, 200, 429]

    @pytest.mark.parametrize("address", ["", None])
    def test_addresses_that_nobody_knows_are_counted_as_one(
        self, provider: Provider, configure: Callable[..., None], address: str | None
    ) -> None:
        # As behind a Unix socket: else a stranger without a session could go on without end.
        configure(SIGN_IN=True)
        statuses = [self.flood(Client(), 1, REMOTE_ADDR=address)[0] for _ in range(3)]
        assert statuses == [200, 200, 429]

    def test_the_addresses_of_one_ipv6_network_are_counted_as_one(
        self, provider: Provider, configure: Callable[..., None]
    ) -> None:
        # A single home has 2 to the power of 64 of them.
        configure(SIGN_IN=True)
        statuses = [
            self.flood(Client(), 1, REMOTE_ADDR=f"2001:db8:1:2:{number}::7")[0]
            for number in range(3)
        ]
        assert statuses == [200, 200, 429]
        assert self.flood(Client(), 1, REMOTE_ADDR="2001:db8:1:3::7") == [200]
        mapped = [self.flood(Client(), 1, REMOTE_ADDR=f"::ffff:192.0.2.{it}")[0] for it in range(3)]
        assert mapped == [200, 200, 200]

    @pytest.mark.parametrize("address", ["unix:", "1.2.3", "fe80::1%eth0", "é", "x" * 9_000])
    def test_an_address_that_is_none_breaks_nothing(
        self, provider: Provider, configure: Callable[..., None], address: str
    ) -> None:
        configure(SIGN_IN=True)
        statuses = [self.flood(Client(), 1, REMOTE_ADDR=address)[0] for _ in range(3)]
        assert statuses == [200, 200, 429]

    def test_the_confirm_page_counts_too(self, client: Client, provider: Provider) -> None:
        client.force_login(make_user(), backend=LOGIN)
        assert self.flood(client, 2) == [200, 200]
        waiting = authorization.LinkWaiting("t", "")
        request = RequestFactory().get("/")
        request.session, request.user = client.session, get_user_model().objects.get()
        pending_link.keep(request, waiting, "")
        request.session.save()
        response = agree(client)
        assert response.status_code == 429
        assert int(response["Retry-After"]) > 0
        assert link_shown(client)
        assert sum(provider.refreshes.values()) == 2

    def test_a_link_that_waits_for_a_login_counts_before_it_is_kept(
        self, provider: Provider
    ) -> None:
        # It costs no call yet, but each one makes a session.
        statuses = [self.flood(Client(), 1)[0] for _ in range(3)]
        assert statuses == [200, 200, 429]

    def test_what_costs_no_call_is_not_counted(
        self, client: Client, victim: Any, provider: Provider
    ) -> None:
        for number in range(5):
            assert post(client, f"t{number}", False).json()["status"] == "ignored"
        assert self.flood(client) == [200, 200, 429]

    def test_a_cache_that_keeps_nothing_limits_nothing_and_breaks_nothing(
        self, client: Client, victim: Any, provider: Provider, settings: Settings
    ) -> None:
        settings.CACHES = DUMMY
        assert self.flood(client) == [200, 200, 200]

    def test_a_cache_that_is_down_makes_no_call_and_no_traceback(
        self,
        client: Client,
        victim: Any,
        provider: Provider,
        settings: Settings,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        settings.CACHES = BROKEN
        response = post(client, "t")
        assert_error(response, 502, "unavailable")
        assert "RuntimeError" in caplog.text
        assert "canary" not in caplog.text + response.content.decode()
        assert not provider.calls
        # What needs no call goes on.
        make_connection("mine", user=victim)
        assert post(client, "mine", False).json()["status"] == "connected"

    def test_a_cache_that_is_down_keeps_a_link_waiting(
        self, client: Client, provider: Provider, settings: Settings
    ) -> None:
        post(client, "t")
        client.force_login(make_user(), backend=LOGIN)
        link = link_shown(client)
        settings.CACHES = BROKEN
        assert client.post(CONFIRM, {"confirm": "yes", "link": link}).status_code == 503
        settings.CACHES = LOCMEM
        assert client.post(CONFIRM, {"confirm": "yes", "link": link}).status_code == 302
        assert LeadExecConnection.objects.count() == 1

    def test_a_cache_in_the_database_will_do(
        self, client: Client, victim: Any, provider: Provider, settings: Settings
    ) -> None:
        from django.core.management import call_command

        settings.CACHES = DATABASE
        call_command("createcachetable", verbosity=0)
        try:
            assert self.flood(client) == [200, 200, 429]
        finally:
            with connection.cursor() as cursor:
                cursor.execute("DROP TABLE c")

    def test_a_new_period_begins_anew(
        self, client: Client, victim: Any, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.flood(client) == [200, 200, 429]
        tomorrow = time.time() + 86_400
        monkeypatch.setattr("django_leadexec.throttle.time.time", lambda: tomorrow)
        assert self.flood(client, 2) == [200, 200]

    def test_the_cache_holds_neither_session_nor_address(
        self, client: Client, victim: Any, provider: Provider
    ) -> None:
        self.flood(client, 1, REMOTE_ADDR="192.0.2.77")
        from django.core.cache.backends import locmem

        kept = repr(locmem._caches["t"])  # type: ignore[attr-defined]
        assert "django_leadexec:calls" in kept
        assert str(client.session.session_key) not in kept
        assert "192.0.2.77" not in kept


# Sessions


class TestSessions:
    def test_a_session_that_was_planted_is_not_the_one_that_is_logged_in(
        self, client: Client, provider: Provider, configure: Callable[..., None]
    ) -> None:
        configure(SIGN_IN=True)
        make_connection("on-file")
        attacker = Client()
        attacker.get("/page/")
        session = attacker.session
        session["planted"] = 1
        session.save()
        client.cookies["sessionid"] = str(session.session_key)
        post(client, "on-file")
        assert user_of(client) is not None
        attacker.cookies["sessionid"] = str(session.session_key)
        assert user_of(attacker) is None

    def test_a_session_key_that_was_made_up_is_not_taken(
        self, client: Client, provider: Provider, configure: Callable[..., None]
    ) -> None:
        configure(SIGN_IN=True)
        make_connection("on-file")
        client.cookies["sessionid"] = "a" * 32
        post(client, "on-file")
        assert client.cookies["sessionid"].value != "a" * 32

    def test_the_csrf_token_changes_with_the_login(
        self, provider: Provider, configure: Callable[..., None]
    ) -> None:
        configure(SIGN_IN=True)
        make_connection("on-file")
        client = Client(enforce_csrf_checks=True)
        before = csrf_token(client)
        assert send(client, "on-file", headers={"X-CSRFToken": before}).status_code == 200
        assert_error(send(client, "t", headers={"X-CSRFToken": before}), 403, "csrf")

    def test_a_sign_in_needs_the_backend(
        self, client: Client, provider: Provider, configure: Callable[..., None], settings: Settings
    ) -> None:
        configure(SIGN_IN=True)
        settings.AUTHENTICATION_BACKENDS = [LOGIN]
        make_connection("on-file")
        assert_error(post(client, "on-file"), 403, "not_allowed")
        assert user_of(client) is None

    @pytest.mark.parametrize(
        "fields",
        [
            {"verified": "1"},
            {"refresh_token": "on-file"},
            {"username": "victim", "verified": "SignedIn"},
            {"username": "victim", "password": "", "connection": "1"},
            {"username": "victim", "password": "on-file"},
        ],
    )
    def test_no_login_form_gets_through_the_backend(
        self, client: Client, provider: Provider, configure: Callable[..., None],
        settings: Settings, fields: dict[str, str],
    ) -> None:  # fmt: skip
        configure(SIGN_IN=True)
        settings.AUTHENTICATION_BACKENDS = ["django_leadexec.backends.LeadExecBackend"]
        make_connection("on-file", user=make_user("victim", password="secret"))
        from django.contrib.auth import authenticate

        assert authenticate(None, **fields) is None
        client.post("/accounts/login/", {"username": "victim", "password": "secret"} | fields)
        assert user_of(client) is None

    def test_a_user_who_is_deleted_is_not_signed_in(
        self, client: Client, provider: Provider, configure: Callable[..., None]
    ) -> None:
        configure(SIGN_IN=True)
        row = make_connection("on-file")
        post(client, "on-file")
        row.user.delete()
        assert not client.get("/page/").wsgi_request.user.is_authenticated
        other = Client()
        assert_error(post(other, "on-file"), 409, "revoking")
        assert_error(post(other, "on-file"), 422, "rejected")
        assert user_of(other) is None

    def test_a_user_who_is_deleted_before_the_answer_is_not_signed_in(
        self, client: Client, provider: Provider, configure: Callable[..., None]
    ) -> None:
        configure(SIGN_IN=True)
        row = make_connection("on-file")

        def deletes(provider: Provider, token: str) -> bytes:
            elsewhere(get_user_model().objects.filter(pk=row.user_id).delete)
            return stand_in.fresh(provider, token)

        provider.answers["on-file"] = deletes
        assert post(client, "on-file").status_code in (409, 422)
        assert user_of(client) is None

    @pytest.mark.parametrize("change", [{"is_active": False}, {"is_staff": True}])
    def test_a_user_who_changes_before_the_answer_is_not_signed_in(
        self, client: Client, provider: Provider, configure: Callable[..., None], change: Any
    ) -> None:
        configure(SIGN_IN=True)
        row = make_connection("on-file")

        def changes(provider: Provider, token: str) -> bytes:
            users = get_user_model().objects.filter(pk=row.user_id)
            elsewhere(lambda: users.update(**change))
            return stand_in.fresh(provider, token)

        provider.answers["on-file"] = changes
        assert post(client, "on-file").status_code in (200, 403)
        assert not client.get("/page/").wsgi_request.user.is_authenticated


# Links that wait


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
        client.post(CONFIRM, {"confirm": "yes", "link": link})
        assert not LeadExecConnection.objects.exists()
        assert pending_link.KEY not in client.session

    def test_a_yes_that_has_not_seen_the_page_links_nothing(
        self, client: Client, provider: Provider
    ) -> None:
        post(client, "attackers-1")
        client.force_login(make_user("victim"), backend=LOGIN)
        for fields in ({}, {"link": ""}, {"link": "x"}, {"link": "attackers-1"}):
            response = client.post(CONFIRM, {"confirm": "yes", **fields})
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
            response = client.post(CONFIRM, {"confirm": "yes", "link": seen})
            assert "attackers" in response.content.decode()
            assert not LeadExecConnection.objects.exists()
            client.get(CONFIRM)  # as the other tab would

    def test_it_is_gone_after_ten_minutes_however_often_it_is_tried(
        self, client: Client, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        post(client, "attackers-1")
        client.force_login(make_user("victim"), backend=LOGIN)
        link = link_shown(client)
        provider.default = stand_in.unavailable
        began = time.time()
        for minutes in (3, 6, 9):
            monkeypatch.setattr(
                "django_leadexec.pending_link.time.time", lambda m=minutes: began + 60 * m
            )
            client.post(CONFIRM, {"confirm": "yes", "link": link})
            assert pending_link.KEY in client.session
        provider.default = stand_in.fresh
        monkeypatch.setattr("django_leadexec.pending_link.time.time", lambda: began + 601)
        client.post(CONFIRM, {"confirm": "yes", "link": link})
        assert not LeadExecConnection.objects.exists()
        assert pending_link.KEY not in client.session

    def test_a_change_of_user_drops_it(self, client: Client, provider: Provider) -> None:
        post(client, "attackers-1")
        client.force_login(make_user("first"), backend=LOGIN)
        link = link_shown(client)
        client.force_login(make_user("second"), backend=LOGIN)
        client.post(CONFIRM, {"confirm": "yes", "link": link})
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
        client.post(CONFIRM, {"confirm": "yes", "link": link})
        assert [row.user for row in LeadExecConnection.objects.all()] == [owner]

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
        client.post(CONFIRM, {"confirm": "yes", "link": link})
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


# The automatic return, on a machine that others use


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


# The site's own code

NO_ACCOUNT = [
    *("blank", "empty", "none_in_words", "number", "true", "data", "octets"),
    *("control_characters", "turned_around", "half_a_pair", "unreachable", "no_json"),
    "unavailable",
]
NO_USER = [
    *("create_nobody", "create_a_name", "create_a_group", "create_unsaved", "create_inactive"),
    *("create_staff", "create_one_and_return_another", "create_by_a_save_of_the_victim"),
    *("create_and_fail", "create_what_exists"),
]


class TestTheSitesOwnCode:
    @pytest.fixture(autouse=True)
    def sign_in(self, configure: Callable[..., None]) -> None:
        configure(
            SIGN_IN=True,
            IDENTIFY="tests.security.plugins.account",
            CREATE_USER="tests.security.plugins.create",
        )

    @pytest.mark.parametrize("name", NO_ACCOUNT)
    def test_an_identify_that_names_no_account_connects_nothing(
        self, client: Client, provider: Provider, configure: Callable[..., None], name: str
    ) -> None:
        configure(IDENTIFY=f"tests.security.plugins.{name}")
        assert_error(post(client, "acme-1"), 502, "unavailable")
        assert not LeadExecConnection.objects.exists()
        assert not get_user_model().objects.exists()
        assert not client.session.keys()

    @pytest.mark.parametrize("name", ["broken", "elsewhere"])
    def test_an_identify_that_fails_by_its_own_fault_is_the_operators_to_see(
        self, client: Client, provider: Provider, configure: Callable[..., None], name: str
    ) -> None:
        configure(IDENTIFY=f"tests.security.plugins.{name}")
        client.raise_request_exception = False
        assert post(client, "acme-1").status_code == 500
        assert not LeadExecConnection.objects.exists()
        assert user_of(client) is None

    @pytest.mark.parametrize("name", NO_USER)
    def test_a_create_user_that_makes_no_new_ordinary_user_leaves_nothing_behind(
        self, client: Client, provider: Provider, configure: Callable[..., None], name: str
    ) -> None:
        configure(CREATE_USER=f"tests.security.plugins.{name}")
        make_user("victim")
        client.raise_request_exception = False
        assert post(client, "acme-1").status_code == 500
        assert user_of(client) is None
        assert not LeadExecConnection.objects.exists()
        assert [user.username for user in get_user_model().objects.all()] == ["victim"]

    @pytest.mark.parametrize(
        ("first", "second"),
        [("acme", "Acme"), ("acme", "acme_"), ("acme", "ac\u00admie"), ("strasse", "straße")],
    )
    def test_accounts_that_a_collation_takes_for_one_are_two(
        self, client: Client, provider: Provider, monkeypatch: pytest.MonkeyPatch,
        configure: Callable[..., None], first: str, second: str,
    ) -> None:  # fmt: skip
        configure(CREATE_USER=None)
        owner = make_user("owner")
        make_connection(f"{first}-1", user=owner, account_id=first.replace("_", " "))
        named: list[str] = []

        def identify(path: str, access_token: str) -> str:
            named.append(second.replace("_", " "))
            return named[-1]

        monkeypatch.setattr(authorization, "_identify", identify)
        assert post(client, "other-1").json()["status"] == "login_required"
        assert named
        assert user_of(client) is None
        client.force_login(make_user("other"), backend=LOGIN)
        agree(client)
        rows = LeadExecConnection.objects.order_by("pk")
        assert [row.user.username for row in rows] == ["owner", "other"]
        assert len({row.identity for row in rows}) == 2

    def test_tokens_that_a_collation_takes_for_one_are_two(
        self, client: Client, provider: Provider, configure: Callable[..., None]
    ) -> None:
        configure(IDENTIFY=None, CREATE_USER=None)
        make_connection("Token")
        for token in ("token", "TOKEN", "Token."):
            assert post(client, token).json()["status"] == "login_required"
        assert post(client, "Token").json()["status"] == "signed_in"

    @pytest.mark.mysql
    def test_a_username_that_the_collation_knows_already_makes_no_user(
        self, client: Client, provider: Provider
    ) -> None:
        assert post(client, "acme-1").json()["status"] == "signed_in"
        other = Client(raise_request_exception=False)
        assert post(other, "Acme-1").status_code == 500
        assert user_of(other) is None
        assert LeadExecConnection.objects.get().account_id == "acme"


# Where it runs


class TestAtomicRequests:
    @pytest.fixture(autouse=True)
    def atomic(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)

    def test_no_call_holds_a_transaction_open(
        self, client: Client, victim: Any, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from django_leadexec.client import Client as Calls

        inside: list[bool] = []
        for name in ("refresh", "revoke"):
            call = getattr(Calls, name)

            def watched(self: Any, *args: Any, call: Any = call, **options: Any) -> Any:
                inside.append(connection.in_atomic_block)
                return call(self, *args, **options)

            monkeypatch.setattr(Calls, name, watched)
        assert post(client, "t").json()["status"] == "connected"
        assert post(client, "t").json()["status"] == "connected"
        assert client.post(DISCONNECT).status_code == 302
        client.logout()
        post(client, "u")
        client.force_login(victim, backend=LOGIN)
        assert agree(client).status_code == 302
        assert inside == [False] * 4
        assert PendingRevocation.objects.count() == 0

    def test_an_error_keeps_what_was_written_before_it(
        self, client: Client, victim: Any, provider: Provider
    ) -> None:
        row = make_connection("mine", user=victim)
        provider.answers["mine"] = stand_in.refused
        assert_error(post(client, "mine"), 422, "rejected")
        row.refresh_from_db()
        assert row.status == "rejected"


def test_no_answer_is_a_redirect_that_a_script_would_follow(
    client: Client, provider: Provider, settings: Settings
) -> None:
    for clicked in (True, False):
        assert post(client, "t", clicked).status_code == 200
    assert reverse("leadexec:callback") == CALLBACK
