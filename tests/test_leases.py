"""Leases: who may work on a row, and until when."""

import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone
from pytest_django import Settings

from django_leadexec.leases import CLOCK_SKEW, writing
from django_leadexec.models import LeadExecConnection, PendingRevocation

from .factories import (
    is_leased,
    lease_left,
    make_connection,
)

pytestmark = pytest.mark.django_db

rows = LeadExecConnection.objects


class TestLease:
    def test_a_claimed_row_is_nobody_elses(self) -> None:
        make_connection()
        assert len(rows.order_by("pk").claim(10, 60)) == 1
        assert rows.order_by("pk").claim(10, 60) == []

    def test_a_lease_ends_by_itself_after_its_time_and_the_clock_skew(
        self, stop_clock: Callable[[float], None]
    ) -> None:
        make_connection()
        now = time.time()
        stop_clock(now)
        rows.order_by("pk").claim(1, 60)
        stop_clock(now + 60 + CLOCK_SKEW - 0.01)
        assert rows.order_by("pk").claim(1, 60) == []
        stop_clock(now + 60 + CLOCK_SKEW + 0.01)
        assert len(rows.order_by("pk").claim(1, 60)) == 1

    def test_a_row_that_is_given_back_is_as_it_was(self) -> None:
        make_connection()
        claimed = rows.order_by("pk").claim(1, 60)
        rows.all().release(claimed)
        assert rows.free(untouched_since=time.time()).count() == 1

    def test_a_transaction_of_ours_begins_without_touching_a_lease(self) -> None:
        # On SQLite it begins with a write, which must find no row, be its key the smallest.
        make_connection()
        rows.update(id=1)
        rows.order_by("pk").claim(1, 60)
        with writing(LeadExecConnection, "default"):
            pass
        assert is_leased(rows.get())

    def test_who_has_lost_a_lease_gives_nothing_back(self) -> None:
        make_connection()
        late = rows.order_by("pk").claim(1, -CLOCK_SKEW - 1)
        rows.order_by("pk").claim(1, 60)
        rows.all().release(late)
        assert not rows.free()

    def test_who_has_lost_a_lease_says_nothing_of_a_revocation(self) -> None:
        make_connection()
        rows.all().move_to_outbox()
        entries = PendingRevocation.objects.order_by("pk")
        (late,) = entries.claim(1, -CLOCK_SKEW - 1)
        entries.claim(1, 60)
        late.row.record_failure("timed out")
        entries.write_claimed(late, confirmed=False)
        entry = entries.get()
        assert is_leased(entry)
        assert (entry.attempts, entry.last_error) == (0, "")

    def test_no_time_zone_moves_a_lease(
        self, settings: Settings, stop_clock: Callable[[float], None]
    ) -> None:
        settings.USE_TZ = False
        settings.TIME_ZONE = "Pacific/Auckland"
        row = make_connection()
        stop_clock(time.time())
        rows.order_by("pk").claim(1, 60)
        row.refresh_from_db()
        assert 59.99 < lease_left(row) <= 60

    def test_a_claim_takes_the_longest_due_first(self) -> None:
        now = timezone.now()
        make_connection(refresh_after=now - timedelta(minutes=1))
        longest = make_connection(refresh_after=now - timedelta(minutes=5))
        make_connection(refresh_after=now + timedelta(minutes=5))
        assert [claim.row for claim in rows.due(now).claim(1, 60)] == [longest]
