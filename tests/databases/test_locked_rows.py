"""Rows that transactions of the site keep locked: one locked row is one row's trouble."""

import json
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.messages import get_messages
from django.db import connection, transaction
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from django_leadexec import clock, conflicts, leases, lifecycle
from django_leadexec.exceptions import ConnectionBusy, ProviderUnavailable
from django_leadexec.leases import CLOCK_SKEW
from django_leadexec.mass_revocation import MassRevocation
from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.provider.replies import Fresh
from django_leadexec.refresh import Options, Refresher, Report
from django_leadexec.refresh import run as run_module
from django_leadexec.refresh.chosen import send_chosen
from django_leadexec.secret import Secret

from .. import processes
from ..bounded_watch import stopping_in_time
from ..concurrency.threads import begin
from ..factories import is_leased, make_connection, make_due_connections, make_user, plain
from ..processes import wait_until
from ..provider import Provider
from ..visitor import LOGIN
from .callers import Caller, then_answer

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.server,
]

rows = LeadExecConnection.objects
ROWS = 40


def read_its_token(row: LeadExecConnection) -> None:
    rows.get(pk=row.pk).get_access_token()


def write_it(row: LeadExecConnection) -> None:
    rows.filter(pk=row.pk).update(attempts=0)


def lock_it(row: LeadExecConnection) -> None:
    rows.select_for_update().get(pk=row.pk)


def lock_the_table() -> None:
    table = LeadExecConnection._meta.db_table
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        else:
            cursor.execute(f"LOCK TABLES {table} WRITE")


def somebody_waits_for_the_table() -> bool:
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            sql = (
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        else:
            sql = (
                "SELECT count(*) FROM information_schema.processlist "
                "WHERE db = database() AND state = 'Waiting for table metadata lock'"
            )
        cursor.execute(sql)
        return bool(cursor.fetchone()[0])


@pytest.fixture(params=[read_its_token, write_it, lock_it])
def lock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the caller does. Its own call is answered at once, even while the run's are held."""
    fresh = Fresh(Secret("the-caller's"), time.time() + 3600)
    monkeypatch.setattr(lifecycle, "_ask", lambda question, conf: fresh)
    return request.param


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """Nobody waits longer than two seconds, neither for a lock nor for the provider."""
    settings.LEADEXEC = settings.LEADEXEC | {"TIMEOUT": 2}
    monkeypatch.setattr(conflicts, "LOCK_PATIENCE", 0.5)


@pytest.fixture
def short_waits_of_runs(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """A run waits two seconds for locks, while each call may take thirty on a busy machine."""
    settings.LEADEXEC = settings.LEADEXEC | {"TIMEOUT": 30}
    began = clock.monotonic()
    monkeypatch.setattr(run_module, "monotonic", lambda: began + 15 * (clock.monotonic() - began))
    monkeypatch.setattr(conflicts, "LOCK_PATIENCE", 0.5)


def refresh() -> Report:
    return Refresher(Options.for_all("default", workers=ROWS)).run()


def all_are_under_way(provider: Provider) -> bool:
    return sum(provider.refreshes.values()) >= ROWS


def leased() -> list[int]:
    """The keys of the rows that somebody holds."""
    return [row.pk for row in rows.order_by("pk") if is_leased(row)]


class TestRun:
    def test_one_row_that_is_locked_while_it_is_asked_about_costs_no_other(
        self, provider: Provider, short_waits_of_runs: None, lock: Callable[[Any], None]
    ) -> None:
        locked, *others = make_due_connections(ROWS)
        provider.held.set()

        lock_and_go_on = then_answer(lambda: lock(locked), provider)

        with Caller(lock_and_go_on, when=lambda: all_are_under_way(provider)):
            report = refresh()
            assert (report.refreshed, report.failed, report.left) == (ROWS - 1, 1, 0)
            assert all(row.lives(3000) for row in rows.exclude(pk=locked.pk))
            assert leased() == [locked.pk]
            # The next run says why it does nothing about the row.
            report = refresh()
            assert (report.refreshed, report.held, report.left) == (0, 1, 0)
        assert len(others) == ROWS - 1
        assert set(provider.refreshes.values()) == {1}

    def test_an_answer_is_kept_until_the_lock_ends(self, provider: Provider) -> None:
        locked, *_others = make_due_connections(ROWS)
        provider.held.set()

        lock_and_go_on = then_answer(lambda: lock_it(locked), provider)

        caller = Caller(lock_and_go_on, when=lambda: all_are_under_way(provider))

        def commit_when_the_others_are_written() -> None:
            wait_until(lambda: rows.filter(expires_at=None).count() == 1)
            caller.commit()

        with caller:
            releasing = begin(commit_when_the_others_are_written)
            report = refresh()
        assert releasing.result() is None
        assert (report.refreshed, report.failed, report.left) == (ROWS, 0, 0)
        assert set(provider.refreshes.values()) == {1}
        assert leased() == []

    def test_a_row_that_is_locked_before_it_is_claimed_is_left(
        self, provider: Provider, short_waits_of_runs: None, lock: Callable[[Any], None]
    ) -> None:
        locked, *_others = make_due_connections(ROWS)
        with Caller(partial(lock, locked)) as caller:
            caller.wait_for_lock()
            report = refresh()
        assert (report.refreshed, report.failed, report.left) == (ROWS - 1, 0, 1)

    def test_a_row_that_is_free_in_time_is_taken_by_the_same_run(self, provider: Provider) -> None:
        locked, *_others = make_due_connections(ROWS)
        caller = Caller(partial(lock_it, locked))

        def commit_when_the_others_are_written() -> None:
            wait_until(lambda: rows.filter(expires_at=None).count() == 1)
            caller.commit()

        with caller:
            caller.wait_for_lock()
            releasing = begin(commit_when_the_others_are_written)
            report = refresh()
        assert releasing.result() is None
        assert (report.refreshed, report.failed, report.left) == (ROWS, 0, 0)

    def test_a_revocation_that_is_locked_costs_no_other(
        self, provider: Provider, short_waits_of_runs: None
    ) -> None:
        make_due_connections(ROWS)
        rows.move_to_outbox()
        locked = PendingRevocation.objects.earliest("pk")
        provider.held.set()

        lock_and_go_on = then_answer(
            lambda: PendingRevocation.objects.select_for_update().get(pk=locked.pk), provider
        )

        def are_under_way() -> bool:
            return provider.calls["disconnectapplicationtoken"] >= ROWS

        with Caller(lock_and_go_on, when=are_under_way):
            report = refresh()
            assert (report.revoked, report.failed) == (ROWS - 1, 1)
            assert refresh().held == 1
        assert PendingRevocation.objects.get() == locked

    def test_a_row_that_a_foreign_key_refers_to_is_not_locked(self, provider: Provider) -> None:
        if not connection.features.has_select_for_no_key_update:
            pytest.skip("only PostgreSQL has a lock for that")
        (row,) = make_due_connections(1)

        def refer() -> None:
            # What an INSERT does that refers to the row.
            with connection.cursor() as cursor:
                table = LeadExecConnection._meta.db_table
                cursor.execute(f"SELECT 1 FROM {table} WHERE id = %s FOR KEY SHARE", [row.pk])  # noqa: S608

        with Caller(refer) as caller:
            caller.wait_for_lock()
            assert refresh().refreshed == 1


class TestRelease:
    def test_a_claim_is_given_back_when_the_lock_ends_soon(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(leases, "RELEASE_PATIENCE", 120)
        locked, _other = make_due_connections(2)
        claims = rows.order_by("pk").claim(2, 60)
        with Caller(partial(lock_it, locked)) as caller:
            caller.wait_for_lock()
            releasing = begin(lambda: rows.all().release(claims))
            wait_until(lambda: leased() == [locked.pk])
            caller.commit()
            assert releasing.result() is None
        assert leased() == []

    def test_a_claim_whose_row_stays_locked_ends_by_itself(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(leases, "RELEASE_PATIENCE", 0.1)
        locked, _other = make_due_connections(2)
        claims = rows.order_by("pk").claim(2, 60)
        with Caller(partial(lock_it, locked)) as caller:
            caller.wait_for_lock()
            rows.all().release(claims)
            assert leased() == [locked.pk]
        assert leased() == [locked.pk]


class TestMassRevocation:
    def test_a_locked_row_costs_no_other(
        self, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("django_leadexec.mass_revocation.LOCK_PATIENCE", 0.5)
        locked, *_others = make_due_connections(ROWS)
        revocation = MassRevocation("default", None, stop=threading.Event())
        with Caller(partial(lock_it, locked)) as caller:
            caller.wait_for_lock()
            report = revocation.run(60)
        assert (report.revoked, report.confirmed, report.left) == (ROWS - 1, ROWS - 1, 1)
        assert rows.live().get() == locked

    def test_a_row_that_is_free_in_time_is_revoked_as_well(self, provider: Provider) -> None:
        locked, *_others = make_due_connections(ROWS)
        revocation = MassRevocation("default", None, stop=threading.Event())
        caller = Caller(partial(lock_it, locked))

        def commit_when_the_others_are_revoked() -> None:
            wait_until(lambda: rows.live().count() == 1)
            caller.commit()

        with caller:
            caller.wait_for_lock()
            releasing = begin(commit_when_the_others_are_revoked)
            report = revocation.run(60)
        assert releasing.result() is None
        assert (report.revoked, report.left) == (ROWS, 0)


class TestWatch:
    def test_a_locked_row_holds_nobody_up(self, provider: Provider) -> None:
        (locked,) = make_due_connections(1)
        refresher = Refresher(Options.for_all("default", watching=True))
        reports: list[Report] = []
        provider.held.set()

        lock_and_go_on = then_answer(lambda: lock_it(locked), provider)

        def look_on() -> None:
            caller.wait_for_lock()
            later = make_connection("later", expires_in=-1)
            wait_until(lambda: rows.get(pk=later.pk).lives(3000))
            # A page is not held up, either.
            another = make_connection("another", expires_in=-1)
            assert rows.get(pk=another.pk).get_access_token()
            assert not rows.get(pk=locked.pk).lives(0)
            caller.commit()
            wait_until(lambda: rows.get(pk=locked.pk).lives(3000))
            refresher.stop.set()

        with Caller(lock_and_go_on, when=lambda: provider.refreshes["token-0"]) as caller:
            looking = begin(look_on)
            with stopping_in_time(refresher):
                refresher.watch(reports.append, every=60)
        assert looking.result() is None
        (report,) = reports
        assert (report.failed, report.database_failed) == (0, False)
        assert provider.refreshes["token-0"] == 1

    def test_a_watch_that_ends_counts_what_it_could_not_write(self, provider: Provider) -> None:
        (locked,) = make_due_connections(1)
        refresher = Refresher(Options.for_all("default", watching=True))
        reports: list[Report] = []
        provider.held.set()

        lock_and_go_on = then_answer(lambda: lock_it(locked), provider)

        def stop() -> None:
            caller.wait_for_lock()
            wait_until(lambda: len(refresher.recorded) == 1)
            refresher.stop.set()

        with Caller(lock_and_go_on, when=lambda: provider.refreshes["token-0"]) as caller:
            stopping = begin(stop)
            with stopping_in_time(refresher):
                refresher.watch(reports.append, every=60)
        assert stopping.result() is None
        assert [report.failed for report in reports] == [1]

    def test_an_answer_is_dropped_with_its_lease(self, provider: Provider) -> None:
        (locked,) = make_due_connections(1)
        refresher = Refresher(Options.for_all("default", watching=True))
        refresher.recorded.add_connection(
            rows.order_by("pk").claim(1, -CLOCK_SKEW)[0], Fresh(Secret("late"), time.time() + 60)
        )
        reports: list[Report] = []
        with Caller(partial(lock_it, locked)) as caller:
            caller.wait_for_lock()

            def look(report: Report) -> None:
                reports.append(report)
                if report.failed:
                    refresher.stop.set()

            with stopping_in_time(refresher):
                refresher.watch(look, every=0.1)
        assert sum(report.failed for report in reports) == 1


class TestCommand:
    def start(self, provider: Provider, *flags: str, lock_timeout: int = 1500) -> Any:
        """``lock_timeout``: PostgreSQL's, in milliseconds. Many sites let no page wait long."""
        url = processes.database_url()
        if connection.vendor == "postgresql":
            options = f"-c lock_timeout={lock_timeout}"
            url = f"{url.partition('?')[0]}?options={quote(options)}"
        arguments = ("refresh_leadexec_tokens", "--json", f"--workers={ROWS}", *flags)
        return processes.start_module(provider, "django", *arguments, DATABASE_URL=url)

    def test_one_locked_row_ends_in_1_and_the_next_run_says_what_it_found(
        self, provider: Provider
    ) -> None:
        locked, *_others = make_due_connections(ROWS)
        provider.held.set()
        process = self.start(provider)
        wait_until(lambda: all_are_under_way(provider))
        with Caller(partial(lock_it, locked)) as caller:
            caller.wait_for_lock()
            provider.held.clear()
            out, err = process.communicate(timeout=120)
            assert (process.returncode, json.loads(out)["refreshed"]) == (1, ROWS - 1), err
            assert "1 failed and 0 were left" in err
            process = self.start(provider)
            out, err = process.communicate(timeout=120)
        counts = json.loads(out)
        assert (process.returncode, counts["refreshed"], counts["held"]) == (0, 0, 1), err

    @pytest.mark.parametrize("flags", [(), ("--watch",)])
    def test_a_signal_is_heeded_while_a_row_is_locked(
        self, provider: Provider, flags: tuple[str, ...]
    ) -> None:
        locked, *_others = make_due_connections(ROWS)
        provider.held.set()
        process = self.start(provider, *flags)
        wait_until(lambda: all_are_under_way(provider))
        with Caller(partial(lock_it, locked)) as caller:
            caller.wait_for_lock()
            provider.held.clear()
            wait_until(lambda: rows.filter(expires_at=None).count() == 1)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=120)  # the lock is still held
        counts = json.loads(out.splitlines()[-1])
        assert (counts["refreshed"], counts["failed"]) == (ROWS - 1, 1), err
        assert process.returncode == (0 if flags else 1)
        assert leased() == [locked.pk]

    def test_a_signal_is_heeded_while_the_database_does_not_answer_at_all(
        self, provider: Provider
    ) -> None:
        make_due_connections(1)
        process = self.start(provider, "--watch", lock_timeout=0)
        wait_until(lambda: rows.get().lives(3000))
        with Caller(lock_the_table) as caller:
            caller.wait_for_lock()
            wait_until(somebody_waits_for_the_table)
            process.send_signal(signal.SIGTERM)
            _out, err = process.communicate(timeout=60)  # the lock is still held
        assert process.returncode == 2
        assert "The database has not answered" in err


class TestPage:
    def test_a_page_gets_the_token_that_could_not_be_stored(
        self, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lifecycle, "WRITE_PATIENCE", 0.3)
        row = make_connection("t", expires_in=-1)
        provider.held.set()

        lock_and_go_on = then_answer(lambda: lock_it(row), provider)

        with Caller(lock_and_go_on, when=lambda: provider.refreshes["t"]):
            assert row.get_access_token() == "access-1-for-t"
            assert not rows.get().lives(0)

    def test_a_page_stores_it_when_the_lock_ends_soon(self, provider: Provider) -> None:
        row = make_connection("t", expires_in=-1)
        provider.held.set()
        is_asked = threading.Event()

        def lock_and_go_on() -> None:
            lock_it(row)
            provider.held.clear()
            is_asked.set()

        caller = Caller(lock_and_go_on, when=lambda: provider.refreshes["t"])
        with caller:
            page = begin(lambda: rows.get(pk=row.pk).get_access_token())
            wait_until(is_asked.is_set)
            time.sleep(0.3)
            caller.commit()
            assert page.result() == "access-1-for-t"
        assert plain(rows.get().access_token) == "access-1-for-t"
        assert leased() == []

    def test_a_page_without_a_token_says_that_it_has_to_wait(
        self, provider: Provider, short_patience: None
    ) -> None:
        row = make_connection("t", expires_in=-1)
        with Caller(partial(lock_it, row)) as caller:
            caller.wait_for_lock()
            with pytest.raises(ProviderUnavailable):
                row.get_access_token()
        assert not provider.refreshes

    def test_a_revocation_says_that_it_has_to_wait(
        self, provider: Provider, short_patience: None
    ) -> None:
        row = make_connection("t")
        with Caller(partial(lock_it, row)) as caller:
            caller.wait_for_lock()
            with pytest.raises(ConnectionBusy):
                row.revoke()
        assert rows.get().status == "active"
        assert row.revoke()

    def test_a_callers_transaction_outlives_a_revocation_that_has_to_wait(
        self, provider: Provider, short_patience: None
    ) -> None:
        row = make_connection("t")
        with Caller(partial(lock_it, row)) as caller:
            caller.wait_for_lock()
            with transaction.atomic():
                make_user("new")
                with pytest.raises(ConnectionBusy):
                    row.revoke()
                make_user("newer")
        assert rows.get().status == "active"

    def test_the_disconnect_view_says_so(
        self, provider: Provider, short_patience: None, client: Client
    ) -> None:
        row = make_connection("t")
        client.force_login(row.user, backend=LOGIN)
        with Caller(partial(lock_it, row)) as caller:
            caller.wait_for_lock()
            response = client.post(
                reverse("leadexec:disconnect"), {}, content_type="application/json"
            )
            page = client.post(reverse("leadexec:disconnect"))
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "busy"
        assert page.status_code == 302
        (message,) = get_messages(page.wsgi_request)
        assert "in use just now" in str(message)
        assert rows.get().status == "active"

    def test_a_sign_out_waits_no_longer_and_then_says_that_it_has_failed(
        self, provider: Provider, short_patience: None, client: Client
    ) -> None:
        # It must not go through: the browser would still be one that its user returns to.
        row = make_connection("t")
        client.force_login(row.user, backend=LOGIN)
        with Caller(partial(lock_it, row)) as caller:
            caller.wait_for_lock()
            sign_out = begin(lambda: client.post("/accounts/logout/"))
            assert isinstance(sign_out.result(), ConnectionBusy)
        assert "_auth_user_id" in client.session
        client.post("/accounts/logout/")
        assert "_auth_user_id" not in client.session
        assert rows.get().sign_outs == 1

    def test_a_sign_out_goes_through_beside_rows_that_refer_to_the_connection(
        self, provider: Provider, short_patience: None, client: Client
    ) -> None:
        if connection.vendor != "postgresql":
            pytest.skip("only PostgreSQL has a lock that allows it")
        row = make_connection("t")
        client.force_login(row.user, backend=LOGIN)

        def refer_to_it() -> None:
            with connection.cursor() as cursor:
                table = LeadExecConnection._meta.db_table
                cursor.execute(f"SELECT 1 FROM {table} FOR KEY SHARE")  # noqa: S608

        with Caller(refer_to_it) as caller:
            caller.wait_for_lock()
            sign_out = begin(lambda: client.post("/accounts/logout/"))
            assert getattr(sign_out.result(), "status_code", None) == 200
        assert rows.get().sign_outs == 1

    def test_a_link_does_not_wait_for_a_row_that_was_moved_to_another_user(
        self, provider: Provider, short_patience: None
    ) -> None:
        row = make_connection("t")
        before = row.user
        rows.update(user=make_user("heir"))
        with Caller(partial(lock_it, row)) as caller:
            caller.wait_for_lock()
            adoption = begin(lambda: rows.adopt(before, "new"))
            assert isinstance(adoption.result(), ConnectionBusy)
        assert rows.adopt(before, "new").user == before


def test_a_locked_revocation_keeps_no_other_from_being_sent_by_hand(
    provider: Provider, short_patience: None
) -> None:
    for token in ("mine", "other"):
        make_connection(token).user.delete()
    mine = PendingRevocation.objects.order_by("pk").first()
    assert mine

    def lock_the_entry() -> None:
        PendingRevocation.objects.select_for_update().get(pk=mine.pk)

    with Caller(lock_the_entry) as caller:
        caller.wait_for_lock()
        keys = list(PendingRevocation.objects.values_list("pk", flat=True))
        sending = begin(lambda: send_chosen(keys, "default", 5))
        assert sending.result() == (1, 1)
    assert provider.revoked == {"other"}


@pytest.mark.parametrize("atomic_requests", [False, True])
@pytest.mark.parametrize("action", ["revoke_selected", "delete_selected"])
def test_an_action_of_the_admin_says_that_a_row_is_in_use(
    provider: Provider,
    short_patience: None,
    admin_client: Client,
    monkeypatch: pytest.MonkeyPatch,
    action: str,
    atomic_requests: bool,
) -> None:
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", atomic_requests)
    row, other = make_connection("t"), make_connection("other")
    url = reverse("admin:django_leadexec_leadexecconnection_changelist")
    form = {"action": action, "_selected_action": [row.pk, other.pk], "post": "yes"}
    with Caller(partial(lock_it, row)) as caller:
        caller.wait_for_lock()
        page = admin_client.post(url, form)
    assert page.status_code == 302
    assert "in use just now" in str(*get_messages(page.wsgi_request))
    assert rows.active().count() == 2
    assert not LogEntry.objects.exists()


def test_the_admins_page_that_deletes_a_connection_says_that_it_is_in_use(
    provider: Provider, short_patience: None, admin_client: Client
) -> None:
    row = make_connection("t")
    url = reverse("admin:django_leadexec_leadexecconnection_delete", args=[row.pk])
    with Caller(partial(lock_it, row)) as caller:
        caller.wait_for_lock()
        page = admin_client.post(url, {"post": "yes"})
    assert (page.status_code, page.url) == (302, url)  # type: ignore[attr-defined]
    assert "in use just now" in str(*get_messages(page.wsgi_request))
    assert rows.active().count() == 1
