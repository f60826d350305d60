"""The two APIs as an application meets them."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from django_leadexec.sandbox import provider
from django_leadexec.sandbox.faults import expire_access_tokens
from django_leadexec.sandbox.models import AccessToken, Grant

pytestmark = pytest.mark.django_db

LEAD_TYPES = "/sandbox/account-api/v1/leadtypes"
ACCOUNT = "/sandbox/account-api/sandbox-only/account"
QUERY = "/sandbox/data-api/v1/leads/query/"
JANUARY = {"StartDate": "2025-01-01T00:00:00Z", "EndDate": "2025-01-31T23:59:59Z"}


class Application:
    """One that holds an account's access token."""

    def __init__(self, account: str = "harbor-mortgage") -> None:
        # As on a site that checks each POST for CSRF.
        self.client = Client(enforce_csrf_checks=True)
        [self.refresh_token] = provider.create_grants("app", account=account)
        self.refresh()

    def refresh(self) -> None:
        self.token = provider.refresh(self.refresh_token, "app")["authToken"]

    def call(self, method: str, path: str, body: object = None, **options: Any) -> Any:
        options.setdefault("headers", {"Authorization": f"Bearer {self.token}"})
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.generic(
            method, path, b"" if body is None else data, content_type="application/json", **options
        )

    def get(self, path: str, **options: Any) -> Any:
        return self.call("GET", path, **options)

    def lead_types(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get(LEAD_TYPES).json()
        return found

    @property
    def query_path(self) -> str:
        return f"{QUERY}{self.lead_types()[0]['LeadTypeUID']}"

    def query(self, **body: object) -> Any:
        return self.call("POST", self.query_path, JANUARY | body)

    def leads(self, **body: object) -> list[dict[str, Any]]:
        answer = self.query(**body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["SentCount"] == len(answer.json()["Leads"])
        found: list[dict[str, Any]] = answer.json()["Leads"]
        return found


@pytest.fixture
def app() -> Application:
    return Application()


def fields(leads: list[dict[str, Any]], name: str) -> list[Any]:
    return [lead["Fields"].get(name) for lead in leads]


# Who may call


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic {}", "{}"]
)
@pytest.mark.parametrize(
    ("method", "path"), [("GET", LEAD_TYPES), ("GET", ACCOUNT), ("POST", f"{QUERY}5")]
)
def test_without_a_good_bearer_the_answer_is_401(
    app: Application, header: str | None, method: str, path: str
) -> None:
    headers = {} if header is None else {"Authorization": header.format(app.token)}
    answer = app.call(method, path, JANUARY, headers=headers)
    assert answer.status_code == 401
    assert answer["WWW-Authenticate"] == "Bearer"
    assert "access token" in answer.json()["message"]


def test_an_expired_token_and_one_of_a_revoked_grant_are_turned_down(app: Application) -> None:
    assert app.get(LEAD_TYPES).status_code == 200
    AccessToken.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert app.get(LEAD_TYPES).status_code == 401
    app.refresh()
    assert app.get(LEAD_TYPES).status_code == 200
    expire_access_tokens()
    assert app.get(LEAD_TYPES).status_code == 401
    app.refresh()
    Grant.objects.all().revoke()
    assert app.get(LEAD_TYPES).status_code == 401
    assert app.call("POST", f"{QUERY}5", JANUARY).status_code == 401


def test_a_refresh_token_opens_nothing(app: Application) -> None:
    headers = {"Authorization": f"Bearer {app.refresh_token}"}
    assert app.get(LEAD_TYPES, headers=headers).status_code == 401


def test_the_scheme_may_be_written_in_any_case(app: Application) -> None:
    headers = {"Authorization": f"bEARER  {app.token}"}
    assert app.get(LEAD_TYPES, headers=headers).status_code == 200


# What is where


def test_the_account_api_lists_the_accounts_lead_types(app: Application) -> None:
    types = app.lead_types()
    assert types[0]["Name"] == "Mortgage"
    assert len(types) == len({it["LeadTypeUID"] for it in types}) == 2
    assert types == app.lead_types()
    assert types != Application("summit-roofing").lead_types()


def test_a_call_of_the_sandboxs_own_tells_whose_token_it_is(app: Application) -> None:
    answer = app.get(ACCOUNT).json()
    assert answer.pop("note") == "Only the sandbox has this call."
    assert answer == {"accountId": "harbor-mortgage", "companyName": "Harbor Mortgage"}


def test_each_answer_says_that_it_is_a_likeness(app: Application) -> None:
    answers = [app.get(LEAD_TYPES), app.query(), app.get("/sandbox/data-api"), app.query(Take="x")]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 400]
    assert all("likeness" in answer["X-LeadExec-Sandbox"] for answer in answers)
    assert all("no-store" in answer["Cache-Control"] for answer in answers)


@pytest.mark.parametrize(
    ("path", "allowed"), [(LEAD_TYPES, "GET, HEAD"), (ACCOUNT, "GET, HEAD"), (f"{QUERY}5", "POST")]
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_another_method_is_answered_405_in_json(
    app: Application, method: str, path: str, allowed: str
) -> None:
    answer = app.call(method, path)
    if method in allowed:
        assert answer.status_code in (200, 404)
        return
    assert answer.status_code == 405
    assert answer["Allow"] == allowed
    if method != "HEAD":
        assert allowed in answer.json()["message"]


@pytest.mark.parametrize(
    "path",
    [
        *("account-api", "account-api/", "account-api/v1", "account-api/v2/leadtypes"),
        *("account-api/v1/leadtypes/", "account-api/v1/leadtypes.json", "account-api/a%0Ab"),
        *("account-api/v1/leads/query/5", "account-api/sandbox-only", "account-api//v1/leadtypes"),
        *("data-api", "data-api/", "data-api/v1/leads/query", "data-api/v1/leads/query/"),
        *("data-api/v1/leads/query/5/", "data-api/v1/leadtypes", "data-api/%00", "data-api/é/%FF"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_address_is_answered_in_json_with_those_that_are_known(
    app: Application, method: str, path: str
) -> None:
    for headers in ({}, {"Authorization": f"Bearer {app.token}"}):
        answer = app.call(method, f"/sandbox/{path}", headers=headers)
        assert answer.status_code == 404
        assert answer.json()["known"] == [
            f"GET {LEAD_TYPES}",
            f"POST {QUERY}LEAD_TYPE_UID",
            f"GET {ACCOUNT}",
        ]


@pytest.mark.parametrize("path", ["api/account", "api/leads", "account-apis", "my-data-api"])
def test_what_is_beside_the_apis_is_not_theirs(app: Application, path: str) -> None:
    answer = app.get(f"/sandbox/{path}")
    assert answer.status_code == 404
    assert answer["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("uid", ["0", "00", "-1", "x", "9" * 5_000, "1e3", "%20", "5.0", "٣"])
def test_another_lead_type_is_answered_404_with_the_accounts_own(
    app: Application, uid: str
) -> None:
    answer = app.call("POST", QUERY + uid, JANUARY)
    assert answer.status_code == 404
    assert answer.json()["lead_types"] == [it["LeadTypeUID"] for it in app.lead_types()]


def test_nobody_sees_the_leads_of_another_account(app: Application) -> None:
    other = Application("summit-roofing")
    mine = {it["LeadTypeUID"] for it in app.lead_types()}
    theirs = {it["LeadTypeUID"] for it in other.lead_types()} - mine
    assert theirs
    for uid in theirs:
        assert app.call("POST", f"{QUERY}{uid}", JANUARY).status_code == 404
    assert app.leads() != other.leads()


# Leads


def test_leads_are_made_of_the_sections_that_leadexec_tells(app: Application) -> None:
    leads = app.leads(Take=1000)
    assert len(leads) > 50
    assert len({lead["UID"] for lead in leads}) == len(leads)
    sections = {frozenset(lead) for lead in leads}
    bare = frozenset({"UID", "Properties", "Fields"})
    assert sections == {bare, bare | {"TCPAInformation"}}
    for lead in leads:
        assert {"LeadSource", "Status", "DateAdded", "DateProcessed"} <= set(lead["Properties"])
        assert {"FirstName", "LastName", "State"} <= set(lead["Fields"])
    assert None in fields(leads, "LoanAmount")


def test_the_same_query_is_answered_the_same_each_time(app: Application) -> None:
    assert app.query().content == app.query().content
    assert Application().query().content == app.query().content


def test_two_ranges_have_the_leads_of_the_one_they_make(app: Application) -> None:
    whole = app.leads(Take=1000)
    first = app.leads(Take=1000, EndDate="2025-01-15T11:59:59.999999Z")
    second = app.leads(Take=1000, StartDate="2025-01-15T12:00:00Z")
    assert first + second == whole
    assert first
    assert second


def test_dates_in_leads_are_by_the_accounts_clock(app: Application) -> None:
    [first, *_, last] = app.leads(Take=1000)
    assert first["Properties"]["DateAdded"] >= "2024-12-31T16:00:00"
    assert last["Properties"]["DateAdded"] <= "2025-01-31T15:59:59"


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2025-01-01T00:00:00+00:00", "2025-01-31T23:59:59+00:00"),
        ("2024-12-31T16:00:00-08:00", "2025-02-01T08:59:59+09:00"),
        ("2025-01-01T00:00:00.000Z", "2025-01-31T23:59:59.000Z"),
        ("2025-01-01", "2025-01-31T23:59:59"),
    ],
)
def test_a_moment_may_be_written_in_any_way_of_iso_8601(
    app: Application, start: str, end: str
) -> None:
    assert app.leads(StartDate=start, EndDate=end) == app.leads()


def test_there_are_no_leads_from_the_future_nor_from_long_ago(app: Application) -> None:
    now = datetime.now(UTC)
    soon, later = now + timedelta(hours=1), now + timedelta(days=300)
    assert app.leads(StartDate=soon.isoformat(), EndDate=later.isoformat()) == []
    assert app.leads(StartDate="9999-12-30T00:00:00Z", EndDate="9999-12-31T23:59:59Z") == []
    assert app.leads(StartDate="0001-01-01T00:00:00Z", EndDate="0001-12-31T00:00:00Z") == []
    week = now - timedelta(days=7)
    recent = app.leads(StartDate=week.isoformat(), EndDate=later.isoformat(), Take=1000)
    assert len(recent) >= 14


def test_pages_make_up_the_whole(app: Application) -> None:
    whole = app.leads(Take=1000)
    pages = [app.leads(Skip=skip, Take=20) for skip in range(0, len(whole) + 20, 20)]
    assert [lead for page in pages for lead in page] == whole
    assert pages[-1] == []
    assert len(app.leads()) == 50
    assert app.leads(Take=0) == []


@pytest.mark.parametrize("order", [0, 1])
def test_leads_are_sorted_by_the_fields_that_are_named(app: Application, order: int) -> None:
    leads = app.leads(SortFields=["State", "LoanAmount"], SortOrder=order, Take=1000)
    keys = [(lead["Fields"]["State"], lead["Fields"].get("LoanAmount", 0)) for lead in leads]
    assert keys == sorted(keys, reverse=bool(order))
    assert app.leads(SortFields=[""]) == app.leads(SortFields=[]) == app.leads()
    assert len(app.leads(SortFields=["Nobody's"])) == 50


def test_the_newest_come_first_on_order(app: Application) -> None:
    whole = app.leads(Take=1000)
    assert app.leads(Take=1000, SortFields=["DateAdded"], SortOrder=1) == whole[::-1]
    assert app.leads(Take=1000, SortOrder=1) == whole[::-1]


def test_only_the_fields_that_are_named_are_sent(app: Application) -> None:
    for lead, whole in zip(app.leads(Fields=["State", "Nobody's"]), app.leads(), strict=True):
        assert lead["Fields"] == {"State": whole["Fields"]["State"]}
        assert lead["Properties"] == whole["Properties"]
    assert app.leads(Fields=[]) == app.leads(Fields=[""]) == app.leads()


# Query


@pytest.mark.parametrize(
    ("query", "holds"),
    [
        ({"LoanAmount": {"$gte": 150_000}}, lambda f: f.get("LoanAmount", 0) >= 150_000),
        ({"LoanAmount": {"$gt": 150_000.0}}, lambda f: f.get("LoanAmount", 0) > 150_000),
        ({"LoanAmount": {"$lte": 300_000}}, lambda f: f.get("LoanAmount", 1e9) <= 300_000),
        ({"LoanAmount": {"$lt": 300_000}}, lambda f: f.get("LoanAmount", 1e9) < 300_000),
        (
            {"LoanAmount": {"$gte": 150_000, "$lt": 300_000}},
            lambda f: 150_000 <= f.get("LoanAmount", 0) < 300_000,
        ),
        ({"State": "TX"}, lambda f: f["State"] == "TX"),
        ({"State": {"$in": ["TX", "CA"]}}, lambda f: f["State"] in ("TX", "CA")),
        ({"State": {"$gte": "M"}}, lambda f: f["State"] >= "M"),
        (
            {"State": "TX", "LoanAmount": {"$gte": 150_000}},
            lambda f: f["State"] == "TX" and f.get("LoanAmount", 0) >= 150_000,
        ),
        ({}, lambda f: True),
    ],
)
def test_a_query_selects_the_leads_that_match(app: Application, query: Any, holds: Any) -> None:
    whole = app.leads(Take=1000)
    found = app.leads(Query=query, Take=1000)
    assert found == [lead for lead in whole if holds(lead["Fields"])]
    assert found
    assert len(found) < len(whole) or query == {}


def test_a_query_may_ask_for_properties_and_the_uid_too(app: Application) -> None:
    [first, *_] = app.leads()
    assert app.leads(Query={"UID": first["UID"]}) == [first]
    for lead in app.leads(Query={"Status": "Sold", "Price": {"$lt": 50}}):
        assert lead["Properties"]["Status"] == "Sold"
        assert lead["Properties"]["Price"] < 50


@pytest.mark.parametrize(
    "query",
    [
        {"Nobody's": 1},
        {"Nobody's": None},
        {"LoanAmount": "150000"},
        {"LoanAmount": {"$gte": "150000"}},
        {"LoanAmount": {"$in": []}},
        {"State": {"$lt": 5}},
        {"State": {"$in": [True, None, 5]}},
    ],
)
def test_a_field_that_is_not_there_or_of_another_kind_matches_nothing(
    app: Application, query: Any
) -> None:
    assert app.leads(Query=query) == []


def test_a_number_is_neither_true_nor_false() -> None:
    app = Application("northwind-solar")
    assert app.lead_types()[0]["Name"] == "Solar"
    owners = app.leads(Query={"OwnsHome": True}, Take=1000)
    assert owners
    assert set(fields(owners, "OwnsHome")) == {True}
    assert app.leads(Query={"OwnsHome": 1}) == []
    assert app.leads(Query={"OwnsHome": {"$in": [1, 0]}}) == []


# What is wrong with it


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"{", b"StartDate=2025-01-01", b"\xff\xfe", b'{"StartDate": NaN}', b"\x00"),
        *(b'{"Take": 1e}', b'{"Take": ' + b"9" * 5_000 + b"}", b"[" * 100_000, b'{"a":' * 100_000),
        *(b"[]", b"null", b"5", b'"text"', b"true"),
    ],
)
def test_a_body_that_is_no_json_object_is_answered_400(app: Application, body: bytes) -> None:
    answer = app.call("POST", app.query_path, body)
    assert answer.status_code == 400
    assert "JSON" in answer.json()["message"]
    assert "field" not in answer.json()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"StartDate": None}, "StartDate"),
        ({"EndDate": None}, "EndDate"),
        ({"StartDate": 20250101}, "StartDate"),
        ({"StartDate": ""}, "StartDate"),
        ({"StartDate": "1/1/2025"}, "StartDate"),
        ({"StartDate": "2025-02-30T00:00:00Z"}, "StartDate"),
        ({"StartDate": "0001-01-01T00:00:00+14:00"}, "StartDate"),
        ({"EndDate": "9999-12-31T23:59:59-12:00"}, "EndDate"),
        ({"EndDate": "2025-01-01T00:00:00Zulu"}, "EndDate"),
        ({"EndDate": ["2025-01-31"]}, "EndDate"),
        ({"EndDate": "\ud800"}, "EndDate"),
        ({"EndDate": "2024-12-31T23:59:59Z"}, "EndDate"),
        ({"EndDate": "2026-01-03T00:00:00Z"}, "EndDate"),
        ({"Skip": -1}, "Skip"),
        ({"Skip": "0"}, "Skip"),
        ({"Skip": 1.0}, "Skip"),
        ({"Skip": True}, "Skip"),
        ({"Skip": 10**18}, "Skip"),
        ({"Take": -1}, "Take"),
        ({"Take": 1_001}, "Take"),
        ({"Take": "50"}, "Take"),
        ({"SortOrder": 2}, "SortOrder"),
        ({"SortOrder": "DESC"}, "SortOrder"),
        ({"SortFields": "State"}, "SortFields"),
        ({"SortFields": [1]}, "SortFields"),
        ({"Fields": {"State": 1}}, "Fields"),
        ({"Fields": [None]}, "Fields"),
        ({"Query": []}, "Query"),
        ({"Query": "State"}, "Query"),
        ({"Query": {"$or": []}}, "Query.$or"),
        ({"Query": {"State": []}}, "Query.State"),
        ({"Query": {"State": {}}}, "Query.State"),
        ({"Query": {"State": {"$near": 1}}}, "Query.State.$near"),
        ({"Query": {"State": {"is": "TX"}}}, "Query.State.is"),
        ({"Query": {"State": {"$in": "TX"}}}, "Query.State.$in"),
        ({"Query": {"State": {"$in": [[]]}}}, "Query.State.$in"),
        ({"Query": {"State": {"$in": [{"$gte": 1}]}}}, "Query.State.$in"),
        ({"Query": {"LoanAmount": {"$gte": None}}}, "Query.LoanAmount.$gte"),
        ({"Query": {"LoanAmount": {"$gte": True}}}, "Query.LoanAmount.$gte"),
        ({"Query": {"LoanAmount": {"$gte": {"$gte": 1}}}}, "Query.LoanAmount.$gte"),
        ({"take": 5}, "take"),
        ({"SortField": ["State"]}, "SortField"),
    ],
)
def test_what_is_wrong_with_a_query_is_answered_400_with_the_field(
    app: Application, change: dict[str, Any], field: str
) -> None:
    answer = app.query(**change)
    assert answer.status_code == 400
    assert answer.json()["field"] == field
    assert field.rpartition(".")[2] in answer.json()["message"]


def test_the_two_dates_are_required(app: Application) -> None:
    assert app.call("POST", app.query_path, {}).json()["field"] == "StartDate"
    answer = app.call("POST", app.query_path, {"StartDate": JANUARY["StartDate"]})
    assert answer.json()["field"] == "EndDate"
    assert "2026-01-31T00:00:00Z" in answer.json()["message"]


def test_a_query_takes_a_thousand_leads_of_366_days_at_most(app: Application) -> None:
    longest = {"StartDate": "2024-01-01T00:00:00Z", "EndDate": "2025-01-01T00:00:00Z"}
    assert app.query(**longest, Take=1_000).status_code == 200
    assert app.query(Take=1_001).json()["field"] == "Take"
    later = longest | {"EndDate": "2025-01-01T00:00:01Z"}
    assert app.query(**later).json()["field"] == "EndDate"


def test_a_body_that_is_too_big_is_answered_413(app: Application, settings: Settings) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1_000
    assert app.query(Fields=["x" * 1_000]).status_code == 413
