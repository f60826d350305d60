import re
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from django.core import serializers
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from django_leadexec import endpoints
from django_leadexec.sandbox import provider, views
from django_leadexec.sandbox.faults import expire_access_tokens
from django_leadexec.sandbox.models import AccessToken, Grant

pytestmark = pytest.mark.django_db

REFRESH = "/sandbox/authorize/refreshaccesstoken/"
DISCONNECT = "/sandbox/authorize/disconnectapplicationtoken/"


def call_refresh(token: str, app_id: str = "app") -> dict[str, object]:
    answer = Client().get(REFRESH + quote(token, safe=""), {"appid": app_id})
    assert answer.status_code == 200
    assert answer["Content-Type"] == "application/json"
    payload: dict[str, object] = answer.json()
    return payload


def call_api(token: object) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    return Client().get("/sandbox/account-api/v1/leadtypes", headers=headers).status_code


def test_a_refresh_answers_with_the_documented_keys() -> None:
    [token] = provider.create_grants("app")
    payload = call_refresh(token)
    assert set(payload) == {"valid", "refreshToken", "authToken", "expireDate", "errorMessage"}
    assert payload["valid"] is True
    assert payload["refreshToken"] == token
    assert payload["errorMessage"] is None
    assert call_api(payload["authToken"]) == 200


def test_an_access_token_lives_one_hour_in_universal_time(settings: Settings) -> None:
    settings.TIME_ZONE = "Asia/Tokyo"
    [token] = provider.create_grants("app")
    before = datetime.now(UTC).replace(microsecond=0)
    expires = datetime.strptime(
        str(call_refresh(token)["expireDate"]), "%Y-%m-%dT%H:%M:%SZ"
    ).replace(tzinfo=UTC)
    assert before <= expires - timedelta(hours=1) <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("style", "pattern"),
    [("microsoft", r"/Date\(\d{13}\)/"), ("us", r"\d+/\d+/\d{4} \d+:\d\d:\d\d [AP]M")],
)
def test_the_expiry_can_be_written_in_the_other_formats(
    settings: Settings, style: str, pattern: str
) -> None:
    settings.LEADEXEC_SANDBOX = {"EXPIRE_DATE_FORMAT": style}
    [token] = provider.create_grants("app")
    assert re.fullmatch(pattern, str(call_refresh(token)["expireDate"]))


@pytest.mark.parametrize("app_id", ["other", "", "a" * 300, "nul\0"])
def test_a_token_is_refused_to_another_application(app_id: str) -> None:
    [token] = provider.create_grants("app")
    payload = call_refresh(token, app_id)
    assert payload["valid"] is False
    assert payload["authToken"] is None
    assert payload["errorMessage"]


def test_a_call_without_an_application_is_refused() -> None:
    [token] = provider.create_grants("app")
    assert Client().get(REFRESH + token).json()["valid"] is False


@pytest.mark.parametrize("token", ["never-heard-of", "with/slash", "a?b#c", "50%", "é", "x" * 2048])
def test_any_piece_of_path_is_taken_as_a_token(token: str) -> None:
    payload = call_refresh(token)
    assert payload["valid"] is False
    assert payload["refreshToken"] == token


def test_a_token_is_compared_exactly() -> None:
    [token] = provider.create_grants("app")
    assert call_refresh(token.swapcase())["valid"] is False
    assert call_refresh(token + " ")["valid"] is False


def test_the_first_application_that_refreshes_gets_a_grant_made_through_a_button() -> None:
    token = provider.authorize("northwind-solar", "button").refresh_token
    assert call_refresh(token, "nul\0")["valid"] is False
    assert call_refresh(token, "first")["valid"] is True
    assert call_refresh(token, "second")["valid"] is False
    assert call_refresh(token, "first")["valid"] is True


def test_only_configured_applications_are_known(settings: Settings) -> None:
    settings.LEADEXEC_SANDBOX = {"APPLICATIONS": {"app": "button"}}
    assert provider.knows_button("button")
    assert not provider.knows_button("app")
    assert provider.app_of("button") == "app"
    token = provider.authorize("northwind-solar", "button").refresh_token
    assert call_refresh(token, "app")["valid"] is True
    [stranger] = provider.create_grants("other")
    assert call_refresh(stranger, "other")["valid"] is False


def test_consenting_again_keeps_the_refresh_token() -> None:
    first = provider.authorize("northwind-solar", "button")
    again = provider.authorize("northwind-solar", "button")
    assert again.refresh_token == first.refresh_token
    assert provider.authorize("harbor-mortgage", "button").refresh_token != first.refresh_token
    assert provider.authorize("northwind-solar", "another").refresh_token != first.refresh_token


def test_consenting_after_a_revocation_gives_another_refresh_token() -> None:
    first = provider.authorize("northwind-solar", "button")
    provider.disconnect(first.refresh_token)
    again = provider.authorize("northwind-solar", "button")
    assert again.refresh_token != first.refresh_token
    assert call_refresh(first.refresh_token)["valid"] is False
    assert call_refresh(again.refresh_token)["valid"] is True


def test_another_secret_key_ends_the_automatic_return_but_no_grant(
    settings: Settings,
) -> None:
    token = provider.authorize("northwind-solar", "button").refresh_token
    settings.SECRET_KEY = "another"
    assert provider.find_grant("northwind-solar", "button") is None
    assert call_refresh(token)["valid"] is True


def test_a_disconnect_ends_the_grant_and_its_access_tokens() -> None:
    token, other = provider.create_grants("app", 2)
    access, others = call_refresh(token)["authToken"], call_refresh(other)["authToken"]
    answer = Client().get(DISCONNECT + token)
    assert answer.json() == {"valid": True, "refreshToken": token, "errorMessage": None}
    assert call_api(access) == 401
    assert call_refresh(token)["valid"] is False
    assert call_api(others) == 200
    assert Client().get(DISCONNECT + token).json()["valid"] is False


def test_a_disconnect_speaks_jsonp() -> None:
    [token] = provider.create_grants("app")
    answer = Client().get(DISCONNECT + token, {"callback": "jQuery19_1", "_": "17"})
    assert answer["Content-Type"].startswith("application/javascript")
    assert answer.text.startswith('jQuery19_1({"valid": true')
    assert answer.text.endswith("});")


@pytest.mark.parametrize("name", ["alert(1)//", "a b", "1a", "a..b", "ünder", "a" * 101])
def test_a_callback_that_is_no_name_is_refused_and_revokes_nothing(name: str) -> None:
    [token] = provider.create_grants("app")
    answer = Client().get(DISCONNECT + token, {"callback": name})
    assert answer.status_code == 400
    assert name not in answer.text
    assert call_refresh(token)["valid"] is True


def test_a_refresh_token_is_no_access_token() -> None:
    [token] = provider.create_grants("app")
    assert call_api(token) == 401


def test_an_expired_access_token_is_refused_and_removed_by_the_next_refresh() -> None:
    token, other = provider.create_grants("app", 2)
    access = call_refresh(token)["authToken"]
    AccessToken.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert call_api(access) == 401
    call_refresh(other)
    assert AccessToken.objects.count() == 1


def test_several_access_tokens_of_a_grant_are_good_at_once() -> None:
    [token] = provider.create_grants("app")
    first, second = (call_refresh(token)["authToken"] for _ in range(2))
    assert first != second
    assert call_api(first) == call_api(second) == 200


def test_access_tokens_can_be_expired_before_their_time() -> None:
    [token] = provider.create_grants("app")
    access = call_refresh(token)["authToken"]
    expire_access_tokens()
    assert call_api(access) == 401
    assert call_api(call_refresh(token)["authToken"]) == 200


def test_grants_made_in_bulk_are_each_of_an_account_of_its_own() -> None:
    tokens = provider.create_grants("app", 1200)
    assert len(set(tokens)) == 1200
    assert Grant.objects.values("account").distinct().count() == 1200
    assert call_refresh(tokens[-1])["valid"] is True


def test_no_token_is_in_the_tables_in_plain_text() -> None:
    token = provider.authorize("northwind-solar", "button").refresh_token
    access = str(call_refresh(token)["authToken"])
    rows = serializers.serialize("json", [*Grant.objects.all(), *AccessToken.objects.all()])
    with connection.cursor() as cursor:
        for model in (Grant, AccessToken):
            cursor.execute(f"SELECT * FROM {model._meta.db_table}")  # noqa: S608
            rows += str(cursor.fetchall())
    assert token not in rows
    assert access not in rows


@pytest.mark.parametrize("call", [REFRESH, DISCONNECT])
def test_the_calls_are_gets(call: str) -> None:
    [token] = provider.create_grants("app")
    assert Client().post(call + token).status_code == 405
    assert Grant.objects.live().count() == 1


def test_no_view_runs_in_a_transaction_on_any_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "databases", ["default", "sandbox"])
    view = views.sandbox_view(views.home)
    assert view._non_atomic_requests == {"default", "sandbox"}  # type: ignore[attr-defined]


def test_a_call_runs_in_no_transaction_of_the_site(monkeypatch: pytest.MonkeyPatch) -> None:
    [token] = provider.create_grants("app")
    call_refresh(token)
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    with CaptureQueriesContext(connection) as queries:
        call_refresh(token)
    statements = [query["sql"].split()[0] for query in queries]
    # The fault, the grant, the access token, expired ones, the count.
    assert statements == ["SELECT", "SELECT", "INSERT", "SELECT", "UPDATE"]
