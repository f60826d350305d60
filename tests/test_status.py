"""What an operator is told."""

import io
import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.status import read_status

from .factories import make_connection

pytestmark = pytest.mark.django_db


def call(**flags: Any) -> str:
    out = io.StringIO()
    call_command("leadexec_status", stdout=out, **flags)
    return out.getvalue()


def seconds_since(moment: datetime) -> float:
    return (timezone.now() - moment).total_seconds()


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


def test_it_tells_how_far_refreshes_are_behind() -> None:
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


def test_it_tells_how_far_revocations_are_behind() -> None:
    make_connection()
    LeadExecConnection.objects.all().move_to_outbox()
    now = timezone.now()
    asked = now - timedelta(hours=1)
    PendingRevocation.objects.update(requested_at=asked, retry_after=None)
    status = read_status("default")
    assert (status.pending_revocations, status.revocations_given_up) == (1, 1)
    assert 3600 <= (status.oldest_revocation_seconds or 0) <= 3600.1 + seconds_since(now)


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


def test_a_monitor_is_told_by_the_exit_code() -> None:
    make_connection(refresh_after=timezone.now() - timedelta(seconds=9000))
    call(max_overdue=10_000)
    with pytest.raises(CommandError, match="overdue by 9") as caught:
        call(max_overdue=6000)
    assert caught.value.returncode == 1


@pytest.mark.parametrize("limit", ["-1", "nan", "inf", "soon"])
def test_a_limit_that_no_delay_could_pass_is_refused(limit: str) -> None:
    with pytest.raises(CommandError, match=f"max-overdue.*{limit}.* number of seconds"):
        call_command("leadexec_status", "--max-overdue", limit)


def test_it_exits_with_2_when_it_cannot_tell(settings: Settings) -> None:
    settings.LEADEXEC = {}
    with pytest.raises(CommandError) as caught:
        call()
    assert caught.value.returncode == 2
