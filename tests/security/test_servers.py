"""The callback behind real servers: bodies without a length, lengths that lie, WSGI and ASGI."""

import json
import re
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.conf import settings as django_settings
from django.contrib.sessions.backends.db import SessionStore
from django.core.asgi import get_asgi_application
from django.test import AsyncClient, Client
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.visitor_mark import mark_of

from ..factories import make_user
from ..processes import wait_until
from ..provider import Provider, fresh
from ..visitor import csrf_token, elsewhere

pytestmark = pytest.mark.django_db(transaction=True)

CALLBACK, CONFIRM, DISCONNECT = (
    f"/leadexec/{name}/" for name in ("callback", "confirm", "disconnect")
)
LOGIN = "django.contrib.auth.backends.ModelBackend"


def body_of(user: Any) -> bytes:
    """What a page that was made for this user, or for a stranger, posts after a click."""
    return json.dumps({"token": "t", "gesture": True, "visitor": mark_of(user)}).encode()


BODY = body_of(None)


def session_of(user: Any) -> str:
    """The key of a session in which the user is logged in."""
    client = Client()
    client.force_login(user, backend=LOGIN)
    return str(client.session.session_key)


class Wsgi:
    """Django's own WSGI server on a real socket, and a visitor with session and CSRF token."""

    def __init__(self, server: LiveServer, user: Any) -> None:
        self.address = (server.thread.host, server.thread.port)
        self.cookies = f"{django_settings.SESSION_COOKIE_NAME}={session_of(user)}"
        self.body = body_of(user)
        page = self.talk(b"GET /page/ HTTP/1.1\r\n", b"")
        cookie = re.search(rb"csrftoken=(\w+)", page)
        assert cookie
        self.token = cookie[1].decode()
        self.cookies += f"; csrftoken={self.token}"

    def talk(self, first: bytes, body: bytes, *, wait_for_end: bool = True) -> bytes:
        host, port = self.address
        head = f"Host: {host}:{port}\r\nCookie: {self.cookies}\r\nConnection: close\r\n\r\n"
        with socket.create_connection(self.address, timeout=10) as sock:
            sock.sendall(first + head.encode() + body)
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            try:
                while part := sock.recv(65_536):
                    answer += part
                    if not wait_for_end and answer.endswith(b"}"):
                        break
            except ConnectionResetError:
                pass  # the server did not read all that was sent
        return answer

    def post(self, headers: bytes, body: bytes) -> tuple[int, dict[str, Any]]:
        """The status and the JSON of the answer to a post with these headers."""
        first = b"POST %s HTTP/1.1\r\nContent-Type: application/json\r\nX-CSRFToken: %s\r\n%s"
        answer = self.talk(first % (CALLBACK.encode(), self.token.encode(), headers), body)
        head, _, data = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(data)


@pytest.fixture
def wsgi(live_server: LiveServer, settings: Settings, provider: Provider) -> Wsgi:
    settings.ALLOWED_HOSTS = ["*"]
    return Wsgi(live_server, make_user())


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)


class TestWsgi:
    def test_a_body_of_its_length_is_read(self, wsgi: Wsgi) -> None:
        status, answer = wsgi.post(b"Content-Length: %d\r\n" % len(wsgi.body), wsgi.body)
        assert (status, answer["status"]) == (200, "connected")

    @pytest.mark.parametrize(
        ("headers", "body"),
        [
            (b"", BODY),
            (b"Transfer-Encoding: chunked\r\n", chunked(BODY)),
            (b"Content-Length: 0\r\n", BODY),
            (b"Content-Length: 10\r\n", BODY),
            (b"Content-Length: -1\r\n", BODY),
            (b"Content-Length: abc\r\n", BODY),
            (b"Content-Length: \xb2\r\n", BODY),
            (b"Content-Length: " + b"9" * 5_000 + b"\r\n", BODY),
            (b"Content-Length: 1000\r\n", BODY[:10]),
        ],
        ids=["none", "chunked", "0", "10", "-1", "abc", "squared", "huge", "too long"],
    )
    def test_a_length_that_is_missing_or_lies_is_malformed(
        self, wsgi: Wsgi, provider: Provider, headers: bytes, body: bytes
    ) -> None:
        status, answer = wsgi.post(headers, body)
        assert (status, answer["error"]["code"]) == (400, "malformed")
        assert not provider.calls

    def test_what_comes_after_the_length_is_no_second_request(
        self, wsgi: Wsgi, provider: Provider
    ) -> None:
        smuggled = b"POST %s HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}" % DISCONNECT.encode()
        status, answer = wsgi.post(b"Content-Length: %d\r\n" % len(wsgi.body), wsgi.body + smuggled)
        assert (status, answer["status"]) == (200, "connected")
        assert LeadExecConnection.objects.active().exists()

    def test_three_megabytes_are_too_much(self, wsgi: Wsgi, provider: Provider) -> None:
        body = b'{"token": "' + b"x" * 3_000_000 + b'", "gesture": true}'
        try:
            status, answer = wsgi.post(b"Content-Length: %d\r\n" % len(body), body)
        except (ConnectionResetError, BrokenPipeError):
            pass  # the answer came while the body was still being sent
        else:
            assert (status, answer["error"]["code"]) == (413, "too_large")
        assert not provider.calls

    def test_who_disconnects_is_answered_while_the_provider_is_silent(
        self, wsgi: Wsgi, provider: Provider
    ) -> None:
        wsgi.post(b"Content-Length: %d\r\n" % len(wsgi.body), wsgi.body)
        provider.held.set()
        first = b"POST %s HTTP/1.1\r\nContent-Type: application/json\r\nX-CSRFToken: %s\r\n"
        head = first % (DISCONNECT.encode(), wsgi.token.encode()) + b"Content-Length: 2\r\n"
        try:
            assert b'"status": "disconnected"' in wsgi.talk(head, b"{}", wait_for_end=False)
            wait_until(lambda: provider.calls["disconnectapplicationtoken"])
            assert PendingRevocation.objects.count() == 1
        finally:
            provider.held.clear()
        wait_until(lambda: not PendingRevocation.objects.exists())
        assert provider.revoked == {"t"}


class TestAsgi:
    @pytest.fixture
    def user(self) -> Any:
        return make_user()

    @pytest.fixture
    def cookies(self, user: Any) -> dict[str, str]:
        return {django_settings.SESSION_COOKIE_NAME: session_of(user)}

    def post(
        self,
        cookies: dict[str, str],
        *parts: bytes,
        cut_off: bool = False,
        see: Callable[[dict[str, Any]], Awaitable[None]] | None = None,
        **scope: Any,
    ) -> tuple[int, dict[str, Any]] | None:
        """The answer to a body that comes in parts, without a length; None if there is none.

        ``see`` gets the answer while the server still works on the request.
        """
        client = Client()
        token = csrf_token(client)
        cookies = cookies | {"csrftoken": client.cookies["csrftoken"].value}
        pairs = "; ".join(f"{name}={value}" for name, value in cookies.items())
        headers = {
            "host": "testserver",
            "content-type": "application/json",
            "x-csrftoken": token,
            "cookie": pairs,
        }

        async def talk() -> tuple[int, dict[str, Any]] | None:
            request: dict[str, Any] = {
                "type": "http",
                "asgi": {"version": "3.0"},
                "http_version": "1.1",
                "method": "POST",
                "path": CALLBACK,
                "query_string": b"",
                "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            }
            server = ApplicationCommunicator(get_asgi_application(), request | scope)
            for part in parts:
                await server.send_input({"type": "http.request", "body": part, "more_body": True})
            if cut_off:
                await server.send_input({"type": "http.disconnect"})
                await server.wait(10)
                return None
            await server.send_input({"type": "http.request", "body": b""})
            start = await server.receive_output(20)
            answer = json.loads((await server.receive_output(20))["body"])
            if see:
                await see(answer)
            await server.wait(10)
            return start["status"], answer

        return async_to_sync(talk)()

    def test_a_body_in_parts_is_read(
        self, provider: Provider, user: Any, cookies: dict[str, str]
    ) -> None:
        body = body_of(user)
        answer = self.post(cookies, body[:7], body[7:])
        assert answer is not None
        assert (answer[0], answer[1]["status"]) == (200, "connected")

    def test_a_body_in_parts_has_a_limit_too(
        self, provider: Provider, cookies: dict[str, str]
    ) -> None:
        # No length announces it, so only what is read can be counted.
        padding = b" " * 100_000
        answer = self.post(cookies, BODY, *[padding] * 30)
        assert answer is not None
        assert (answer[0], answer[1]["error"]["code"]) == (413, "too_large")
        assert not provider.calls

    def test_who_disconnects_is_answered_while_the_provider_is_silent(
        self, provider: Provider, cookies: dict[str, str], user: Any
    ) -> None:
        self.post(cookies, body_of(user))
        provider.held.set()

        def see(answer: dict[str, Any]) -> None:
            assert answer["status"] == "disconnected"
            assert PendingRevocation.objects.count() == 1
            provider.held.clear()

        self.post(cookies, b"{}", path=DISCONNECT, see=sync_to_async(see))
        assert not PendingRevocation.objects.exists()
        assert provider.revoked == {"t"}

    def test_a_visitor_who_hangs_up_changes_nothing(
        self, provider: Provider, cookies: dict[str, str]
    ) -> None:
        assert self.post(cookies, BODY[:7], cut_off=True) is None
        assert not provider.calls

    @pytest.mark.usefixtures("set_clock")
    def test_clients_without_an_address_are_counted_as_one(
        self, provider: Provider, settings: Settings
    ) -> None:
        settings.LEADEXEC = settings.LEADEXEC | {"CALLBACK_RATE": "2/d", "SIGN_IN": True}
        answers = [self.post({}, BODY, client=None) for _ in range(3)]
        assert [answer and answer[0] for answer in answers] == [200, 200, 429]

    def test_the_views_work_from_callback_to_link(self, provider: Provider) -> None:
        user = make_user()

        async def visit() -> list[int]:
            client = AsyncClient()
            statuses = [(await client.post(CALLBACK, BODY, "application/json")).status_code]
            await client.aforce_login(user, backend=LOGIN)
            page = await client.get(CONFIRM)
            statuses.append(page.status_code)
            fields = {name: page.context[name] for name in ("link", "visitor")}
            fields["confirm"] = "yes"
            statuses.append((await client.post(CONFIRM, fields)).status_code)
            return statuses

        assert async_to_sync(visit)() == [200, 200, 302]
        assert provider.refreshes["t"] == 1
        assert LeadExecConnection.objects.active().exists()


def test_a_session_that_is_gone_by_the_time_of_the_answer_is_no_traceback(
    client: Client, provider: Provider
) -> None:
    # Somebody signs out in another tab while the callback is under way.
    user = make_user()
    client.force_login(user, backend=LOGIN)
    key = client.session.session_key

    def ends(provider: Provider, token: str) -> bytes:
        elsewhere(SessionStore(key).delete)
        return fresh(provider, token)

    provider.answers["t"] = ends
    response = client.post(CALLBACK, body_of(user), content_type="application/json")
    assert response.status_code in (200, 400)
