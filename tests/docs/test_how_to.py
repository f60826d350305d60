"""What the guides define does what they say."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
import responses
from django.contrib.auth import get_user_model
from django.http import HttpResponse
from django.test import RequestFactory
from django.utils import timezone

from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.testing import fake_leadexec
from tests.factories import make_connection

from ..needs import import_or_skip
from .snippets import DOCS, blocks_of, run

pytestmark = pytest.mark.django_db

ACCOUNT_API = "https://api.leadexec.net"
DATA_API = "https://apidata.leadexec.net"


def defined_in(page: str, name: str) -> Any:
    """What a block of the guide defines under that name."""
    for block in blocks_of(DOCS / "how-to" / f"{page}.md"):
        if block.mark == "run" and name in block.code:
            names = run(block)
            if name in names:
                return names[name]
    raise LookupError(name)


@pytest.fixture
def connection() -> LeadExecConnection:
    return make_connection("token")


@responses.activate
def test_the_two_calls(connection: LeadExecConnection) -> None:
    types = [{"LeadTypeUID": 7, "Name": "Solar"}]
    responses.get(f"{ACCOUNT_API}/v1/leadtypes", json=types)
    responses.post(f"{DATA_API}/v1/leads/query/7", json={"Leads": []})
    assert defined_in("calling-the-api", "lead_types")(connection) == types
    assert defined_in("calling-the-api", "leads_of_week")(connection, 7) == {"Leads": []}
    sent = responses.calls[1].request
    assert sent.headers["Authorization"] == "Bearer stored-access-for-token"
    assert "StartDate" in json.loads(sent.body or "")


@responses.activate
@pytest.mark.parametrize("count", [0, 199, 200, 450])
def test_all_pages_of_a_query(connection: LeadExecConnection, count: int) -> None:
    def answer(request: Any) -> tuple[int, dict[str, str], str]:
        query = json.loads(request.body)
        assert query["SortFields"]
        page = range(count)[query["Skip"] : query["Skip"] + query["Take"]]
        return 200, {}, json.dumps({"Leads": [{"UID": uid} for uid in page]})

    responses.add_callback("POST", f"{DATA_API}/v1/leads/query/7", answer)
    end = datetime.now(UTC)
    all_leads = defined_in("calling-the-api", "all_leads")
    found = [lead["UID"] for lead in all_leads(connection, 7, end - timedelta(days=1), end)]
    assert found == list(range(count))


def view_of(page: str, user: Any) -> HttpResponse:
    request = RequestFactory().get("/report/")
    request.user = user
    response: HttpResponse = defined_in(page, "report")(request)
    return response


@responses.activate
def test_a_view_says_what_went_wrong(connection: LeadExecConnection) -> None:
    responses.get(f"{ACCOUNT_API}/v1/leadtypes", body=requests.ConnectionError("down"))
    assert view_of("calling-the-api", connection.user).status_code == 503
    expired = make_connection("other", expires_in=-1)
    with fake_leadexec() as leadexec:
        leadexec.go_down(retry_after=90)
        answer = view_of("calling-the-api", expired.user)
    assert answer.status_code == 503
    assert answer["Retry-After"] == "90"


@responses.activate
def test_a_celery_task_that_takes_a_primary_key(connection: LeadExecConnection) -> None:
    import_or_skip("celery")
    task: Callable[[int], int | None] = defined_in("calling-the-api", "count_lead_types")
    responses.get(f"{ACCOUNT_API}/v1/leadtypes", json=[1, 2])
    assert task(connection.pk) == 2
    with fake_leadexec() as leadexec:
        refused = make_connection("refused", expires_in=-1)
        leadexec.refuse("refused")
        assert task(refused.pk) is None
        connection.revoke()
    assert task(connection.pk) is None


@responses.activate
def test_identify_and_create_user() -> None:
    url = f"{ACCOUNT_API}/v1/the-call-that-leadexec-names"
    responses.get(url, json={"accountId": 12})
    session = make_connection().session()
    assert defined_in("identifying-accounts", "identify")(session) == "12"
    user = defined_in("signing-in", "create_user")("acme", session)
    assert get_user_model().objects.filter(pk=user.pk, username__startswith="acme:").exists()


def test_the_router_keeps_the_tables_together() -> None:
    router = defined_in("several-databases", "LeadExecRouter")()
    user = get_user_model()
    for model in (LeadExecConnection, PendingRevocation):
        assert router.db_for_read(model) == router.db_for_write(model) == "accounts"
    assert router.db_for_read(user) is router.db_for_write(user) is None
    assert router.allow_migrate("accounts", "django_leadexec") is True
    assert router.allow_migrate("default", "django_leadexec") is False
    assert router.allow_migrate("default", "auth") is None


def test_an_export_holds_no_token(connection: LeadExecConnection) -> None:
    [row] = defined_in("privacy", "export")(connection.user)
    assert row["status"] == "active"
    assert not any("token" in name or "fingerprint" in name for name in row)


def test_old_revoked_rows_are_forgotten(connection: LeadExecConnection) -> None:
    new = make_connection(status="revoked")
    old = make_connection(status="revoked")
    long_ago = timezone.now() - timedelta(days=400)
    LeadExecConnection.objects.filter(pk=old.pk).write(revoked_at=long_ago)
    defined_in("privacy", "forget_old_connections")()
    assert set(LeadExecConnection.objects.all()) == {connection, new}
