"""The helpers for a site's own tests, used as a site would use them."""

import configparser
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
from django.core.management import call_command
from django.db import transaction
from django.test import Client, SimpleTestCase, TestCase
from django.urls import reverse
from django.utils import timezone
from freezegun import freeze_time
from time_machine import travel

from django_leadexec import commits, signals
from django_leadexec.exceptions import AuthorizationRejected, LeadExecError, ProviderUnavailable
from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.provider.client import get_client
from django_leadexec.provider.replies import Fresh
from django_leadexec.testing import (
    Call,
    FakeLeadExec,
    LeadExecTestMixin,
    UnansweredCall,
    connect,
    fake_leadexec,
    make_user,
)

from .factories import make_connection
from .visitor import LOGIN

ROOT = Path(__file__).parents[1]
TYPES, QUERY = "/v1/leadtypes", "/v1/leads/query/1"
in_database = pytest.mark.django_db


def get(connection: LeadExecConnection, path: str = TYPES) -> requests.Response:
    session = connection.session()
    return session.get(f"{session.account_api}{path}")


def post(connection: LeadExecConnection, **options: Any) -> requests.Response:
    session = connection.session()
    return session.post(f"{session.data_api}{QUERY}", **options)


@in_database
class TestEachState:
    def test_an_active_one_is_used_as_it_is(self, leadexec, leadexec_user):
        connection = leadexec.connect(leadexec_user, refresh_token="r")
        assert connection.get_access_token() == "access-of-r"
        assert leadexec.refreshed == []

    def test_an_expired_one_is_refreshed(self, leadexec, leadexec_user):
        connection = leadexec.connect(leadexec_user, "expired", refresh_token="r")
        assert connection.get_access_token() == "access-1"
        assert leadexec.refreshed == ["r"]
        leadexec.assert_refreshed(connection)

    def test_an_expiring_one_can_be_used_and_is_found_as_such(self, leadexec, leadexec_user):
        connection = leadexec.connect(leadexec_user, "expiring")
        assert LeadExecConnection.objects.expiring(within=600).get() == connection
        assert connection.get_access_token().startswith("access-of-")
        assert connection.get_access_token(min_ttl=900) == "access-1"

    def test_a_failing_one_is_not_asked_about_before_its_time(self, leadexec, leadexec_user):
        connection = leadexec.connect(leadexec_user, "failing")
        with pytest.raises(ProviderUnavailable) as caught:
            connection.get_access_token()
        assert caught.value.retry_after
        assert leadexec.refreshed == []

    def test_a_rejected_one_is_refused(self, leadexec, leadexec_user):
        connection = leadexec.connect(leadexec_user, "rejected")
        with pytest.raises(AuthorizationRejected):
            connection.get_access_token()
        assert connection.status == "rejected"

    def test_a_revoked_one_has_no_token(self, leadexec, leadexec_user):
        connection = leadexec.connect(leadexec_user, "revoked")
        assert (connection.status, connection.refresh_token) == ("revoked", "")
        assert not PendingRevocation.objects.exists()

    def test_an_unknown_one_is_told(self, leadexec_user):
        with pytest.raises(ValueError, match=r"'lost' is no state: it is one of active, expiring"):
            connect(leadexec_user, "lost")  # type: ignore[arg-type]

    def test_two_connections_need_two_accounts(self, leadexec_user):
        connect(leadexec_user, "revoked")
        connect(leadexec_user)
        with pytest.raises(ValueError, match="need two accounts"):
            connect(leadexec_user, "expired")
        assert connect(leadexec_user, account_id="2").account_id == "2"

    def test_an_active_one_can_be_expired_later(self, leadexec, leadexec_connection):
        leadexec.expire(leadexec_connection)
        assert leadexec_connection.get_access_token() == "access-1"

    def test_making_one_sends_no_signal(self, leadexec, leadexec_user):
        heard = []
        signals.connection_authorized.connect(receiver := lambda **kw: heard.append(kw))
        leadexec.connect(leadexec_user)
        assert (heard, receiver) == ([], receiver)


@in_database
class TestTheServer:
    def test_it_can_refuse_and_accept_again(self, leadexec, leadexec_user):
        connection = leadexec.connect(leadexec_user, "expired")
        leadexec.refuse(connection)
        with pytest.raises(AuthorizationRejected, match="refused for the test"):
            connection.get_access_token()
        leadexec.accept(connection)
        call_command("refresh_leadexec_tokens", "--all", verbosity=0)
        connection.refresh_from_db()
        assert connection.status == "active"

    def test_it_can_be_down_and_come_back(self, leadexec, leadexec_user):
        connection = leadexec.connect(leadexec_user, "expired")
        leadexec.go_down(retry_after=0)
        with pytest.raises(ProviderUnavailable):
            connection.get_access_token()
        leadexec.come_back()
        LeadExecConnection.objects.update(attempts=0)
        assert connection.get_access_token()

    def test_it_can_throttle(self, leadexec, leadexec_user):
        connection = leadexec.connect(leadexec_user, "expired")
        leadexec.throttle(retry_after=90)
        with pytest.raises(ProviderUnavailable) as caught:
            connection.get_access_token()
        assert caught.value.retry_after == 90
        assert connection.revoke() is False

    def test_its_tokens_live_as_long_as_told(self, leadexec, leadexec_user):
        leadexec.token_lifetime = 120
        connection = leadexec.connect(leadexec_user, "expired")
        connection.get_access_token()
        connection.refresh_from_db()
        assert connection.expires_at <= timezone.now() + timedelta(seconds=120)
        assert leadexec.token_lifetime == 120

    def test_a_visitor_connects_and_disconnects(self, leadexec, leadexec_user):
        browser = Client()
        browser.force_login(leadexec_user, backend=LOGIN)
        assert leadexec.click(browser, "r", next="/page/").json()["status"] == "connected"
        connection = LeadExecConnection.objects.get(user=leadexec_user)
        browser.post(reverse("leadexec:disconnect"))
        leadexec.assert_revoked("r")
        connection.refresh_from_db()
        assert connection.status == "revoked"
        assert not PendingRevocation.objects.exists()

    def test_a_click_passes_where_csrf_is_checked(self, leadexec, leadexec_user):
        browser = Client(enforce_csrf_checks=True)
        browser.force_login(leadexec_user, backend=LOGIN)
        assert leadexec.click(browser).status_code == 200
        assert leadexec_user.leadexec_connections.active().exists()

    def test_a_revoked_token_is_refused_from_then_on(self, leadexec, leadexec_user):
        leadexec.connect(leadexec_user, refresh_token="r").revoke()
        with pytest.raises(AuthorizationRejected):
            LeadExecConnection.objects.adopt(leadexec_user, "r")


@in_database
class TestTheApis:
    def test_an_answer_has_json_status_and_headers(self, leadexec, leadexec_connection):
        leadexec.answer("get", TYPES, [{"LeadTypeUID": 1}], headers={"X-Count": "1"})
        response = get(leadexec_connection)
        assert (response.status_code, response.reason) == (200, "OK")
        assert response.json() == [{"LeadTypeUID": 1}]
        assert response.headers["X-Count"] == "1"
        assert response.headers["Content-Type"].startswith("application/json")

    def test_an_answer_may_be_no_json(self, leadexec, leadexec_connection):
        leadexec.answer("GET", TYPES, status=502, body="<h1>Bäd</h1>")
        response = get(leadexec_connection)
        assert (response.status_code, response.content.decode()) == (502, "<h1>Bäd</h1>")
        leadexec.answer("GET", TYPES, status=204)
        assert get(leadexec_connection).content == b""
        leadexec.answer("GET", TYPES, None)
        assert get(leadexec_connection).json() is None

    def test_the_address_may_be_a_whole_url(self, leadexec, leadexec_connection):
        leadexec.answer("GET", f"https://api.leadexec.net{TYPES}", [])
        assert get(leadexec_connection).json() == []
        leadexec.assert_called("GET", f"https://api.leadexec.net{TYPES}")

    @pytest.mark.parametrize("url", ["v1/leadtypes", "https://api.leadexec.net.example.org/v1", ""])
    def test_an_address_elsewhere_is_refused(self, leadexec, url):
        with pytest.raises(ValueError, match="neither a path"):
            leadexec.answer("GET", url, [])

    def test_the_apis_may_lie_below_a_path(self, leadexec, leadexec_connection, configure):
        configure(ACCOUNT_API_URL="https://site.test/sandbox/account-api")
        leadexec.answer("GET", TYPES, [])
        assert get(leadexec_connection).json() == []
        assert leadexec.calls[0].path == TYPES

    def test_an_answer_may_fit_one_query_only(self, leadexec, leadexec_connection):
        leadexec.answer("GET", TYPES, ["any"])
        leadexec.answer("GET", f"{TYPES}?page=2", ["second"])
        assert get(leadexec_connection, f"{TYPES}?page=2").json() == ["second"]
        assert get(leadexec_connection, f"{TYPES}?page=3").json() == ["any"]
        leadexec.assert_called("GET", TYPES, query={"page": "3"}, times=1)

    def test_the_last_answer_counts_until_it_is_used_up(self, leadexec, leadexec_connection):
        leadexec.answer("GET", TYPES, ["later"])
        leadexec.answer("GET", TYPES, status=503, times=2)
        statuses = [get(leadexec_connection).status_code for _ in range(4)]
        assert statuses == [503, 503, 200, 200]

    def test_an_answer_may_be_made_from_the_call(self, leadexec, leadexec_connection):
        def page(call: Call) -> object:
            return {"Skip": call.json["Skip"]}

        leadexec.answer("POST", QUERY, page)
        assert post(leadexec_connection, json={"Skip": 50}).json() == {"Skip": 50}

    def test_an_api_may_be_out_of_reach(self, leadexec, leadexec_connection):
        leadexec.answer("GET", TYPES, error=requests.ConnectTimeout("late"))
        with pytest.raises(requests.ConnectTimeout, match="late"):
            get(leadexec_connection)
        leadexec.assert_called("GET", TYPES)

    def test_after_a_401_the_session_tries_once_more(self, leadexec, leadexec_connection):
        leadexec.answer("GET", TYPES, [])
        leadexec.answer("GET", TYPES, status=401, times=1)
        assert get(leadexec_connection).status_code == 200
        assert [call.access_token for call in leadexec.calls][1] == "access-1"
        leadexec.assert_called("GET", TYPES, connection=leadexec_connection, times=2)

    def test_no_answer_says_what_to_add(self, leadexec, leadexec_connection):
        leadexec.answer("GET", TYPES, [], times=1)
        get(leadexec_connection)
        with pytest.raises(UnansweredCall) as caught:
            post(leadexec_connection, json={"Take": 1})
        assert str(caught.value) == (
            f'No answer for POST {QUERY} {{"Take": 1}}. Add one before the call: '
            f'leadexec.answer("POST", "{QUERY}", ...). '
            f"There are answers for: GET {TYPES} (used up)."
        )

    def test_a_site_that_survives_trouble_does_not_hide_it(self, leadexec, leadexec_connection):
        def survive() -> None:
            try:
                get(leadexec_connection)
            except Exception:
                pytest.fail("it was caught")

        with pytest.raises(UnansweredCall, match="No answer for GET"):
            survive()

    def test_another_address_is_refused_as_ever(self, leadexec, leadexec_connection):
        with pytest.raises(LeadExecError):
            leadexec_connection.session().get("https://elsewhere.test/")

    @pytest.mark.parametrize(
        ("body", "sent"), [("täxt", "täxt".encode()), (b"bytes", b"bytes"), (None, b"")]
    )
    def test_what_was_sent_is_kept(self, leadexec, leadexec_connection, body, sent):
        leadexec.answer("POST", QUERY, {})
        post(leadexec_connection, data=body, headers={"X-Trace": "5"})
        call = leadexec.calls[0]
        assert call.body == sent
        assert call.json is None
        assert call.headers["X-Trace"] == "5"
        assert "Authorization" not in call.headers
        assert call.access_token not in repr(call)

    def test_a_file_that_was_sent_is_still_the_sites_to_read(
        self, leadexec, leadexec_connection, tmp_path
    ):
        (tmp_path / "body").write_bytes(b'{"Skip": 1}')
        leadexec.answer("POST", QUERY, {})
        with (tmp_path / "body").open("rb") as file:
            post(leadexec_connection, data=file)
            assert file.read() == b'{"Skip": 1}'
        leadexec.assert_called("POST", QUERY, json={"Skip": 1})


@in_database
class TestAssertions:
    def test_a_call_is_found_by_what_it_sent_and_for_whom(self, leadexec, leadexec_connection):
        other = leadexec.connect(make_user(), "expired")
        leadexec.answer("POST", QUERY, {})
        post(other, json={"Take": 1})
        leadexec.assert_called("POST", QUERY)
        leadexec.assert_called("POST", QUERY, json={"Take": 1}, connection=other, times=1)
        with pytest.raises(AssertionError, match=rf"connection=.*not called.*\n?.*POST {QUERY}"):
            leadexec.assert_called("POST", QUERY, connection=leadexec_connection)
        with pytest.raises(AssertionError, match="json="):
            leadexec.assert_called("POST", QUERY, json={"Take": 2})
        with pytest.raises(AssertionError, match="was not called 2 times, but 1"):
            leadexec.assert_called("POST", QUERY, times=2)
        with pytest.raises(AssertionError, match="was called"):
            leadexec.assert_not_called("POST", QUERY)
        with pytest.raises(AssertionError, match="was called"):
            leadexec.assert_not_called()
        leadexec.assert_not_called("GET")
        leadexec.assert_not_called(path=TYPES)

    def test_without_a_call_it_says_so(self, leadexec):
        leadexec.assert_not_called()
        with pytest.raises(AssertionError, match=r"No call was made\."):
            leadexec.assert_called("GET", TYPES)

    def test_refreshing_and_revoking_are_found_by_the_connection(
        self, leadexec, leadexec_connection
    ):
        with pytest.raises(AssertionError, match="not asked for an access token of"):
            leadexec.assert_refreshed(leadexec_connection)
        with pytest.raises(AssertionError, match="not told to revoke"):
            leadexec.assert_revoked(leadexec_connection)
        assert leadexec_connection.revoke() is True
        leadexec_connection.refresh_from_db()
        leadexec.assert_revoked(leadexec_connection)

    def test_a_row_without_a_token_is_told(self, leadexec):
        with pytest.raises(ValueError, match="has no refresh token any more"):
            leadexec.assert_revoked(connect(make_user(), "revoked"))


class TestCommits(LeadExecTestMixin, TestCase):
    """Inside TestCase's own transaction, as on a site outside of any."""

    def test_a_revocation_reaches_leadexec_and_is_confirmed(self) -> None:
        assert self.leadexec_connection.revoke() is True
        self.leadexec.assert_revoked(self.leadexec_connection)
        assert not PendingRevocation.objects.exists()

    def test_in_a_transaction_of_the_site_it_waits_for_the_end(self) -> None:
        with transaction.atomic():
            with transaction.atomic():
                assert self.leadexec_connection.revoke() is False
            assert self.leadexec.revoked == []
        self.leadexec.assert_revoked(self.leadexec_connection)

    def test_a_transaction_that_is_rolled_back_revokes_nothing(self) -> None:
        connection = self.leadexec_connection
        with transaction.atomic():
            connection.revoke()
            transaction.set_rollback(True)
        assert self.leadexec.revoked == []
        connection.refresh_from_db()
        assert connection.status == "active"

    def test_signals_are_sent(self) -> None:
        heard = []

        def hear(connection: LeadExecConnection, **kwargs: Any) -> None:
            heard.append(connection.pk)

        signals.connection_revoked.connect(hear)
        self.addCleanup(signals.connection_revoked.disconnect, hear)
        self.leadexec_connection.revoke()
        assert heard == [self.leadexec_connection.pk]

    def test_the_sites_own_callbacks_are_left_to_django(self) -> None:
        done: list[str] = []
        with self.captureOnCommitCallbacks(execute=True) as callbacks, transaction.atomic():
            transaction.on_commit(lambda: done.append("site"))
            self.leadexec_connection.revoke()
        assert (done, len(callbacks)) == (["site"], 1)
        assert len(self.leadexec.revoked) == 1

    def test_a_callback_that_fails_harms_nobody(self) -> None:
        with self.assertLogs("django_leadexec.testing", "ERROR"):
            commits.after_commit(lambda: 1 / 0, "default")

    def test_the_command_runs_too(self) -> None:
        self.leadexec.connect(self.leadexec_user, "expired", refresh_token="r")
        LeadExecConnection.objects.filter(pk=make_connection("b").pk).move_to_outbox()
        call_command("refresh_leadexec_tokens", verbosity=0)
        assert (self.leadexec.refreshed, self.leadexec.revoked) == (["r"], ["b"])

    def test_a_refresh_claims_its_row(self) -> None:
        connection = self.leadexec.connect(self.leadexec_user, "expired")
        connection.get_access_token()
        connection.refresh_from_db()
        assert connection.lease_id


@pytest.mark.django_db(transaction=True)
def test_without_a_transaction_around_the_test_it_is_the_same(
    leadexec: FakeLeadExec, leadexec_connection: LeadExecConnection
) -> None:
    with transaction.atomic():
        assert leadexec_connection.revoke() is False
        assert leadexec.revoked == []
    leadexec.assert_revoked(leadexec_connection)


@pytest.mark.django_db(transaction=True)
def test_the_command_uses_it_in_its_threads() -> None:
    make_connection("a", expires_in=-1)
    LeadExecConnection.objects.filter(pk=make_connection("b").pk).move_to_outbox()
    with fake_leadexec() as leadexec:
        call_command("refresh_leadexec_tokens", verbosity=0)
    assert (leadexec.refreshed, leadexec.revoked) == (["a"], ["b"])


class TestWithoutADatabase(LeadExecTestMixin, SimpleTestCase):
    def test_the_fake_is_there(self) -> None:
        assert isinstance(get_client().refresh("r", "test-app"), Fresh)
        assert self.leadexec.refreshed == ["r"]


class TestOtherTools:
    @in_database
    def test_responses_answers_what_the_test_has_not(self, leadexec, leadexec_connection):
        leadexec.answer("POST", QUERY, {})
        with responses.RequestsMock() as others:
            others.get(f"https://api.leadexec.net{TYPES}", json=["from responses"])
            assert get(leadexec_connection).json() == ["from responses"]
            assert post(leadexec_connection).json() == {}
            with pytest.raises(requests.ConnectionError, match="Connection refused by Responses"):
                get(leadexec_connection, "/v1/other")
        leadexec.assert_called("GET", TYPES)

    @in_database
    @pytest.mark.parametrize("clock", ["freezegun", "time-machine"])
    def test_a_frozen_clock_that_moves_on_ends_a_token(self, leadexec, leadexec_user, clock):
        noon = timezone.now().replace(hour=12) + timedelta(days=1)
        freeze = freeze_time if clock == "freezegun" else lambda when: travel(when, tick=False)
        with freeze(noon):
            connection = leadexec.connect(leadexec_user, refresh_token="r")
            assert connection.get_access_token() == "access-of-r"
            assert connection.expires_at == noon + timedelta(minutes=50)
        with freeze(noon + timedelta(hours=2)):
            assert connection.get_access_token() == "access-1"
            connection.refresh_from_db()
            assert connection.refreshed_at == noon + timedelta(hours=2)


class TestUsers:
    @in_database
    def test_a_user_has_what_the_model_asks_for(self, leadexec_user):
        assert leadexec_user.username.startswith("leadexec-")
        assert leadexec_user.email == f"{leadexec_user.username}@example.com"
        assert make_user().username != leadexec_user.username


def test_pytest_loads_the_plugin_without_django() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    plugin = setup["options.entry_points"]["pytest11"].strip()
    assert plugin == "leadexec = django_leadexec.pytest_plugin"
    code = "import sys, django_leadexec.pytest_plugin; print({'django'} & {*sys.modules})"
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, cwd=ROOT, text=True) == "set()\n"
