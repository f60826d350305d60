"""What an operator sees."""

import io
import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.refresh import Options, Refresher
from django_leadexec.status import Status, read_status

from .factories import make_connection
from .provider import Provider

pytestmark = pytest.mark.django_db


def call(**flags: Any) -> str:
    out = io.StringIO()
    call_command("leadexec_status", stdout=out, **flags)
    return out.getvalue()


def seconds_since(since: datetime) -> float:
    return (timezone.now() - since).total_seconds()


def test_it_counts_by_state() -> None:
    make_connection()
    make_connection(status="rejected", rejected_at=timezone.now())
    make_connection(status="rejected", rejected_at=timezone.now() - timedelta(days=2))
    make_connection()
    LeadExecConnection.objects.filter(pk=make_connection().pk).move_to_outbox()
    make_connection(app_id="another")
    status = read_status("default")
    assert (status.active, status.rejected, status.revoked) == (3, 2, 1)
    assert status.other_application == 1
    assert status.rejected_last_day == 1
    assert status.overdue == status.expired == 0


def test_it_shows_how_late_refreshes_are() -> None:
    now = timezone.now()
    make_connection(refresh_after=now - timedelta(seconds=90))
    make_connection(refresh_after=now - timedelta(seconds=30))
    make_connection(expires_in=-1, refresh_after=now + timedelta(hours=1))
    status = read_status("default")
    assert (status.overdue, status.expired) == (3, 1)
    assert 90 <= status.overdue_seconds <= 90.1 + seconds_since(now)


def test_a_failure_that_puts_a_refresh_off_does_not_make_it_less_late() -> None:
    now = timezone.now()
    later = now + timedelta(seconds=900)
    make_connection(expires_in=-7200, refresh_after=later, attempts=9)
    make_connection(refresh_after=later, attempts=1)
    status = read_status("default")
    assert (status.overdue, status.expired) == (1, 1)
    assert 7200 <= status.overdue_seconds <= 7200.1 + seconds_since(now)
    with pytest.raises(CommandError, match="overdue by 72"):
        call(max_overdue=600)


def test_it_shows_how_late_revocations_are() -> None:
    make_connection()
    LeadExecConnection.objects.all().move_to_outbox()
    now = timezone.now()
    for days, overdue in ((29, 0), (31, 1)):
        PendingRevocation.objects.update(requested_at=now - timedelta(days=days))
        status = read_status("default")
        assert (status.pending_revocations, status.revocations_overdue) == (1, overdue)
        late = status.oldest_revocation_seconds or 0
        assert days * 86_400 <= late <= days * 86_400 + 0.1 + seconds_since(now)


@pytest.mark.django_db(transaction=True)
def test_it_counts_tokens_that_no_key_opens(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    make_connection("moved", expires_in=-1)
    LeadExecConnection.objects.move_to_outbox()
    make_connection("t", expires_in=-1)
    make_connection("of another", app_id="another", expires_in=-1)
    assert read_status("default").unreadable == 0
    settings.LEADEXEC = settings.LEADEXEC | {"ENCRYPTION_KEYS": [Fernet.generate_key().decode()]}
    assert (status := run_and_read()).unreadable == 1
    assert status.revocations_unreadable == 1
    assert "unreadable" in call()
    assert "ENCRYPTION_KEYS" in capsys.readouterr().err
    with pytest.raises(CommandError, match=r"ENCRYPTION_KEYS'\]: 2\.") as caught:
        call(max_overdue=86_400)
    assert caught.value.returncode == 2


@pytest.mark.django_db(transaction=True)
def test_tokens_that_open_again_are_no_longer_counted(
    provider: Provider, settings: Settings
) -> None:
    make_connection("t", expires_in=-1)
    configured = settings.LEADEXEC
    settings.LEADEXEC = configured | {"ENCRYPTION_KEYS": [Fernet.generate_key().decode()]}
    assert run_and_read().unreadable == 1
    settings.LEADEXEC = configured
    LeadExecConnection.objects.write(refresh_after=timezone.now())
    assert run_and_read().unreadable == 0


def run_and_read() -> Status:
    Refresher(Options.for_all("default")).run()
    return read_status("default")


def test_it_takes_a_constant_number_of_queries(
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    for _ in range(5):
        make_connection()
    with django_assert_num_queries(2):
        read_status("default")


def test_json_holds_all_of_it() -> None:
    make_connection()
    assert json.loads(call(json=True))["active"] == 1
    assert "oldest revocation seconds   -" in call()


def test_the_exit_code_alarms_a_monitor() -> None:
    make_connection(refresh_after=timezone.now() - timedelta(seconds=9000))
    call(max_overdue=10_000)
    with pytest.raises(CommandError, match="overdue by 9") as caught:
        call(max_overdue=6000)
    assert caught.value.returncode == 1


@pytest.mark.parametrize("limit", ["-1", "nan", "inf", "soon"])
def test_a_limit_that_no_delay_could_pass_is_refused(limit: str) -> None:
    with pytest.raises(CommandError, match=f"max-overdue.*{limit}.* number of seconds"):
        call_command("leadexec_status", "--max-overdue", limit)


def test_it_exits_with_2_when_it_cannot_find_out(settings: Settings) -> None:
    settings.LEADEXEC = {}
    with pytest.raises(CommandError) as caught:
        call()
    assert caught.value.returncode == 2
