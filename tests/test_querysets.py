"""Many connections: finding, writing and revoking them."""

import time

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import FieldError
from django.db import connection as database
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from django_leadexec import models, signals
from django_leadexec.claims import Claim
from django_leadexec.leases import CLOCK_SKEW
from django_leadexec.models import LeadExecConnection, PendingRevocation

from .factories import (
    is_leased,
    make_connection,
    make_due_connections,
    plain,
)

pytestmark = pytest.mark.django_db

rows = LeadExecConnection.objects


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


class TestWriteClaimed:
    def claim(self) -> Claim[LeadExecConnection]:
        (claim,) = rows.order_by("pk").claim(1, 60)
        return claim

    def test_a_success_is_written_and_frees_the_row(self) -> None:
        make_connection("t")
        claim = self.claim()
        claim.row.record_success("new-access", time.time() + 3600)
        assert rows.all().write_claimed([claim]).lost == []
        stored = rows.get()
        assert plain(stored.access_token) == "new-access"
        assert stored.version == 3
        assert not is_leased(stored)

    def test_no_answer_writes_a_refresh_token(self) -> None:
        make_connection()
        claim = self.claim()
        claim.row.record_success("new-access", time.time() + 3600)
        with CaptureQueriesContext(database) as queries:
            rows.all().write_claimed([claim])
        (update,) = (query["sql"] for query in queries if " SET " in query["sql"])
        assert "access_token" in update
        assert "refresh_token" not in update

    def test_trouble_leaves_the_version_as_it_is(self) -> None:
        make_connection()
        claim = self.claim()
        claim.row.record_failure("timed out")
        rows.all().write_claimed([claim])
        assert rows.get().version == 2

    def test_a_late_answer_loses_to_a_revocation(self) -> None:
        make_connection()
        claim = self.claim()
        rows.all().move_to_outbox()
        claim.row.record_success("late", time.time() + 3600)
        assert rows.all().write_claimed([claim]).lost == [claim]
        assert rows.get().status == "revoked"
        assert plain(rows.get().access_token) == ""

    def test_an_answer_without_a_claim_loses_to_a_revocation(self) -> None:
        make_connection()
        claim = Claim.of(rows.get(), is_held=False)
        rows.all().move_to_outbox()
        claim.row.record_success("late", time.time() + 60)
        assert rows.all().write_claimed([claim]).lost == [claim]
        stored = rows.get()
        assert (stored.status, plain(stored.access_token)) == ("revoked", "")

    def test_a_late_answer_loses_to_another_claim(self) -> None:
        make_connection("t")
        (late,) = rows.order_by("pk").claim(1, -CLOCK_SKEW - 1)
        self.claim()
        late.row.record_failure("timed out")
        assert rows.all().write_claimed([late]).lost == [late]
        assert rows.get().last_error == ""
        assert is_leased(rows.get())

    def test_it_tells_which_of_many_lost(self) -> None:
        make_due_connections(5)
        claimed = rows.order_by("pk").claim(5, 60)
        rows.filter(pk=claimed[2].row.pk).move_to_outbox()
        for claim in claimed:
            claim.row.record_success("a", time.time() + 3600)
        assert rows.all().write_claimed(claimed).lost == [claimed[2]]

    def test_a_batch_is_one_statement(self) -> None:
        make_due_connections(50)
        claimed = rows.order_by("pk").claim(50, 60)
        for claim in claimed:
            claim.row.record_success("a", time.time() + 3600)
        with CaptureQueriesContext(database) as queries:
            rows.all().write_claimed(claimed)
        updates = [query for query in queries if " SET " in query["sql"]]
        assert len(updates) == 1


class TestMoveToOutbox:
    def test_it_needs_no_key(self, settings: Settings) -> None:
        make_connection("t")
        before = rows.get().refresh_token
        keys = settings.LEADEXEC["ENCRYPTION_KEYS"]
        settings.LEADEXEC = settings.LEADEXEC | {"ENCRYPTION_KEYS": ["not a key"]}
        rows.all().move_to_outbox()
        assert PendingRevocation.objects.get().refresh_token == before
        settings.LEADEXEC = settings.LEADEXEC | {"ENCRYPTION_KEYS": keys}
        assert plain(PendingRevocation.objects.get().refresh_token) == "t"

    def test_each_call_is_a_batch_of_its_own(self) -> None:
        for token in ("a", "b"):
            make_connection(token)
        first = rows.holding("a").move_to_outbox()
        rows.holding("b").move_to_outbox()
        batches = PendingRevocation.objects.order_by("pk").values_list("batch", flat=True)
        assert [name == first.name for name in batches] == [True, False]

    def test_a_revocation_makes_another_version_of_the_row(self) -> None:
        before = make_connection().version
        rows.all().move_to_outbox()
        assert rows.get().version == before + 1

    def test_revoked_rows_are_left_as_they_are(self) -> None:
        make_connection()
        rows.all().move_to_outbox()
        first = rows.get().revoked_at
        rows.all().move_to_outbox()
        assert rows.get().revoked_at == first
        assert PendingRevocation.objects.count() == 1

    def test_many_take_few_statements(self) -> None:
        make_due_connections(1200)
        with CaptureQueriesContext(database) as queries:
            batch = rows.all().move_to_outbox()
        assert len(queries) < 40
        assert batch.entries().count() == len(batch.connection_keys) == 1200

    def test_deleting_many_takes_few_statements(self) -> None:
        make_due_connections(600)
        with CaptureQueriesContext(database) as queries:
            assert rows.active().delete()[0] == 600
        assert len(queries) < 40
        assert PendingRevocation.objects.count() == 600
        assert not rows.exists()

    def test_deleting_the_revoked_asks_nothing_more(self) -> None:
        make_due_connections(300)
        rows.all().move_to_outbox()
        with CaptureQueriesContext(database) as queries:
            rows.all().delete()
        assert len(queries) < 20
        assert PendingRevocation.objects.count() == 300

    def test_a_failure_undoes_all_of_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        make_due_connections(1200)
        original = models.ConnectionQuerySet.erase
        calls = []

        def fail_at_the_second(self: models.ConnectionQuerySet, at: object) -> int:
            calls.append(at)
            if len(calls) == 2:
                raise ZeroDivisionError
            return original(self, at)  # type: ignore[arg-type]

        monkeypatch.setattr(models.ConnectionQuerySet, "erase", fail_at_the_second)
        with pytest.raises(ZeroDivisionError):
            rows.all().move_to_outbox()
        assert rows.active().count() == 1200
        assert not PendingRevocation.objects.exists()

    @pytest.mark.django_db(transaction=True)
    def test_each_connection_is_told_of_as_revoked(self) -> None:
        make_due_connections(3)
        heard: list[tuple[str, int]] = []

        def hear(connection: LeadExecConnection, **_: object) -> None:
            heard.append((connection.status, connection.pk))

        signals.connection_revoked.connect(hear)
        try:
            batch = rows.all().move_to_outbox()
        finally:
            signals.connection_revoked.disconnect(hear)
        assert heard == [("revoked", pk) for pk in batch.connection_keys]
        assert len(heard) == 3
