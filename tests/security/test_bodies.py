"""Tokens and bodies of any shape, posted to the callback."""

import hmac
import json
import traceback
from collections.abc import Callable
from tempfile import SpooledTemporaryFile
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.backends.db import SessionStore
from django.core.handlers.asgi import ASGIRequest
from django.db import connection
from django.http import HttpResponse
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from django_leadexec import views
from django_leadexec.models import LeadExecConnection
from django_leadexec.visitor_mark import mark_of

from ..factories import make_connection, make_user, plain
from ..provider import Provider, http
from ..sockets import answering, serving
from ..visitor import (
    CALLBACK,
    assert_error,
    callback_body,
    mark_for,
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
        assert plain(LeadExecConnection.objects.get().refresh_token) == token

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
            *(1e400, 10**400, -1, 0, True, {}, {"token": "t"}, ["t"], [[]], None),
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
        monkeypatch.setattr(json, "loads", lambda *args, **kwargs: pytest.fail("it was parsed"))
        body = '{"token": "%s", "gesture": true}' % ("x" * 3_000_000)
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

        def counting(key: bytes, *args: Any, **options: Any) -> Any:
            digests.append(key)
            return new(key, *args, **options)

        costs = set()
        answers = set()
        for token in ("known", "knowm", "unknown", "staffs", "x" * 2_048):
            body = json.dumps(callback_body(client, token, False))
            monkeypatch.setattr("django_leadexec.crypto.hmac.new", counting)
            digests.clear()
            with CaptureQueriesContext(connection) as queries:
                response = client.post(CALLBACK, body, content_type="application/json")
            monkeypatch.undo()
            answers.add(response.content)
            costs.add((len(digests), len(queries)))
        # One of the page's mark, and of the token one for each key.
        assert costs == {(4, 1)}
        assert len(answers) == 1

    def test_a_digest_is_looked_up_and_never_the_token(
        self, client: Client, provider: Provider
    ) -> None:
        # So the time of a query does not depend on how much of a token was right.
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
            b'{"token": ' + b"9" * 16_000 + b', "gesture": true}',
            b'{"token": "t", "gesture": true, "n": ' + b"9" * 16_000 + b"}",
            b'{"token": 1e999999, "gesture": true}',
            b'{"token": NaN, "gesture": true}',
            b'{"token": "t", "gesture": 1}',
            b'{"token": "t", "gesture": "true"}',
            b'{"token": "t", "gesture": null}',
            b'{"token": "t", "gesture": [true]}',
            b'{"token": "t", "gesture": true, "visitor": 1}',
            b'{"token": "t", "gesture": true, "visitor": ["x"]}',
            b'{"token": "t", "gesture": true, "next": 1}',
            b'{"token": "t", "gesture": true, "next": ["/"]}',
            b'{"token": "t", "gesture": true',
            b'{"token": "t", "gesture": true}}',
            b"{'token': 't', 'gesture': true}",
            b'{"to\\u0000ken": "t", "gesture": true}',
            b'\xff\xfe{"token": "t", "gesture": true}',
            b"\x00" * 1_000,
            b"null",
            b'"token"',
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
        body = (
            '{"token": "../", "token": "last", "gesture": false, "gesture": true, "visitor": "%s"}'
        )
        body %= mark_for(client)
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
        assert (row.user, row.account_id, plain(row.access_token)) == (victim, "", "access-1-for-t")

    @pytest.mark.parametrize(
        "length", ["²", "٣", "-1", "+5", "1e3", "0x10", "1_0", " 5", "9" * 5_000, "abc", "5, 5"]
    )
    def test_a_length_that_is_none_breaks_nothing(
        self, client: Client, victim: Any, provider: Provider, length: str
    ) -> None:
        response = client.post(
            CALLBACK, '{"token": "t"}', content_type="application/json",
            CONTENT_LENGTH=length,
        )  # fmt: skip
        assert response.status_code in (400, 413)
        assert not provider.calls

    def test_a_length_that_promises_less_is_all_that_is_read(
        self, client: Client, victim: Any, provider: Provider
    ) -> None:
        body = json.dumps(callback_body(client))
        response = client.post(
            CALLBACK, body + "x" * 50_000, content_type="application/json",
            CONTENT_LENGTH=str(len(body)),
        )  # fmt: skip
        assert response.json()["status"] == "connected"

    def test_a_body_that_breaks_off_is_malformed(self, victim: Any, provider: Provider) -> None:
        class Gone:
            def read(self, size: int = -1) -> bytes:
                raise OSError("Apache/mod_wsgi request data read error")

            def close(self) -> None:
                pass

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


BODY = b'{"token": "canary-token", "gesture": true, "visitor": "%s"}' % mark_of(None).encode()
FORM = b"token=canary-token&gesture=true"


def posted(body: bytes, content_type: str = "application/json", **extra: Any) -> Any:
    request: Any = RequestFactory().post(CALLBACK, body, content_type=content_type, **extra)
    request.user, request.session = AnonymousUser(), SessionStore()
    return request


class TestForgottenBodies:
    @pytest.mark.parametrize(
        ("body", "content_type", "status"),
        [
            (BODY, "application/json", 200),
            (BODY[:-1], "application/json", 400),
            (BODY + b" " * 20_000, "application/json", 413),
            (b" " * 20_000 + BODY, "application/json", 413),
            (BODY, "text/plain", 400),
            (FORM, "application/x-www-form-urlencoded", 400),
        ],
    )
    @pytest.mark.parametrize("read_before", ["", "body", "POST"])
    def test_after_the_callback_nothing_in_the_request_gives_the_body(
        self, provider: Provider, body: bytes, content_type: str, status: int, read_before: str
    ) -> None:
        request = posted(body, content_type)
        request._dont_enforce_csrf_checks = True
        if read_before:
            assert getattr(request, read_before) is not None
        assert views.callback(request).status_code == status
        assert_forgotten(request)

    def test_a_failed_csrf_check_finds_the_body_gone(self, provider: Provider) -> None:
        request = posted(BODY)
        assert views.callback(request).status_code == 403
        assert_forgotten(request)

    def test_a_csrf_token_in_a_form_does_not_count_at_the_callback(
        self, provider: Provider
    ) -> None:
        form = FORM + b"&csrfmiddlewaretoken=" + b"c" * 32
        request = posted(form, "application/x-www-form-urlencoded")
        request.COOKIES["csrftoken"] = "c" * 32
        assert views.callback(request).status_code == 403
        assert_forgotten(request)

    def test_another_method_finds_the_body_gone(self, provider: Provider) -> None:
        request: Any = RequestFactory().put(CALLBACK, BODY, content_type="application/json")
        assert views.callback(request).status_code == 405
        assert_forgotten(request)

    def test_an_interrupt_while_it_is_read_leaves_nothing(
        self, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(*args: object, **options: object) -> None:
            raise SystemExit("the worker's time is up")

        request = posted(BODY)
        monkeypatch.setattr(json, "loads", interrupt)
        with pytest.raises(SystemExit) as caught:
            views.callback(request)
        monkeypatch.undo()
        assert_forgotten(request)
        frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
        ours = [frame for frame in frames if "django_leadexec" in frame.f_globals["__name__"]]
        assert ours
        assert "canary" not in repr([frame.f_locals for frame in ours])

    def test_an_async_servers_file_is_closed(self, provider: Provider) -> None:
        with SpooledTemporaryFile() as file:
            file.write(BODY)
            file.seek(0)
            headers = [(b"content-type", b"application/json"), (b"host", b"testserver")]
            scope = {"type": "http", "method": "POST", "path": CALLBACK, "headers": headers}
            request: Any = ASGIRequest(scope, file)
            request.user, request.session = AnonymousUser(), SessionStore()
            request._dont_enforce_csrf_checks = True
            assert views.callback(request).status_code == 200
            assert file.closed
        assert_forgotten(request)


def assert_forgotten(request: Any) -> None:
    assert request.body == request.read() == b""
    assert not request.POST
    assert not request.FILES
    assert "canary" not in repr(vars(request))


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
