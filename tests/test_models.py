"""Connections: schedules, what save() stores, and what they show."""

import copy
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.apps import apps
from django.core.exceptions import FieldError
from django.db.migrations.autodetector import MigrationAutodetector
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.state import ProjectState
from django.template import Context, Template
from django.utils import timezone
from pytest_django import Settings

from django_leadexec.clock import backoff, from_timestamp
from django_leadexec.models import LeadExecConnection, PendingRevocation

from .factories import (
    make_connection,
    plain,
)

pytestmark = pytest.mark.django_db

rows = LeadExecConnection.objects


class TestSave:
    def test_a_whole_row_save_touches_no_token_and_no_state(self) -> None:
        row = make_connection("t")
        stale = rows.get()
        rows.all().move_to_outbox()
        stale.refresh_token = "overwritten"
        with pytest.raises(FieldError, match="refresh_token"):
            stale.save()
        stale = copy.copy(row)
        stale.save()
        row.refresh_from_db()
        assert (plain(row.refresh_token), row.status) == ("", "revoked")

    def test_a_deferred_row_can_be_saved(self) -> None:
        make_connection("t")
        rows.only("pk").get().save()
        assert plain(rows.get().refresh_token) == "t"


class TestSchedule:
    def test_the_next_refresh_comes_before_the_margin_with_some_spread(self) -> None:
        row = make_connection(expires_in=3600)
        assert row.refresh_after is not None
        assert row.expires_at is not None
        assert 600 <= (row.expires_at - row.refresh_after).total_seconds() <= 600 * 1.25

    def test_a_short_life_is_not_refreshed_before_its_half(self) -> None:
        now = time.time()
        row = make_connection(expires_in=100)
        assert row.refresh_after is not None
        assert row.refresh_after.timestamp() - now >= 49.99

    @pytest.mark.parametrize("minute", range(0, 120, 10))
    def test_no_row_is_due_at_once_in_the_hour_that_local_clocks_repeat(
        self, settings: Settings, stop_clock: Callable[[float], None], minute: int
    ) -> None:
        settings.USE_TZ, settings.TIME_ZONE = False, "America/New_York"
        one_o_clock = datetime(2026, 11, 1, 5, tzinfo=UTC).timestamp()
        now = one_o_clock + minute * 60
        stop_clock(now)
        row = LeadExecConnection()
        row.record_success("a", now + 3600)
        assert row.refresh_after is not None
        assert row.refresh_after > from_timestamp(now)
        row.record_failure("timed out", retry_after=900)
        assert row.refresh_after > from_timestamp(now)

    def test_the_backoff_doubles_to_fifteen_minutes(self) -> None:
        longest = [30, 60, 120, 240, 480, 900, 900]
        for attempts, most in enumerate(longest, start=1):
            row = LeadExecConnection(attempts=attempts - 1)
            before = time.time()
            row.record_failure("timed out")
            assert row.refresh_after is not None
            waits_until = row.refresh_after.timestamp()
            assert before + most / 2 <= waits_until <= time.time() + most
        assert backoff(10_000, first=30, longest=900) == 900

    def test_a_refused_row_is_asked_after_an_hour_and_then_daily(self) -> None:
        row = make_connection()
        for hours in (1, 24, 24):
            before = time.time()
            row.record_refusal("no")
            assert row.refresh_after is not None
            asked_at = row.refresh_after.timestamp()
            assert before + 0.9 * hours * 3600 - 1 <= asked_at <= time.time() + hours * 3600
        assert row.version == 3

    def test_a_revocation_is_tried_daily_for_ever_and_overdue_after_thirty_days(self) -> None:
        make_connection()
        rows.all().move_to_outbox()
        entry = PendingRevocation.objects.get()
        before = time.time()
        for _ in range(20):
            entry.record_failure("timed out")
        assert entry.retry_after is not None
        tried_at = entry.retry_after.timestamp()
        assert before + 43_200 - 1 <= tried_at <= time.time() + 86_400
        assert not PendingRevocation.objects.overdue().exists()
        PendingRevocation.objects.update(requested_at=timezone.now() - timedelta(days=29, hours=23))
        assert not PendingRevocation.objects.overdue().exists()
        PendingRevocation.objects.update(requested_at=timezone.now() - timedelta(days=30))
        assert PendingRevocation.objects.overdue().get() == entry


def test_the_migrations_make_the_models_as_they_are(settings: Settings) -> None:
    settings.MIGRATION_MODULES = {}
    loader = MigrationLoader(None)
    current = ProjectState.from_apps(apps)
    changes = MigrationAutodetector(loader.project_state(), current).changes(graph=loader.graph)
    assert {"django_leadexec", "leadexec_sandbox"}.isdisjoint(changes)


def test_reprs_show_no_token() -> None:
    row = make_connection("canary-refresh", account_id="acme")
    rows.all().move_to_outbox()
    for shown in (row, PendingRevocation.objects.get(), vars(row)):
        assert "canary" not in repr(shown)
        assert "canary" not in str(shown)


def test_no_template_revokes_anything() -> None:
    row = make_connection("t")
    template = Template(
        "{{ row.revoke }}{{ row.delete }}{{ rows.move_to_outbox }}{{ rows.delete }}"
        "{{ row.user.leadexec_connections.move_to_outbox }}"
    )
    assert template.render(Context({"row": row, "rows": LeadExecConnection.objects.all()})) == ""
    assert LeadExecConnection.objects.active().get() == row


@pytest.mark.parametrize(
    "name",
    [
        *("write", "update", "bulk_create", "erase"),
        *("move_to_outbox", "delete", "revoke_and_delete"),
    ],
)
def test_templates_may_call_no_method_that_writes_rows(name: str) -> None:
    assert getattr(LeadExecConnection.objects.all(), name).alters_data
