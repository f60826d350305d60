"""Doubles for HTTP see the calls to the provider, and those of a session."""

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
import responses
from pytest_django import Settings

from django_leadexec.exceptions import ProviderUnavailable
from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.refresh.refresher import refresh_due

from ..factories import make_connection
from ..needs import import_or_skip

requests_mock = import_or_skip("requests_mock")

pytestmark = pytest.mark.django_db(transaction=True)

PROVIDER = "https://apps.leadexec.net/authorize"
REFRESH = f"{PROVIDER}/refreshaccesstoken/a-token?appid=test-app"
DISCONNECT = f"{PROVIDER}/disconnectapplicationtoken/a-token"
LEADS = "https://api.leadexec.net/v1/leadtypes"
YES = {"valid": True, "refreshToken": "a-token", "authToken": "an-access-token"}


@pytest.fixture
def row() -> LeadExecConnection:
    return make_connection("a-token", expires_in=-1)


@pytest.fixture
def mock() -> Iterator[Any]:
    with requests_mock.Mocker(case_sensitive=True) as mock:
        yield mock


def test_requests_mock_sees_a_refresh(row: LeadExecConnection, mock: Any) -> None:
    mock.get(REFRESH, json=YES)
    assert row.get_access_token() == "an-access-token"
    assert [request.url for request in mock.request_history] == [REFRESH]
    assert mock.last_request.headers["Accept"] == "application/json"


def test_requests_mock_sees_a_revocation(row: LeadExecConnection, mock: Any) -> None:
    mock.get(DISCONNECT, text="done()", status_code=503)
    assert row.revoke() is False
    mock.get(DISCONNECT, json={"success": True})
    PendingRevocation.objects.update(retry_after=row.created_at)
    assert refresh_due()["revoked"] == 1


@pytest.mark.parametrize(
    "trouble",
    [
        {"exc": requests.exceptions.ConnectTimeout},
        {"exc": requests.exceptions.ConnectionError},
        {"status_code": 503},
        {"text": "<h1>Hello</h1>"},
        {"json": YES, "status_code": 302, "headers": {"Location": "https://evil.test/"}},
    ],
    ids=["timeout", "no connection", "503", "html", "redirect"],
)
def test_what_requests_mock_plays_of_trouble_says_nothing(
    row: LeadExecConnection, mock: Any, trouble: Any
) -> None:
    mock.get(REFRESH, **trouble)
    with pytest.raises(ProviderUnavailable):
        row.get_access_token()
    assert mock.call_count == 1


def test_a_call_that_the_test_has_forgotten_is_an_error(row: LeadExecConnection, mock: Any) -> None:
    with pytest.raises(requests_mock.NoMockAddress):
        row.get_access_token()


def test_after_requests_mock_the_calls_are_real_again(
    row: LeadExecConnection, configure: Any, settings: Settings
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(YES | {"authToken": "a-real-one"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    settings.DEBUG = True  # it speaks http
    configure(BASE_URL=url)
    try:
        with requests_mock.Mocker() as mock:
            mock.get(f"{url}/authorize/refreshaccesstoken/a-token?appid=test-app", json=YES)
            assert row.get_access_token() == "an-access-token"
        assert row.get_access_token(min_ttl=5_000) == "a-real-one"
        with requests_mock.Mocker(real_http=True):
            assert row.get_access_token(min_ttl=5_000) == "a-real-one"
    finally:
        server.shutdown()
        server.server_close()


def test_requests_mock_sees_the_calls_of_a_session_and_its_second_try(
    row: LeadExecConnection, mock: Any
) -> None:
    mock.get(REFRESH, json=YES)
    mock.get(LEADS, [{"status_code": 401}, {"json": ["a lead type"]}])
    long_ago = row.created_at - timedelta(minutes=5)
    row = make_connection("a-token", user=row.user, refreshed_at=long_ago)
    session = row.session()
    assert session.get(f"{session.account_api}/v1/leadtypes").json() == ["a lead type"]
    sent = [it.headers["Authorization"] for it in mock.request_history if it.url == LEADS]
    assert sent == ["Bearer stored-access-for-a-token", "Bearer an-access-token"]


@responses.activate
def test_responses_sees_them_too(row: LeadExecConnection) -> None:
    responses.get(REFRESH, json=YES)
    responses.get(DISCONNECT, json={"success": True})
    assert row.get_access_token() == "an-access-token"
    assert row.revoke() is True
    assert [call.request.url for call in responses.calls] == [REFRESH, DISCONNECT]
