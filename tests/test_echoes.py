"""An answer that was meant for another token on file counts for nothing."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from django_leadexec.exceptions import ProviderUnavailable
from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.refresh import circuit_breaker
from django_leadexec.refresh.circuit_breaker import FAILURE_THRESHOLD
from django_leadexec.refresh.options import Options
from django_leadexec.refresh.refresher import Refresher
from django_leadexec.refresh.refusals import CONFIRMATION_SAMPLE, DOUBT_THRESHOLD

from .factories import is_leased, make_connection, make_due_connections, make_user, plain
from .provider import Answer, Provider, http, refused
from .visitor import assert_error, post

pytestmark = pytest.mark.django_db(transaction=True)

Mixed = Callable[[str], Answer]


def yes_about(other: str) -> Answer:
    def answer(provider: Provider, token: str) -> bytes:
        return http({"valid": True, "refreshToken": other, "authToken": f"access-for-{other}"})

    return answer


def no_about(other: str) -> Answer:
    return lambda provider, token: refused(provider, other)


def done_about(other: str) -> Answer:
    return lambda provider, token: http({"success": True, "refreshToken": other})


MIXED_UP = pytest.mark.parametrize("about", [yes_about, no_about])


def refresh_all() -> Any:
    return Refresher(Options.for_all("default")).run()


@MIXED_UP
def test_a_page_takes_neither_the_token_nor_the_no_of_another(
    provider: Provider, about: Mixed, caplog: pytest.LogCaptureFixture
) -> None:
    row = make_connection("mine", expires_in=-1)
    make_connection("canary-theirs")
    provider.answers["mine"] = about("canary-theirs")
    with pytest.raises(ProviderUnavailable):
        row.get_access_token()
    row.refresh_from_db()
    assert (row.status, row.attempts, is_leased(row)) == ("active", 1, False)
    assert plain(row.access_token) == "stored-access-for-mine"
    assert any(record.levelname == "ERROR" for record in caplog.records)
    assert "canary-theirs" not in caplog.text


@MIXED_UP
def test_nor_does_a_run(provider: Provider, about: Mixed) -> None:
    row = make_connection("mine", expires_in=-1)
    make_connection("well", expires_in=-1)
    make_connection("theirs")
    provider.answers["mine"] = about("theirs")
    report = refresh_all()
    assert (report.refreshed, report.rejected, report.failed) == (1, 0, 1)
    row.refresh_from_db()
    assert (row.status, plain(row.access_token)) == ("active", "stored-access-for-mine")


def test_a_run_believes_no_refusals_because_of_a_yes_about_another(provider: Provider) -> None:
    """As with a wrong APP_ID: the one yes was for a process that has the right one."""
    make_due_connections(DOUBT_THRESHOLD + CONFIRMATION_SAMPLE)
    make_connection("theirs")
    provider.default = refused
    provider.answers["token-0"] = yes_about("theirs")
    report = refresh_all()
    assert report.rejected == 0
    assert not LeadExecConnection.objects.filter(status="rejected").exists()


def test_a_run_doubts_nobody_because_of_refusals_about_another(provider: Provider) -> None:
    make_due_connections(DOUBT_THRESHOLD - 1)
    make_connection("theirs")
    provider.default = no_about("theirs")
    refresher = Refresher(Options.for_all("default"))
    refresher.run()
    assert len(refresher.health.refusals) == 0


def test_a_run_takes_answers_about_another_for_an_outage(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit_breaker, "FIRST_PAUSE", 0.02)
    make_due_connections(3 * FAILURE_THRESHOLD)
    make_connection("theirs")
    provider.default = yes_about("theirs")
    report = refresh_all()
    assert (report.refreshed, report.outage) == (0, True)
    assert sum(provider.refreshes.values()) < 3 * FAILURE_THRESHOLD


@MIXED_UP
@pytest.mark.parametrize("is_on_file", [False, True])
def test_nor_does_the_callback(
    provider: Provider, client: Client, victim: Any, about: Mixed, is_on_file: bool
) -> None:
    if is_on_file:
        make_connection("mine", user=victim)
    make_connection("theirs")
    provider.answers["mine"] = about("theirs")
    assert_error(post(client, "mine"), 502, "unavailable")
    mine = LeadExecConnection.objects.holding("mine")
    assert mine.exists() is is_on_file
    assert all(plain(row.access_token) == "stored-access-for-mine" for row in mine)


@MIXED_UP
def test_nor_does_an_adoption(provider: Provider, about: Mixed) -> None:
    make_connection("theirs")
    provider.answers["mine"] = about("theirs")
    with pytest.raises(ProviderUnavailable):
        LeadExecConnection.objects.adopt(make_user(), "mine")
    assert not LeadExecConnection.objects.holding("mine").exists()


@MIXED_UP
def test_nor_does_an_import(provider: Provider, about: Mixed, tmp_path: Path) -> None:
    make_connection("theirs")
    provider.answers["mine"] = about("theirs")
    tokens, complaints = tmp_path / "tokens.csv", io.StringIO()
    tokens.write_text(f"user,token\n{make_user().username},mine\n")
    with pytest.raises(CommandError):
        call_command("import_leadexec_tokens", str(tokens), stderr=complaints)
    assert not LeadExecConnection.objects.holding("mine").exists()
    assert "import it again later" in complaints.getvalue()


@pytest.mark.parametrize(
    "disconnect",
    [done_about("theirs"), lambda *_: http({"success": False})],
    ids=["a yes about another", "a no, then a no about another"],
)
def test_a_revocation_is_not_confirmed_by_the_answer_about_another(
    provider: Provider, disconnect: Answer
) -> None:
    row = make_connection("mine")
    make_connection("theirs")
    provider.answers["disconnect mine"] = disconnect
    provider.answers["mine"] = no_about("theirs")
    assert row.revoke() is False
    assert plain(PendingRevocation.objects.get().refresh_token) == "mine"
    PendingRevocation.objects.all().write(retry_after=row.created_at)
    assert refresh_all().revoked == 0
    assert PendingRevocation.objects.get().attempts == 2


def test_a_token_that_is_being_revoked_is_on_file_as_well(provider: Provider) -> None:
    row = make_connection("mine", expires_in=-1)
    provider.answers["disconnect theirs"] = lambda *_: http({}, 503)
    make_connection("theirs").revoke()
    provider.answers["mine"] = yes_about("theirs")
    with pytest.raises(ProviderUnavailable):
        row.get_access_token()


def test_it_is_found_under_an_older_key_and_with_blanks_around_it(
    provider: Provider, configure: Callable[..., None], settings: Any
) -> None:
    row = make_connection("mine", expires_in=-1)
    make_connection("theirs")
    newer = Fernet.generate_key().decode()
    configure(ENCRYPTION_KEYS=[newer, *settings.LEADEXEC["ENCRYPTION_KEYS"]])
    provider.answers["mine"] = yes_about(" theirs\t")
    with pytest.raises(ProviderUnavailable):
        row.get_access_token()


def test_an_unknown_token_is_only_warned_of(
    provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    row = make_connection("mine", expires_in=-1)
    provider.answers["mine"] = yes_about("canary-rotated")
    assert row.get_access_token() == "access-for-canary-rotated"
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "canary" not in caplog.text


def test_a_run_looks_an_echo_up_once(provider: Provider) -> None:
    queries = {}
    for echo in ("mine", "another"):
        make_connection("mine", expires_in=-1)
        provider.answers["mine"] = yes_about(echo)
        with CaptureQueriesContext(connection) as captured:
            refresh_all()
        queries[echo] = len(captured)
        LeadExecConnection.objects.all().delete()
        PendingRevocation.objects.all().delete()
    assert queries["mine"] == queries["another"] - 2


def test_an_answer_about_the_token_itself_costs_no_query(provider: Provider) -> None:
    queries = {}
    for echo in ("mine", "MINE", "another"):
        row = make_connection("mine", expires_in=-1)
        provider.answers["mine"] = yes_about(echo)
        with CaptureQueriesContext(connection) as captured:
            row.get_access_token()
        queries[echo] = len(captured)
        row.delete()
        PendingRevocation.objects.all().delete()
    assert queries["mine"] == queries["MINE"] == queries["another"] - 2
