import copy
import errno
import json
import os
import re
import socket
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
import responses
from cryptography.fernet import Fernet
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.core.management import CommandError, call_command
from django.db import OperationalError
from django.http import QueryDict
from django.test import Client

import example_project
from django_leadexec.conf import new_key
from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.sandbox import provider
from django_leadexec.testing import fake_leadexec
from example_project import accounts
from example_project.dotenv import MAKERS, add_missing_secrets
from example_project.management.commands import demo_refresh
from example_project.management.commands.prepare_demo import HOST, Command
from example_project.views import show_leads

from .factories import make_connection
from .visitor import LOGIN

ACCOUNT_API, DATA_API = "https://api.leadexec.net", "https://apidata.leadexec.net"
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)  # for a token that is older than a minute
MANAGE = Path(example_project.__file__).with_name("manage.py")


@pytest.fixture
def no_secrets(monkeypatch):
    for name in MAKERS:
        monkeypatch.delenv(name, raising=False)


def read(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


@pytest.mark.usefixtures("no_secrets")
class TestDotenv:
    def test_the_first_start_makes_both_secrets_in_a_file_only_its_owner_reads(self, tmp_path):
        path = tmp_path / ".env"
        add_missing_secrets(path)
        made = read(path)
        assert set(made) == {"SECRET_KEY", "LEADEXEC_ENCRYPTION_KEYS"}
        assert len(made["SECRET_KEY"]) >= 50
        Fernet(made["LEADEXEC_ENCRYPTION_KEYS"])
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert list(tmp_path.iterdir()) == [path]

    def test_lines_that_are_there_stay_as_they_are(self, tmp_path):
        path = tmp_path / ".env"
        path.write_text("# mine\nDATABASE_URL=postgres://db/leads")
        add_missing_secrets(path)
        assert path.read_text().startswith("# mine\nDATABASE_URL=postgres://db/leads\nSECRET_KEY=")

    def test_secrets_of_the_environment_are_neither_copied_nor_replaced(
        self, tmp_path, monkeypatch
    ):
        monkeypatch.setenv("SECRET_KEY", "of the environment")
        path = tmp_path / ".env"
        add_missing_secrets(path)
        assert set(read(path)) == {"LEADEXEC_ENCRYPTION_KEYS"}

    def test_nothing_is_written_when_nothing_is_missing(self, tmp_path, monkeypatch):
        for name in MAKERS:
            monkeypatch.setenv(name, "set")
        add_missing_secrets(tmp_path / ".env")
        assert list(tmp_path.iterdir()) == []

    def test_of_two_first_starts_the_slower_leaves_the_file_of_the_other(
        self, tmp_path, monkeypatch
    ):
        path = tmp_path / ".env"

        def be_overtaken() -> str:
            path.write_text("SECRET_KEY=of the quicker one\n")
            return "of the slower one"

        monkeypatch.setitem(MAKERS, "SECRET_KEY", be_overtaken)
        add_missing_secrets(path)
        assert path.read_text() == "SECRET_KEY=of the quicker one\n"
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.django_db
class TestPrepareDemo:
    @pytest.fixture(autouse=True)
    def debug(self, settings):
        settings.DEBUG = True

    def test_it_makes_the_log_ins_and_connections_in_every_state(self, capsys):
        call_command(Command())
        users = get_user_model().objects
        assert users.get(username="admin").is_superuser
        assert users.get(username="demo").check_password("demo")
        assert not users.get(username="demo").is_staff
        states = LeadExecConnection.objects.values_list("user__username", "status", "attempts")
        assert sorted(states) == [
            ("cedar-lending", "active", 0),
            ("granite-homes", "rejected", 1),
            ("lakeside-auto", "active", 1),
            ("maple-realty", "active", 0),
            ("orchard-energy", "revoked", 0),
        ]
        assert PendingRevocation.objects.count() == 1
        assert "log in as demo, password demo" in capsys.readouterr().out

    def test_a_second_run_keeps_what_is_there(self):
        call_command(Command())
        demo = get_user_model().objects.get(username="demo")
        demo.set_password("changed")
        demo.save()
        before = list(LeadExecConnection.objects.order_by("pk").values())
        call_command(Command())
        assert list(LeadExecConnection.objects.order_by("pk").values()) == before
        demo.refresh_from_db()
        assert demo.check_password("changed")

    def test_with_the_provider_itself_it_makes_only_the_log_ins(self, settings):
        settings.SANDBOX = False
        call_command(Command())
        assert get_user_model().objects.count() == 2
        assert not LeadExecConnection.objects.exists()

    def test_its_public_passwords_are_refused_outside_debug(self, settings):
        settings.DEBUG = False
        with pytest.raises(CommandError, match="DEBUG=on"):
            call_command(Command())
        assert not get_user_model().objects.exists()

    def test_a_database_that_cannot_be_used_is_told_in_a_line(self, monkeypatch):
        def migrate(*args, **options):
            raise OperationalError("no such server")

        monkeypatch.setattr(f"{Command.__module__}.call_command", migrate)
        with pytest.raises(CommandError, match=r"DATABASE_URL.*no such server"):
            call_command(Command())

    def test_a_taken_port_is_named_with_the_way_out(self, settings):
        with socket.create_server((HOST, 0)) as server:
            settings.DEMO_PORT = server.getsockname()[1]
            with pytest.raises(CommandError, match=f"make demo PORT={settings.DEMO_PORT + 1}"):
                call_command(Command(), check_port=True)

    def test_behind_the_last_port_there_is_no_other_to_choose(self, settings, monkeypatch):
        monkeypatch.setattr(socket.socket, "bind", fail_with(errno.EADDRINUSE))
        settings.DEMO_PORT = 65535
        with pytest.raises(CommandError, match=r"65535 is taken.*make demo PORT=65534"):
            call_command(Command(), check_port=True)

    def test_a_port_that_is_not_the_users_to_open_is_not_called_taken(self, settings, monkeypatch):
        monkeypatch.setattr(socket.socket, "bind", fail_with(errno.EACCES))
        settings.DEMO_PORT = 80
        with pytest.raises(CommandError, match=r"may not open port 80.*make demo PORT=8000"):
            call_command(Command(), check_port=True)


def fail_with(code):
    def bind(*address):
        raise OSError(code, "as told")

    return bind


LEAD_TYPES = [{"LeadTypeUID": 5, "Name": "Mortgage"}, {"LeadTypeUID": 6}]
Status = LeadExecConnection.Status


def lead(number: int, **sections: object) -> dict[str, object]:
    return {"UID": number, "Properties": {"Status": "New"}, "Fields": {"State": "TX"}} | sections


class Apis:
    """Both of LeadExec's APIs, as ``responses`` plays them."""

    def __init__(self, mock: responses.RequestsMock) -> None:
        self.mock = mock
        self.answer_lead_types(json=LEAD_TYPES)

    def answer_lead_types(self, **answer: Any) -> None:
        self.mock.upsert(responses.GET, f"{ACCOUNT_API}/v1/leadtypes", **answer)

    def answer_leads(self, *leads: object, uid: int = 5, **answer: Any) -> None:
        answer = answer or {"json": {"SentCount": len(leads), "Leads": leads}}
        self.mock.upsert(responses.POST, f"{DATA_API}/v1/leads/query/{uid}", **answer)

    def queries(self) -> list[dict[str, Any]]:
        calls = [call.request for call in self.mock.calls if call.request.method == "POST"]
        return [json.loads(request.body or "") for request in calls]


@pytest.fixture
def apis():
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield Apis(mock)


def look(user: Any, query: str = "") -> dict[str, Any]:
    return show_leads(user, QueryDict(query))


@pytest.mark.django_db
class TestLeads:
    def test_a_visitor_without_a_connection_costs_no_call(self, apis):
        assert look(AnonymousUser()) == {}
        assert look(get_user_model().objects.create_user("ada")) == {}
        assert len(apis.mock.calls) == 0

    def test_a_connected_user_sees_the_newest_leads_of_the_first_type(self, apis):
        connection = make_connection()
        apis.answer_leads(lead(2), lead(1))
        shown = look(connection.user)
        assert shown["connection"] == connection
        assert shown["lead_type"].name == "Mortgage"
        assert [it.uid for it in shown["page"].leads] == ["2", "1"]
        assert shown["newer"] == shown["older"] == ""
        [query] = apis.queries()
        today = datetime.now(UTC).date()
        assert query == {
            "StartDate": f"{today - timedelta(days=30)}T00:00:00Z",
            "EndDate": f"{today}T23:59:59.999Z",
            "SortFields": ["DateAdded"],
            "SortOrder": 1,
            "Skip": 0,
            "Take": 11,
        }

    def test_type_and_days_can_be_chosen(self, apis):
        apis.answer_leads(lead(1), uid=6)
        shown = look(make_connection().user, "lead_type=6&first=2025-01-31&last=2025-02-01")
        assert shown["lead_type"].name == "6"
        [query] = apis.queries()
        assert query["StartDate"] == "2025-01-31T00:00:00Z"
        assert query["EndDate"] == "2025-02-01T23:59:59.999Z"

    def test_pages_lead_to_each_other_and_keep_what_was_chosen(self, apis):
        user = make_connection().user
        apis.answer_leads(*map(lead, range(11)))
        chosen = "lead_type=5&first=2025-01-01&last=2025-01-31"
        shown = look(user, chosen)
        assert len(shown["page"].leads) == 10
        assert (shown["newer"], shown["older"]) == ("", f"?{chosen}&page=2")
        apis.answer_leads(lead(11))
        shown = look(user, f"{chosen}&page=2")
        assert (shown["newer"], shown["older"]) == (f"?{chosen}&page=1", "")
        assert [query["Skip"] for query in apis.queries()] == [0, 10]
        apis.answer_leads()
        shown = look(user, f"{chosen}&page=3")
        assert shown["page"].leads == []
        assert shown["newer"] == f"?{chosen}&page=2"

    @pytest.mark.parametrize("number", ["0", "-1", "x", "1.5", "", "²", "9" * 5_000])
    def test_a_page_that_is_none_is_the_first(self, apis, number):
        apis.answer_leads(lead(1))
        assert look(make_connection().user, f"page={number}")["page"].number == 1

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ("lead_type=7", "lead_type"),
            ("first=yesterday", "first"),
            ("last=2025-02-30", "last"),
            ("first=2025-01-02&last=2025-01-01", "last"),
        ],
    )
    def test_what_can_not_be_asked_for_is_told_and_not_asked(self, apis, query, field):
        shown = look(make_connection().user, query)
        assert list(shown["form"].errors) == [field]
        assert "page" not in shown
        assert apis.queries() == []

    def test_any_leads_shape_is_shown(self, apis):
        apis.answer_leads(
            lead(1, TCPAInformation={}),
            {"UID": "a"},
            {"Properties": None, "Fields": ["x"]},
            lead(2, Properties={"DateAdded": "2025-01-01T08:15:02"}, Fields={"OwnsHome": True}),
        )
        first, second, third, last = look(make_connection().user)["page"].leads
        assert (first.uid, first.has_consent) == ("1", True)
        assert first.fields == [("State", "TX")]
        assert second.properties == [("Date added", "-"), ("Lead source", "-"), ("Status", "-")]
        assert third.uid == "-"
        assert last.properties[0] == ("Date added", "2025-01-01 08:15")
        assert last.fields == [("Owns home", "yes")]

    def test_an_account_without_lead_types_is_no_error(self, apis):
        apis.answer_lead_types(json=[])
        connection = make_connection()
        assert look(connection.user) == {"connection": connection}


DOWN = [
    {"status": 503},
    {"status": 500, "body": "<h1>Error</h1>"},
    {"status": 200, "body": "<h1>Back soon</h1>"},
    {"status": 302, "headers": {"Location": "https://elsewhere.test/"}},
    {"status": 204},
    {"body": requests.ConnectionError("no route")},
    {"body": requests.ReadTimeout("late")},
]
REFUSED = [
    (
        {"status": 400, "json": {"message": "EndDate is <late>."}},
        "(400). It says: EndDate is <late>",
    ),
    ({"status": 404, "body": "<h1>Not found</h1>"}, "refuses this (404)."),
    ({"status": 403, "json": ["no"]}, "refuses this (403)."),
    ({"status": 429, "json": {"message": "x" * 5_000}}, "x" * 300),
]
NONSENSE = [{"json": nonsense} for nonsense in (None, 5, "text", {"Leads": 5}, {"Leads": [5]})]


@pytest.mark.django_db
class TestTroubleWithLeads:
    """None of it is a server error: the page says it, and the connection stays."""

    @pytest.mark.parametrize("answer", DOWN)
    def test_an_api_that_is_down_is_told(self, apis, answer):
        connection = make_connection()
        apis.answer_leads(**answer)
        shown = look(connection.user)
        assert "Your connection is kept" in shown["problem"]
        assert shown["form"].is_valid()
        assert "page" not in shown
        apis.answer_lead_types(**answer)
        shown = look(connection.user)
        assert "Your connection is kept" in shown["problem"]
        connection.refresh_from_db()
        assert connection.status == Status.ACTIVE

    @pytest.mark.parametrize(("answer", "told"), REFUSED)
    def test_what_an_api_refuses_is_told_in_its_own_words(self, apis, answer, told):
        apis.answer_leads(**answer)
        assert told in look(make_connection().user)["problem"]
        assert len(look(make_connection().user)["problem"]) < 400

    @pytest.mark.parametrize("answer", NONSENSE)
    def test_an_answer_of_another_shape_is_told(self, apis, answer):
        user = make_connection().user
        apis.answer_leads(**answer)
        assert "LeadExec" in look(user)["problem"]
        apis.answer_lead_types(**answer)
        assert "LeadExec" in look(user)["problem"]

    def test_a_provider_out_of_reach_is_told_with_the_time_to_wait(
        self, apis, leadexec, leadexec_user
    ):
        connection = leadexec.connect(leadexec_user, "expired")
        leadexec.go_down(retry_after=30)
        shown = look(connection.user)
        assert "try again in 30 seconds" in shown["problem"]
        assert shown["connection"] == connection

    def test_a_stored_token_that_can_not_be_read_is_told(self, apis, settings):
        user = make_connection().user
        settings.LEADEXEC = settings.LEADEXEC | {"ENCRYPTION_KEYS": [new_key()]}
        assert look(user)["problem"] == "Your connection can't be used right now."

    def test_a_connection_that_is_refused_is_left_to_the_button(
        self, apis, leadexec, leadexec_user
    ):
        connection = leadexec.connect(leadexec_user, "expired")
        leadexec.refuse(connection)
        assert look(connection.user) == {}
        connection.refresh_from_db()
        assert connection.status == Status.REJECTED
        assert look(connection.user) == {}

    def test_an_access_token_that_stays_refused_is_told(self, apis, leadexec, leadexec_connection):
        apis.answer_lead_types(status=401, json={"message": "no"})
        shown = look(make_connection(refreshed_at=LONG_AGO).user)
        assert len(leadexec.refreshed) == 1
        assert "(401). It says: no" in shown["problem"]


@pytest.fixture
def site(settings):
    """The example's own pages, with the test's settings otherwise."""
    templates = copy.deepcopy(settings.TEMPLATES)
    templates[0]["DIRS"] = [Path(example_project.__file__).parent / "templates"]
    templates[0]["OPTIONS"]["context_processors"].append("example_project.context.example")
    settings.TEMPLATES = templates
    settings.ROOT_URLCONF = "example_project.urls"
    return Client()


@pytest.mark.django_db
class TestHomePage:
    def test_a_visitor_is_invited(self, site):
        assert "Continue with LeadExec" in site.get("/").text

    def test_what_the_api_says_is_no_markup(self, site, apis):
        user = make_connection().user
        site.force_login(user, backend=LOGIN)
        hostile = "<script>alert(1)</script>"
        apis.answer_lead_types(json=[{"LeadTypeUID": hostile, "Name": hostile}])
        apis.answer_leads(status=400, json={"message": hostile}, uid=quote(hostile, safe=""))
        page = site.get("/").text
        apis.answer_lead_types(json=LEAD_TYPES)
        apis.answer_leads(
            lead(1, UID=hostile, Properties={"Status": hostile}, Fields={hostile: hostile})
        )
        page += site.get("/").text
        assert "&lt;script&gt;alert(1)" in page
        assert hostile not in page

    @pytest.mark.parametrize("answer", [*DOWN, *NONSENSE, *(answer for answer, _ in REFUSED)])
    def test_no_answer_of_the_api_is_a_server_error(self, site, apis, answer):
        site.force_login(make_connection().user, backend=LOGIN)
        apis.answer_leads(**answer)
        page = site.get("/")
        assert page.status_code == 200
        assert '<p class="notice" role="status">' in page.text
        assert "Disconnect" in page.text

    def test_labels_go_with_their_fields_and_an_error_with_its_own(self, site, apis):
        site.force_login(make_connection().user, backend=LOGIN)
        page = site.get("/?first=2025-01-02&last=2025-01-01").text
        for name in ("lead_type", "first", "last"):
            assert f'<label for="id_{name}">' in page
        assert "This day is before the first one." in page
        assert 'aria-invalid="true"' in page


@pytest.mark.django_db(transaction=True)
def test_the_home_page_pages_through_the_sandboxs_leads(site, settings, live_server):
    settings.DEBUG = True
    settings.LEADEXEC = settings.LEADEXEC | {
        "BASE_URL": f"{live_server.url}/sandbox",
        "ACCOUNT_API_URL": f"{live_server.url}/sandbox/account-api",
        "DATA_API_URL": f"{live_server.url}/sandbox/data-api",
    }
    [token] = provider.create_grants("test-app", account="harbor-mortgage")
    # The stored access token is none of the sandbox's, so a 401 comes first.
    connection = make_connection(token, refreshed_at=LONG_AGO)
    site.force_login(connection.user, backend=LOGIN)
    seen: list[str] = []
    path = "/?first=2025-01-01&last=2025-01-31"
    while path:
        page = site.get(path)
        assert page.status_code == 200
        assert "problem" not in page.context
        seen += [it.uid for it in page.context["page"].leads]
        older = page.context["older"]
        path = f"/{older}" if older else ""
    assert len(seen) > 50
    assert seen == sorted(set(seen), reverse=True)
    assert accounts.identify(connection.session()) == "harbor-mortgage"


@pytest.mark.django_db
class TestAccounts:
    def test_the_account_is_the_one_that_the_sandboxs_own_call_names(self, apis):
        url = f"{ACCOUNT_API}/sandbox-only/account"
        apis.mock.get(url, json={"accountId": "summit-roofing"})
        assert accounts.identify(make_connection().session()) == "summit-roofing"

    def test_where_there_is_no_such_call_nobody_is_identified(self, apis):
        apis.mock.get(f"{ACCOUNT_API}/sandbox-only/account", status=404)
        with pytest.raises(requests.HTTPError):
            accounts.identify(make_connection().session())

    def test_an_account_that_comes_back_gets_a_new_user_without_a_password(self):
        session = make_connection().session()
        first = accounts.create_user("summit-roofing", session)
        second = accounts.create_user("summit-roofing", session)
        assert first.pk != second.pk
        assert not first.has_usable_password()


@pytest.mark.django_db(transaction=True)
class TestDemoRefresh:
    @pytest.fixture(autouse=True)
    def demo(self, settings):
        settings.DEBUG = True
        call_command(Command())
        with socket.create_server((HOST, 0)) as server, fake_leadexec() as leadexec:
            settings.DEMO_PORT = server.getsockname()[1]
            yield leadexec

    def test_it_runs_the_command_and_shows_what_that_did(self, capsys):
        capsys.readouterr()
        call_command(demo_refresh.Command())
        said = " ".join(capsys.readouterr().out.split())
        assert "1 refreshed, 0 rejected, 0 failed, 0 skipped, 1 revoked" in said
        assert "token expired -> active, token good for 60 min" in said
        assert "rejected, Refused: the refresh token was revoked (as before)" in said
        assert "revocations to be told 1 -> 0" in said

    def test_it_refreshes_all_if_it_is_asked_to(self, capsys):
        capsys.readouterr()
        call_command(demo_refresh.Command(), all=True)
        said = capsys.readouterr().out
        assert "refresh_leadexec_tokens --all says" in said
        assert "4 refreshed" in said

    def test_what_could_not_be_done_is_told_and_is_an_error(self, capsys, demo):
        demo.go_down()
        with pytest.raises(CommandError, match="failed"):
            call_command(demo_refresh.Command())
        assert "Not refreshed: down for the test" in capsys.readouterr().out

    def test_without_a_demo_it_says_how_to_start_one(self, settings):
        with socket.create_server((HOST, 0)) as server:
            settings.DEMO_PORT = server.getsockname()[1]
        with pytest.raises(CommandError, match=f"make demo PORT={settings.DEMO_PORT}"):
            call_command(demo_refresh.Command())


def run_manage(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    secrets = {name: make() for name, make in MAKERS.items()}
    return subprocess.run(
        [sys.executable, str(MANAGE), *arguments],
        env={"PATH": os.environ["PATH"], "DATABASE_URL": "sqlite://:memory:"}
        | secrets
        | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.slow
class TestTheCallersEnvironment:
    def test_the_settings_of_another_project_do_not_count(self):
        done = run_manage("check", DJANGO_SETTINGS_MODULE="another.settings")
        assert "no issues" in done.stdout + done.stderr
        assert done.returncode == 0

    def test_a_proxy_has_no_way_to_the_sandbox_and_is_not_asked(self):
        code = (
            "from requests.utils import get_environ_proxies as proxies; "
            "print(proxies('http://127.0.0.1:8000/sandbox/'), proxies('https://internal.test/'), "
            "bool(proxies('https://a.test/')))"
        )
        proxies = {"HTTP_PROXY": "http://proxy.test", "https_proxy": "http://proxy.test"}
        proxies |= {"NO_PROXY": "internal.test"}
        done = run_manage("shell", "--no-imports", "-c", code, **proxies)
        assert done.stdout == "{} {} True\n"

    def test_no_target_of_make_hands_the_settings_of_another_project_on(self):
        makefile = (MANAGE.parents[1] / "Makefile").read_text()
        [unexported] = re.findall(r"^unexport (.+)$", makefile, re.MULTILINE)
        assert "DJANGO_SETTINGS_MODULE" in unexported.split()

    def test_the_demo_says_how_to_refresh_and_how_to_watch(self, settings, capsys):
        settings.DEMO_PORT = 8001
        Command().tell(watched=False)
        said = capsys.readouterr().out
        assert "make demo-refresh PORT=8001" in said
        assert "make demo-watch PORT=8001" in said
        makefile = (MANAGE.parents[1] / "Makefile").read_text()
        assert {"demo", "demo-refresh", "demo-watch"} <= set(
            re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)
        )
        Command().tell(watched=True)
        assert "refresh_leadexec_tokens --watch" in capsys.readouterr().out
