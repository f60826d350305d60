import errno
import socket
import stat
from pathlib import Path

import pytest
import responses
from cryptography.fernet import Fernet
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.core.management import CommandError, call_command
from django.db import OperationalError

from django_leadexec.models import LeadExecConnection, PendingRevocation
from example_project import accounts
from example_project.dotenv import MAKERS, add_missing_secrets
from example_project.management.commands.prepare_demo import HOST, Command
from example_project.views import fetch_leads

from .factories import make_connection

DATA_API = "https://apidata.leadexec.net"


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


@pytest.mark.django_db
class TestLeads:
    def test_a_visitor_without_a_connection_costs_no_call(self):
        assert fetch_leads(AnonymousUser()) == {}

    @responses.activate
    def test_a_connected_user_sees_the_leads_of_the_account(self):
        connection = make_connection()
        responses.get(f"{DATA_API}/leads", json=[{"id": "L-1"}])
        assert fetch_leads(connection.user) == {"connection": connection, "leads": [{"id": "L-1"}]}

    @responses.activate
    @pytest.mark.parametrize("answer", [{"status": 503}, {"body": "<h1>Back soon</h1>"}])
    def test_a_provider_in_trouble_is_told_and_the_connection_kept(self, answer):
        connection = make_connection()
        responses.get(f"{DATA_API}/leads", **answer)
        shown = fetch_leads(connection.user)
        assert "Your connection is kept" in shown["problem"]
        assert "leads" not in shown

    def test_a_rejected_connection_is_left_to_the_button(self):
        connection = make_connection()
        LeadExecConnection.objects.update(status=LeadExecConnection.Status.REJECTED)
        assert fetch_leads(connection.user) == {}


@pytest.mark.django_db
class TestAccounts:
    @responses.activate
    def test_the_account_is_the_one_the_api_names(self):
        responses.get(f"{DATA_API}/account", json={"accountId": "summit-roofing"})
        assert accounts.identify(make_connection().session()) == "summit-roofing"

    def test_an_account_that_comes_back_gets_a_new_user_without_a_password(self):
        session = make_connection().session()
        first = accounts.create_user("summit-roofing", session)
        second = accounts.create_user("summit-roofing", session)
        assert first.pk != second.pk
        assert not first.has_usable_password()
