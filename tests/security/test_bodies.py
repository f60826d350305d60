"""Tokens and bodies of any shape, posted to the callback."""

import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.http import HttpResponse
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from django_leadexec import views
from django_leadexec.models import LeadExecConnection

from ..factories import make_connection, make_user
from ..provider import Provider, http
from ..sockets import answering, serving
from ..visiting import (
    CALLBACK,
    assert_error,
    post,
)

pytestmark = pytest.mark.django_db(transaction=True)


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
