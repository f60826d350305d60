"""Rows: leases, guarded writes, schedules, and the move to the outbox."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import FieldError
from django.db import IntegrityError, connection, transaction
from django.template import Context, Template
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from django_leadexec import models
from django_leadexec.exceptions import ConnectionConflict
from django_leadexec.models import CLOCK_SKEW, LeadExecConnection, PendingRevocation, link, writing

from .factories import make_connection, make_due_connections, make_user

pytestmark = pytest.mark.django_db

rows = LeadExecConnection.objects


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Stop the clock, at a moment in epoch seconds."""
    return lambda moment: monkeypatch.setattr(time, "time", lambda: moment)


class TestQuerySet:
    def test_active_leaves_out_the_rejected_and_the_revoked(self) -> None:
        active = make_connection()
        make_connection(status="rejected")
        make_connection(status="revoked")
        assert list(rows.active()) == [active]

    def test_for_user_is_empty_for_the_anonymous(self) -> None:
        mine = make_connection()
        make_connection()
        assert list(rows.for_user(mine.user)) == [mine]
        assert not rows.for_user(AnonymousUser())

    def test_expiring_takes_seconds(self) -> None:
        soon = make_connection(expires_in=100)
        make_connection(expires_in=1000)
        assert list(rows.expiring(200)) == [soon]

    def test_a_row_is_found_by_its_token_only_through_its_fingerprint(self) -> None:
        row = make_connection("token")
        assert rows.holding("token").get() == row
        assert not rows.holding("another")
        with pytest.raises(FieldError, match="fingerprint"):
            rows.filter(refresh_token="token")


class TestLease:
    def test_a_claimed_row_is_nobody_elses(self) -> None:
        make_connection()
        assert len(rows.order_by("pk").claim(10, 60)) == 1
        assert rows.order_by("pk").claim(10, 60) == []

    def test_a_lease_ends_by_itself_after_its_time_and_the_clock_skew(
        self, set_clock: Callable[[float], None]
    ) -> None:
        make_connection()
        now = time.time()
        set_clock(now)
        rows.order_by("pk").claim(1, 60)
        set_clock(now + 60 + CLOCK_SKEW - 0.01)
        assert rows.order_by("pk").claim(1, 60) == []
        set_clock(now + 60 + CLOCK_SKEW + 0.01)
        assert len(rows.order_by("pk").claim(1, 60)) == 1

    def test_a_row_that_is_given_back_is_as_it_was(self) -> None:
        make_connection()
        claimed = rows.order_by("pk").claim(1, 60)
        rows.all().release(claimed)
        assert rows.free(untouched_since=time.time()).count() == 1

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
        late.record_trouble("timed out")
        late.write_claimed(confirmed=False)
        entry = entries.get()
        assert entry.is_leased()
        assert (entry.attempts, entry.last_error) == (0, "")

    def test_no_time_zone_moves_a_lease(
        self, settings: Settings, set_clock: Callable[[float], None]
    ) -> None:
        settings.USE_TZ = False
        settings.TIME_ZONE = "Pacific/Auckland"
        row = make_connection()
        set_clock(time.time())
        rows.order_by("pk").claim(1, 60)
        row.refresh_from_db()
        assert 59.99 < row.lease_left() <= 60

    def test_a_claim_takes_the_longest_due_first(self) -> None:
        now = timezone.now()
        make_connection(refresh_after=now - timedelta(minutes=1))
        longest = make_connection(refresh_after=now - timedelta(minutes=5))
        make_connection(refresh_after=now + timedelta(minutes=5))
        assert rows.due(now).claim(1, 60) == [longest]


class TestWriteClaimed:
    def claim(self) -> LeadExecConnection:
        (row,) = rows.order_by("pk").claim(1, 60)
        return row

    def test_a_success_is_written_and_frees_the_row(self) -> None:
        make_connection("t")
        row = self.claim()
        row.record_success("new-access", time.time() + 3600)
        assert rows.all().write_claimed([row]) == []
        stored = rows.get()
        assert stored.access_token == "new-access"
        assert stored.version == 3
        assert not stored.is_leased()

    def test_no_answer_writes_a_refresh_token(self) -> None:
        make_connection()
        row = self.claim()
        row.record_success("new-access", time.time() + 3600)
        with CaptureQueriesContext(connection) as queries:
            rows.all().write_claimed([row])
        (update,) = (query["sql"] for query in queries if "UPDATE" in query["sql"])
        assert "access_token" in update
        assert "refresh_token" not in update

    def test_trouble_leaves_the_version_as_it_is(self) -> None:
        make_connection()
        row = self.claim()
        row.record_trouble("timed out")
        rows.all().write_claimed([row])
        assert rows.get().version == 2

    def test_a_late_answer_loses_to_a_revocation(self) -> None:
        make_connection()
        row = self.claim()
        rows.all().move_to_outbox()
        row.record_success("late", time.time() + 3600)
        assert rows.all().write_claimed([row]) == [row]
        assert rows.get().status == "revoked"
        assert rows.get().access_token == ""

    def test_an_answer_without_a_claim_loses_to_a_revocation(self) -> None:
        make_connection()
        row = rows.get()
        row.claimed_version = row.version
        rows.all().move_to_outbox()
        row.record_success("late", time.time() + 60)
        assert rows.all().write_claimed([row]) == [row]
        stored = rows.get()
        assert (stored.status, stored.access_token) == ("revoked", "")

    def test_a_late_answer_loses_to_another_claim(self) -> None:
        make_connection("t")
        (late,) = rows.order_by("pk").claim(1, -CLOCK_SKEW - 1)
        self.claim()
        late.record_trouble("timed out")
        assert rows.all().write_claimed([late]) == [late]
        assert rows.get().last_error == ""
        assert rows.get().is_leased()

    def test_it_tells_which_of_many_lost(self) -> None:
        make_due_connections(5)
        claimed = rows.order_by("pk").claim(5, 60)
        rows.filter(pk=claimed[2].pk).move_to_outbox()
        for row in claimed:
            row.record_success("a", time.time() + 3600)
        assert rows.all().write_claimed(claimed) == [claimed[2]]

    def test_a_batch_is_one_statement(self) -> None:
        make_due_connections(50)
        claimed = rows.order_by("pk").claim(50, 60)
        for row in claimed:
            row.record_success("a", time.time() + 3600)
        with CaptureQueriesContext(connection) as queries:
            rows.all().write_claimed(claimed)
        updates = [query for query in queries if "UPDATE" in query["sql"]]
        assert len(updates) == 1


class TestSave:
    def test_a_whole_row_save_touches_no_token_and_no_state(self) -> None:
        row = make_connection("t")
        stale = rows.get()
        rows.all().move_to_outbox()
        stale.refresh_token = "overwritten"
        stale.status = "active"
        stale.save()
        row.refresh_from_db()
        assert (row.refresh_token, row.status) == ("", "revoked")

    def test_a_deferred_row_can_be_saved(self) -> None:
        make_connection("t")
        rows.only("pk").get().save()
        assert rows.get().refresh_token == "t"


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
        self, settings: Settings, set_clock: Callable[[float], None], minute: int
    ) -> None:
        settings.USE_TZ, settings.TIME_ZONE = False, "America/New_York"
        one_o_clock = datetime(2026, 11, 1, 5, tzinfo=UTC).timestamp()
        now = one_o_clock + minute * 60
        set_clock(now)
        row = LeadExecConnection()
        row.record_success("a", now + 3600)
        assert row.refresh_after is not None
        assert row.refresh_after > models.moment(now)
        row.record_trouble("timed out", retry_after=900)
        assert row.refresh_after > models.moment(now)

    def test_the_backoff_doubles_to_fifteen_minutes(self) -> None:
        longest = [30, 60, 120, 240, 480, 900, 900]
        for attempts, most in enumerate(longest, start=1):
            assert most / 2 <= models.backoff(attempts) <= most
        assert models.backoff(10_000) <= 900

    def test_a_refused_row_is_asked_after_an_hour_and_then_daily(self) -> None:
        row = make_connection()
        for hours in (1, 24, 24):
            before = time.time()
            row.record_refusal("no")
            assert row.refresh_after is not None
            asked_at = row.refresh_after.timestamp()
            assert before + 0.9 * hours * 3600 - 1 <= asked_at <= time.time() + hours * 3600
        assert row.version == 3

    def test_a_revocation_is_tried_for_thirty_days_and_then_left_to_see(self) -> None:
        make_connection()
        rows.all().move_to_outbox()
        entry = PendingRevocation.objects.get()
        before = time.time()
        for _ in range(20):
            entry.record_trouble("timed out")
        assert entry.retry_after is not None
        tried_at = entry.retry_after.timestamp()
        assert before + 43_200 - 1 <= tried_at <= time.time() + 86_400
        entry.requested_at -= timedelta(days=30)
        entry.record_trouble("timed out")
        assert entry.retry_after is None


class TestMoveToOutbox:
    def test_it_needs_no_key(self, settings: Settings) -> None:
        make_connection("t")
        before = rows.get().refresh_token_ciphertext
        keys = settings.LEADEXEC["ENCRYPTION_KEYS"]
        settings.LEADEXEC = settings.LEADEXEC | {"ENCRYPTION_KEYS": ["not a key"]}
        rows.all().move_to_outbox()
        assert PendingRevocation.objects.get().refresh_token_ciphertext == before
        settings.LEADEXEC = settings.LEADEXEC | {"ENCRYPTION_KEYS": keys}
        assert PendingRevocation.objects.get().refresh_token == "t"

    def test_revoked_rows_are_left_as_they_are(self) -> None:
        make_connection()
        rows.all().move_to_outbox()
        first = rows.get().revoked_at
        rows.all().move_to_outbox()
        assert rows.get().revoked_at == first
        assert PendingRevocation.objects.count() == 1

    def test_many_take_few_statements(self) -> None:
        make_due_connections(1200)
        with CaptureQueriesContext(connection) as queries:
            requested_at = rows.all().move_to_outbox()
        assert len(queries) < 40
        assert PendingRevocation.objects.filter(requested_at=requested_at).count() == 1200

    def test_deleting_many_takes_few_statements(self) -> None:
        make_due_connections(600)
        with CaptureQueriesContext(connection) as queries:
            assert rows.active().delete()[0] == 600
        assert len(queries) < 40
        assert PendingRevocation.objects.count() == 600
        assert not rows.exists()

    def test_deleting_the_revoked_asks_nothing_more(self) -> None:
        make_due_connections(300)
        rows.all().move_to_outbox()
        with CaptureQueriesContext(connection) as queries:
            rows.all().delete()
        assert len(queries) < 20
        assert PendingRevocation.objects.count() == 300

    def test_a_failure_undoes_all_of_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        make_due_connections(1200)
        original = models.ConnectionQuerySet._erase
        calls = []

        def fail_at_the_second(self: models.ConnectionQuerySet, at: object) -> int:
            calls.append(at)
            if len(calls) == 2:
                raise ZeroDivisionError
            return original(self, at)  # type: ignore[arg-type]

        monkeypatch.setattr(models.ConnectionQuerySet, "_erase", fail_at_the_second)
        with pytest.raises(ZeroDivisionError):
            rows.all().move_to_outbox()
        assert rows.active().count() == 1200
        assert not PendingRevocation.objects.exists()


class TestLink:
    def test_a_user_without_a_known_account_has_one_row(self) -> None:
        user = make_user()
        first = make_connection("a", user=user)
        second = make_connection("b", user=user)
        assert first.pk == second.pk
        assert rows.get().refresh_token == "b"

    def test_accounts_that_differ_by_case_are_two(self) -> None:
        user = make_user()
        make_connection("a", user=user, account_id="acme")
        make_connection("b", user=user, account_id="ACME")
        assert rows.count() == 2

    def test_a_token_or_account_of_another_user_is_a_conflict(self) -> None:
        make_connection("a", account_id="acme")
        for token, account in (("a", ""), ("a", "other"), ("b", "acme")):
            with pytest.raises(ConnectionConflict):
                make_connection(token, account_id=account)

    def test_an_account_learned_later_stays_on_the_same_row(self) -> None:
        user = make_user()
        first = make_connection("a", user=user)
        second = make_connection("a", user=user, account_id="acme")
        assert first.pk == second.pk
        assert rows.get().account_id == "acme"

    def test_an_account_once_known_is_not_forgotten(self) -> None:
        user = make_user()
        make_connection("a", user=user, account_id="acme")
        make_connection("a", user=user)
        assert rows.get().account_id == "acme"

    def test_two_rows_of_one_association_become_one(self) -> None:
        user = make_user()
        make_connection("a", user=user)
        make_connection("b", user=user, account_id="acme")
        make_connection("a", user=user, account_id="acme")
        assert rows.live().get().refresh_token == "a"
        assert not PendingRevocation.objects.exists()

    def test_connecting_again_after_a_revocation_makes_a_new_row(self) -> None:
        user = make_user()
        old = make_connection("a", user=user)
        rows.all().move_to_outbox()
        new = make_connection("b", user=user)
        assert new.pk != old.pk
        assert rows.count() == 2

    def test_the_database_holds_a_token_once(self) -> None:
        row = make_connection("a")
        duplicate = LeadExecConnection(user=make_user(), app_id="x", fingerprint=row.fingerprint)
        with pytest.raises(IntegrityError), transaction.atomic():
            duplicate.save()

    def test_a_lease_ends_with_a_new_token(self) -> None:
        user = make_user()
        make_connection("a", user=user)
        (claimed,) = rows.order_by("pk").claim(1, 60)
        with writing("default"):
            link(user, "test-app", "b", "x", time.time() + 60, using="default")
        assert not rows.get().is_leased()
        claimed.record_success("late", time.time() + 3600)
        assert rows.all().write_claimed([claimed]) == [claimed]
        assert rows.get().access_token == "x"


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
