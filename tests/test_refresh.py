"""The engine behind refresh_leadexec_tokens, against a provider on a real socket."""

import threading
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import count, pairwise
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.utils import timezone
from pytest_django import Settings

from django_leadexec.claims import Claim, Unwritten
from django_leadexec.clock import from_timestamp
from django_leadexec.fields import Ciphertext
from django_leadexec.models import ConnectionQuerySet, LeadExecConnection, PendingRevocation
from django_leadexec.outbox import OutboxQuerySet
from django_leadexec.refresh import (
    Options,
    Refresher,
    Report,
    check_number,
    circuit_breaker,
    gate,
    turn,
    work,
    writer,
)
from django_leadexec.refresh.jobs import Answer, NotAsked, RefreshJob
from django_leadexec.refresh.workers import ThreadPool

from . import provider as stand_in
from .bounded_watch import stopping_in_time
from .concurrency.threads import begin
from .factories import is_leased, make_connection, make_due_connections, plain
from .processes import wait_until
from .provider import Provider

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_breaker, "FIRST_PAUSE", 0.02)


def run(**changes: object) -> Report:
    return Refresher(Options.for_all("default", **changes)).run()


def statuses() -> list[str]:
    return list(LeadExecConnection.objects.order_by("pk").values_list("status", flat=True))


@pytest.mark.parametrize(
    ("option", "least", "most", "wrong"),
    [
        ("workers", 1, 256, [0, -1, 257, 1.5, "4", None]),
        ("batch_size", 1, 5_000, [0, 5_001, 1e3, None]),
        ("limit", 1, 10**12, [0, -1, 10**12 + 1, 2.5]),
        ("rate", 0.01, 100_000, [0, 0.009, -1, 100_000.5, float("nan"), float("inf"), "1"]),
        ("within", 0, 86_400, [-0.5, -5, 86_400.5, float("nan"), "60"]),
        ("seconds", 0, 86_400, [-0.5, -1, 86_400.5, float("nan"), []]),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_by_its_name(
    option: str, least: float, most: float, wrong: list[object]
) -> None:
    for bound in (least, most):
        assert getattr(Options.for_all("default", **{option: bound}), option) == bound
    for value in wrong:
        with pytest.raises(ValueError, match=f"^{option} must be a .*number from"):
            Options.for_all("default", **{option: value})


def test_a_task_has_a_thousand_copies_at_most() -> None:
    check_number("copies", 1)
    check_number("copies", 1_000)
    for wrong in (0, 1_001, 1.5):
        with pytest.raises(ValueError, match=r"^copies must be a whole number from 1 to 1000"):
            check_number("copies", wrong)


def test_refreshes_what_is_due_and_nothing_else(provider: Provider) -> None:
    due = make_connection("due", expires_in=-1)
    later = make_connection("later")
    report = run()
    assert (report.refreshed, report.failed, report.skipped) == (1, 0, 0)
    assert set(provider.refreshes) == {"due"}
    due.refresh_from_db()
    assert plain(due.access_token) == "access-1-for-due"
    assert plain(due.refresh_token) == "due"
    assert due.lives(3000)
    later.refresh_from_db()
    assert plain(later.access_token) == "stored-access-for-later"


def test_a_second_run_finds_nothing_left_to_do(provider: Provider) -> None:
    make_due_connections(50)
    assert run(workers=4, batch_size=7).refreshed == 50
    assert run().refreshed == 0
    assert set(provider.refreshes.values()) == {1}


def test_a_refusal_rejects_and_keeps_the_tokens(provider: Provider) -> None:
    make_connection("good", expires_in=-1)
    row = make_connection("bad", expires_in=-1)
    provider.answers["bad"] = stand_in.refused
    report = run()
    assert (report.refreshed, report.rejected) == (1, 1)
    row.refresh_from_db()
    assert row.status == "rejected"
    assert plain(row.refresh_token) == "bad"
    assert row.last_error == "Refused: not valid"
    assert 3000 < seconds_until(row.refresh_after) <= 3600


def test_a_rejected_connection_that_the_provider_honours_again_is_active(
    provider: Provider,
) -> None:
    row = make_connection("back", expires_in=-1, status="rejected")
    assert run().refreshed == 1
    row.refresh_from_db()
    assert (row.status, row.attempts, row.rejected_at) == ("active", 0, None)


def test_trouble_puts_off_the_next_try_and_changes_nothing_else(provider: Provider) -> None:
    row = make_connection("t", expires_in=-1)
    provider.answers["t"] = stand_in.unavailable
    began = timezone.now()
    assert run().failed == 1
    before, row = row, LeadExecConnection.objects.get()
    assert row.status == "active"
    assert row.version == before.version
    assert row.refresh_after is not None
    assert row.refresh_after > began + timedelta(seconds=10)
    assert row.last_error == "Not refreshed: HTTP 503"


def test_rows_of_another_application_are_never_called(
    provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    make_connection("theirs", app_id="another-app", expires_in=-1)
    make_connection("mine", expires_in=-1)
    report = run()
    assert (report.refreshed, report.skipped) == (1, 1)
    assert set(provider.refreshes) == {"mine"}
    assert "1 due connections were made for another" in caplog.text


def test_all_counts_every_row_of_another_application(provider: Provider) -> None:
    make_connection("theirs", app_id="another-app")
    assert run(everything=True).skipped == 1


def test_a_revocation_for_another_application_is_told_all_the_same(provider: Provider) -> None:
    make_connection("theirs", app_id="another-app")
    LeadExecConnection.objects.all().move_to_outbox()
    assert run().revoked == 1
    assert provider.revoked == {"theirs"}


def test_all_takes_every_live_row_exactly_once(provider: Provider) -> None:
    make_due_connections(30)
    make_connection("fresh")
    make_connection("rejected", status="rejected")
    make_connection("leased", lease_until=int((time.time() + 60) * 1000), lease_id="another")
    report = run(everything=True, batch_size=8, workers=3)
    assert report.refreshed == 32
    assert "leased" not in provider.refreshes
    assert set(provider.refreshes.values()) == {1}


def test_within_moves_the_margin_and_takes_each_row_once(provider: Provider) -> None:
    make_connection("soon", expires_in=1800)
    make_connection("later", expires_in=3500)
    provider.lifetime = 1000  # a fresh token ends within the asked margin, too
    report = run(within=2000)
    assert report.refreshed == 1
    assert dict(provider.refreshes) == {"soon": 1}


def test_a_provider_that_takes_its_time_is_called_by_all_workers_at_once(
    provider: Provider,
) -> None:
    make_due_connections(20)
    provider.held.set()
    running = begin(lambda: run(workers=8).refreshed)
    wait_until(lambda: len(provider.under_way) == 8)
    provider.held.clear()
    assert running.result() == 20


def test_threads_that_only_wait_for_each_other_get_no_more_beside_them(
    provider: Provider,
) -> None:
    pool = ThreadPool(lambda job: Answer(job, NotAsked()), size=16)
    pool._start_thread()
    pool.in_flight = 100
    counts = []
    for useful in (0.3, 1.0, 2.5, float("inf"), float("inf"), float("inf")):
        pool._add_threads(useful)
        counts.append(len(pool._threads))
    pool.finish(lambda answer: None)
    assert counts == [1, 1, 3, 12, 16, 16]


def test_limit_stops_after_that_number_of_rows(provider: Provider) -> None:
    make_due_connections(10)
    report = run(limit=4)
    # What it was told to leave is not left over.
    assert (report.refreshed, report.left) == (4, 0)


def test_limit_is_for_each_kind_of_row(provider: Provider) -> None:
    make_due_connections(6, "gone")
    LeadExecConnection.objects.all().move_to_outbox()
    make_due_connections(6, "kept")
    report = run(limit=4)
    assert (report.revoked, report.refreshed) == (4, 4)


def test_within_leaves_what_has_failed_to_its_own_time(provider: Provider) -> None:
    later = from_timestamp(time.time() + 300)
    make_connection("backs off", expires_in=1200, attempts=3, refresh_after=later)
    make_connection("refused", expires_in=1200, attempts=1, refresh_after=later, status="rejected")
    make_connection("good", expires_in=1200)
    run(within=2000)
    assert dict(provider.refreshes) == {"good": 1}


@pytest.mark.slow
def test_a_rate_with_pauses_longer_than_a_lease_is_kept(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_due_connections(3)
    # Beside the call itself. Well over LOOK_AHEAD, as a claim may take its time, too.
    monkeypatch.setattr(work, "QUEUE_TIME", 1.9)
    refresher = Refresher(Options.for_all("default", rate=0.5))
    with stopping_in_time(refresher):
        assert refresher.run().refreshed == 3


def test_rate_spreads_the_calls(provider: Provider) -> None:
    make_due_connections(6)
    report = run(rate=20)
    assert report.refreshed == 6
    assert report.seconds >= 5 / 20


def test_a_rate_is_reached_with_calls_that_take_long(provider: Provider) -> None:
    options = Options.for_all("default", rate=10, workers=64)
    assert gate.window(options, call_seconds=3) >= 30


def test_a_hard_deadline_run_claims_nothing_when_no_call_can_end_in_time(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_due_connections(3)

    def claim(self: object, limit: int, seconds: float) -> list[LeadExecConnection]:
        raise AssertionError("nothing can become of this claim")

    monkeypatch.setattr(ConnectionQuerySet, "claim", claim)
    assert run(seconds=0.3, hard_deadline=True).left == 3


def test_an_undecryptable_row_fails_alone_and_is_left_as_it_is(
    provider: Provider, settings: object
) -> None:
    make_connection("good", expires_in=-1)
    bad = make_connection("bad", expires_in=-1)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE django_leadexec_leadexecconnection SET refresh_token = %s WHERE id = %s",
            ["not-a-ciphertext", bad.pk],
        )
    report = run()
    assert (report.refreshed, report.failed) == (1, 1)
    bad.refresh_from_db()
    assert bad.refresh_token == "not-a-ciphertext"
    assert "ENCRYPTION_KEYS" in bad.last_error
    assert bad.status == "active"


def test_a_row_revoked_during_the_call_stays_revoked(provider: Provider) -> None:
    row = make_connection("t", expires_in=-1)
    provider.held.set()
    runner = begin(run)
    wait_until(lambda: provider.refreshes["t"])
    LeadExecConnection.objects.filter(pk=row.pk).move_to_outbox()
    provider.held.clear()
    report = runner.returned()
    row.refresh_from_db()
    assert (row.status, plain(row.refresh_token), plain(row.access_token)) == ("revoked", "", "")
    assert report.skipped == 1
    assert plain(PendingRevocation.objects.get().refresh_token) == "t"


def test_stopping_finishes_what_is_in_flight_and_gives_back_the_rest(provider: Provider) -> None:
    make_due_connections(60)
    provider.held.set()
    stop = threading.Event()
    runner = begin(Refresher(Options.for_all("default", workers=4), stop=stop).run)
    wait_until(lambda: provider.calls["refreshaccesstoken"] == 4)
    stop.set()
    provider.held.clear()
    report = runner.returned()
    assert (report.refreshed, report.left) == (4, 56)
    assert run().refreshed == 56


def test_everybody_refused_rejects_nobody_and_asks_forty_at_most(provider: Provider) -> None:
    make_due_connections(100)
    provider.default = stand_in.refused
    began = timezone.now()
    report = run(workers=8)
    assert report.everybody_refused
    assert set(statuses()) == {"active"}
    assert sum(provider.refreshes.values()) == 40
    assert set(provider.refreshes.values()) == {1}
    held = LeadExecConnection.objects.exclude(last_error="")
    assert held.count() == 40
    put_off = began + timedelta(seconds=10)
    assert held.filter(refresh_after__gt=put_off).count() == 40


def test_with_more_workers_than_twenty_everybody_refused_asks_each_of_them_once(
    provider: Provider,
) -> None:
    make_due_connections(150)
    provider.default = stand_in.refused
    report = run(workers=50)
    assert report.everybody_refused
    assert set(statuses()) == {"active"}
    assert 40 <= sum(provider.refreshes.values()) <= 50 + 20
    assert set(provider.refreshes.values()) == {1}


def test_all_workers_call_at_once_before_the_first_answer(provider: Provider) -> None:
    make_due_connections(60)
    provider.held.set()
    runner = begin(lambda: run(workers=50))
    try:
        wait_until(lambda: provider.calls["refreshaccesstoken"] == 50)
    finally:
        provider.held.clear()
    assert runner.returned().refreshed == 60


def test_a_run_goes_on_with_as_many_threads_as_the_system_grants(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_due_connections(30)
    provider.held.set()
    start = threading.Thread.start
    granted: list[threading.Thread] = []

    def grant(thread: threading.Thread) -> None:
        if thread.name.startswith("leadexec-"):
            if len(granted) == 3:
                provider.held.clear()
                raise RuntimeError("can't start new thread")
            granted.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", grant)
    assert run(workers=16).refreshed == 30
    assert len(granted) == 3
    assert not provider.held.is_set()


def test_twenty_dead_rows_at_the_head_do_not_stop_the_good_ones(provider: Provider) -> None:
    for row in make_due_connections(20, "dead"):
        provider.answers[plain(row.refresh_token)] = stand_in.refused
    LeadExecConnection.objects.update(refresh_after="2020-01-01T00:00Z")
    make_due_connections(80, "good")
    report = run(workers=8)
    assert (report.refreshed, report.rejected, report.everybody_refused) == (80, 20, False)


def test_fewer_refusals_than_twenty_are_believed(provider: Provider) -> None:
    make_due_connections(8)
    provider.default = stand_in.refused
    report = run()
    assert (report.rejected, report.everybody_refused) == (8, False)


@pytest.fixture
def ten_come_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ten that are handed out have waited too long for a call to begin."""
    may_call, late = gate.Gate.may_call, iter(range(10))
    monkeypatch.setattr(
        gate.Gate,
        "may_call",
        lambda self, job: next(late, None) is None and may_call(self, job),
    )


def test_what_was_given_back_is_asked_about_in_the_same_run(
    provider: Provider, ten_come_too_late: None
) -> None:
    make_due_connections(25)
    assert run().refreshed == 25
    assert set(provider.refreshes.values()) == {1}


def test_refusals_are_counted_over_all_that_is_due_before_they_are_believed(
    provider: Provider, ten_come_too_late: None
) -> None:
    make_due_connections(25)
    provider.default = stand_in.refused
    report = run()
    assert report.everybody_refused
    assert statuses() == ["active"] * 25


def test_what_was_due_before_a_retry_after_is_done_after_it(provider: Provider) -> None:
    make_due_connections(25)
    provider.answers["token-0"] = stand_in.throttling(1)
    report = run(workers=1)
    assert (report.refreshed, report.failed, report.left) == (24, 1, 0)


def test_a_clock_that_is_set_back_makes_no_run_take_less_than_no_time(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_due_connections(1)
    right = time.time

    def set_clock_back(provider: Provider, token: str) -> bytes:
        monkeypatch.setattr(time, "time", lambda: right() - 7200)
        return stand_in.fresh(provider, token)

    provider.default = set_clock_back
    began = time.monotonic()
    report = run()
    assert report.refreshed == 1
    assert 0 <= report.seconds <= time.monotonic() - began + 0.001


@pytest.mark.parametrize("trouble", ["down", "refuses everybody", "opens with no key"])
def test_only_a_no_that_is_believed_ends_the_thirty_days_of_no(
    provider: Provider, trouble: str
) -> None:
    make_due_connections(25)
    month_ago = timezone.now() - timedelta(days=31)
    LeadExecConnection.objects.write(status="rejected", rejected_at=month_ago)
    if trouble == "down":
        provider.default = stand_in.unavailable
    elif trouble == "refuses everybody":
        provider.default = stand_in.refused
    else:
        LeadExecConnection.objects.write(refresh_token=Ciphertext(trouble))
    run()
    assert LeadExecConnection.objects.exclude(last_error="").exists()
    assert statuses() == ["rejected"] * 25
    assert not LeadExecConnection.objects.filter(fingerprint=None).exists()


@pytest.mark.parametrize("kind", [ZeroDivisionError, SystemExit])
def test_a_call_that_fails_unexpectedly_is_the_trouble_of_its_row_alone(
    provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: type[BaseException],
) -> None:
    make_due_connections(6)
    call = RefreshJob.call

    def fail_once(job: RefreshJob, *arguments: Any) -> Any:
        if plain(job.claim.row.refresh_token) == "token-3":
            raise kind("token-3")
        return call(job, *arguments)

    monkeypatch.setattr(RefreshJob, "call", fail_once)
    report = run(workers=2)
    assert (report.refreshed, report.failed, report.left) == (5, 1, 0)
    row = LeadExecConnection.objects.exclude(last_error="").get()
    assert f"unexpected {kind.__name__}" in row.last_error
    assert not is_leased(row)
    assert f"A refresh failed unexpectedly: {kind.__name__}." in caplog.text
    assert "token-3" not in caplog.text


def test_an_outage_is_probed_and_then_given_up(provider: Provider) -> None:
    make_due_connections(200)
    refresher = Refresher(Options.for_all("default", workers=4))
    breaker, answered = refresher.health.refreshing, count()

    def down(provider: Provider, token: str) -> bytes:
        # Each failure is noted before the next answer.
        before = next(answered)
        wait_until(lambda: breaker.failures >= before)
        return stand_in.unavailable(provider, token)

    provider.default = down
    report = refresher.run()
    assert report.outage
    # Twenty in a row, what was under way by then, and three probes.
    assert 23 <= sum(provider.refreshes.values()) <= 20 + 4 + 3
    assert report.left == 200 - report.failed


def test_an_outage_that_ends_is_caught_up_with(provider: Provider) -> None:
    make_due_connections(100)
    answered = []

    def down_at_first(provider: Provider, token: str) -> bytes:
        answered.append(token)
        answer = stand_in.unavailable if len(answered) <= 22 else stand_in.fresh
        return answer(provider, token)

    provider.default = down_at_first
    report = run(workers=2)
    assert not report.outage
    assert (report.refreshed, report.failed) == (78, 22)


def test_a_short_retry_after_pauses_the_run(provider: Provider) -> None:
    make_due_connections(20)
    answered = []

    def throttle_once(provider: Provider, token: str) -> bytes:
        answered.append(time.monotonic())
        answer = stand_in.throttling(1) if len(answered) == 1 else stand_in.fresh
        return answer(provider, token)

    provider.default = throttle_once
    report = run(workers=1)
    assert (report.refreshed, report.failed) == (19, 1)
    assert max(after - before for before, after in pairwise(answered)) >= 0.9


def test_a_long_retry_after_ends_a_single_run(provider: Provider) -> None:
    make_due_connections(50)
    provider.default = stand_in.throttling(600)
    report = run(workers=2)
    assert report.outage
    assert report.left >= 40
    assert sum(provider.refreshes.values()) <= 6


def test_the_outbox_is_worked_off_and_confirmed_entries_go(provider: Provider) -> None:
    make_connection("a")
    make_connection("b")
    LeadExecConnection.objects.all().move_to_outbox()
    report = run()
    assert (report.revoked, report.pending) == (2, 0)
    assert provider.revoked == {"a", "b"}


def test_a_revocation_that_fails_waits_for_its_next_try(provider: Provider) -> None:
    make_connection("a")
    LeadExecConnection.objects.all().move_to_outbox()
    provider.answers["disconnect a"] = stand_in.unavailable
    report = run()
    assert (report.revoked, report.failed, report.pending) == (0, 1, 1)
    entry = PendingRevocation.objects.get()
    assert plain(entry.refresh_token) == "a"
    assert entry.last_error == "Not revoked: HTTP 503"
    assert run().failed == 0  # not due yet


def test_it_refuses_to_run_inside_a_transaction(provider: Provider) -> None:
    with transaction.atomic(), pytest.raises(DatabaseError, match="TransactionTestCase"):
        run()


def test_a_low_rate_holds_few_rows_at_once(provider: Provider) -> None:
    make_due_connections(30)
    stop = threading.Event()
    runner = begin(Refresher(Options.for_all("default", rate=0.5), stop=stop).run)
    wait_until(lambda: provider.refreshes)
    held = LeadExecConnection.objects.filter(lease_until__gt=time.time() * 1000).count()
    stop.set()
    runner.returned()
    assert held <= 2


def test_a_database_error_stops_the_calls_that_were_handed_out(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_due_connections(200)

    def fail(self: object, rows: object) -> None:
        raise DatabaseError("gone")

    monkeypatch.setattr(ConnectionQuerySet, "write_claimed", fail)
    provider.latency = 0.02
    with pytest.raises(DatabaseError):
        run(workers=4, batch_size=10)
    assert sum(provider.refreshes.values()) < 100


def test_an_error_loses_no_answer_and_gives_back_the_rest(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of the 80 claimed, 20 are handed out before the first answer, which is written at once.
    monkeypatch.setattr(turn, "WRITE_INTERVAL", 0)
    make_due_connections(200)
    provider.latency = 0.02

    def time_is_up(count: int) -> None:
        raise TimeoutError("as a queue's worker may raise anywhere")

    with pytest.raises(TimeoutError):
        Refresher(Options.for_all("default"), progress=time_is_up).run()
    assert_all_answers_are_written_and_no_row_is_held(provider)


@pytest.mark.parametrize("is_written", [False, True])
def test_an_error_amid_a_write_loses_no_answer(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, is_written: bool
) -> None:
    write, times = ConnectionQuerySet.write_claimed, count()

    def time_is_up_at_the_first(
        self: ConnectionQuerySet, rows: Sequence[Claim[LeadExecConnection]]
    ) -> Unwritten[LeadExecConnection]:
        is_first = next(times) == 0
        if is_written or not is_first:
            unwritten = write(self, rows)
        if is_first:
            raise TimeoutError("as a queue's worker may raise anywhere")
        return unwritten

    monkeypatch.setattr(ConnectionQuerySet, "write_claimed", time_is_up_at_the_first)
    make_due_connections(200)
    provider.latency = 0.02
    with pytest.raises(TimeoutError):
        run(workers=4, batch_size=10)
    assert_all_answers_are_written_and_no_row_is_held(provider)


def assert_all_answers_are_written_and_no_row_is_held(provider: Provider) -> None:
    assert 0 < len(provider.refreshes) < 200
    written = LeadExecConnection.objects.exclude(expires_at=None).count()
    assert written == len(provider.refreshes)
    assert not LeadExecConnection.objects.filter(lease_until__gt=time.time() * 1000).exists()


def test_an_error_amid_a_write_loses_no_confirmation(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, times = OutboxQuerySet.write_claimed, count()

    def fail_at_the_first(
        self: OutboxQuerySet, claim: Claim[PendingRevocation], *, confirmed: bool
    ) -> bool:
        if next(times) == 0:
            raise DatabaseError("gone for a moment")
        return write(self, claim, confirmed=confirmed)

    monkeypatch.setattr(OutboxQuerySet, "write_claimed", fail_at_the_first)
    monkeypatch.setattr(writer, "is_database_down", lambda error, using: True)
    make_due_connections(10)
    LeadExecConnection.objects.all().move_to_outbox()
    with pytest.raises(DatabaseError):
        run(workers=1)
    assert provider.revoked
    assert PendingRevocation.objects.count() == 10 - len(provider.revoked)


def test_an_error_amid_a_giving_back_keeps_no_lease(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, times = ConnectionQuerySet.release, count()

    def fail_at_the_first(
        self: ConnectionQuerySet, rows: Sequence[Claim[LeadExecConnection]]
    ) -> None:
        if rows and next(times) == 0:
            raise DatabaseError("gone for a moment")
        release(self, rows)

    monkeypatch.setattr(ConnectionQuerySet, "release", fail_at_the_first)
    # Of the 80 claimed, 20 are handed out before the first answer.
    make_due_connections(80)
    provider.default = stand_in.unavailable
    with pytest.raises(DatabaseError):
        run()
    assert not LeadExecConnection.objects.filter(lease_until__gt=time.time() * 1000).exists()


def test_a_system_that_grants_no_thread_at_all_keeps_no_lease(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pool: ThreadPool) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ThreadPool, "_start_thread", refuse)
    make_due_connections(50)
    refresher = Refresher(Options.for_all("default", watching=True))
    for refusals in (0, 20):
        for _ in range(refusals):
            refresher.health.refusals.record_refusal()
        with pytest.raises(RuntimeError):
            refresher.run()
        assert not LeadExecConnection.objects.filter(lease_until__gt=time.time() * 1000).exists()


def test_an_interrupt_waits_for_no_call(provider: Provider, settings: Settings) -> None:
    settings.LEADEXEC = settings.LEADEXEC | {"TIMEOUT": 90}
    make_due_connections(10)

    def answer_this_one_alone(provider: Provider, token: str) -> bytes:
        provider.held.set()
        return stand_in.fresh(provider, token)

    def interrupt(count: int) -> None:
        wait_until(lambda: len(provider.refreshes) == 2)
        raise KeyboardInterrupt

    def work() -> None:
        options = Options.for_all("default", workers=1, batch_size=2)
        with pytest.raises(KeyboardInterrupt):
            Refresher(options, progress=interrupt).run()

    provider.default = answer_this_one_alone
    assert begin(work).result() is None
    assert provider.held.is_set()


def test_a_broken_disconnect_call_keeps_no_refresh_from_being_made(provider: Provider) -> None:
    make_due_connections(60, "gone")
    LeadExecConnection.objects.all().move_to_outbox()
    make_due_connections(30, "kept")
    for number in range(60):
        provider.answers[f"disconnect gone-{number}"] = stand_in.unavailable
    report = run(workers=4)
    assert report.refreshed == 30
    assert report.failed < 60
    assert report.left == 60 - report.failed


def seconds_until(moment: datetime | None) -> float:
    assert moment is not None
    return moment.timestamp() - time.time()
