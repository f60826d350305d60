"""SQLite locks no rows but the whole database: everybody waits for one transaction of the site."""

import json
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from django.db import connection

from django_leadexec import conflicts, lifecycle
from django_leadexec.exceptions import ConnectionBusy, ProviderUnavailable
from django_leadexec.models import LeadExecConnection
from django_leadexec.refresh import Options, Refresher, Report

from .. import processes
from ..bounded_watch import stopping_in_time
from ..concurrency.threads import begin
from ..factories import is_leased, make_connection, make_due_connections, make_user
from ..processes import wait_until
from ..provider import Provider
from .callers import Caller, then_answer

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.sqlite]

rows = LeadExecConnection.objects
ROWS = 20


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This thread waits a tenth of a second for a lock, and tries again for half a second."""
    monkeypatch.setattr(conflicts, "LOCK_PATIENCE", 0.5)
    monkeypatch.setattr(lifecycle, "WRITE_PATIENCE", 0.5)
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 100")
    yield
    connection.close()


def refresh() -> Report:
    return Refresher(Options.for_all("default", workers=ROWS)).run()


def test_a_run_that_finds_the_database_locked_leaves_its_rows(
    provider: Provider, configure: Callable[..., None]
) -> None:
    configure(TIMEOUT=1)
    make_due_connections(ROWS)
    with Caller(make_user) as caller:
        caller.wait_for_lock()
        report = refresh()
    assert (report.refreshed, report.failed, report.left) == (0, 0, ROWS)
    assert refresh().refreshed == ROWS


def test_answers_wait_for_the_lock_and_are_written_by_the_same_run(provider: Provider) -> None:
    make_due_connections(ROWS)
    provider.held.set()
    caller = Caller(then_answer(make_user, provider), when=lambda: len(provider.refreshes) == ROWS)

    def commit_in_a_while() -> None:
        caller.wait_for_lock()
        time.sleep(2)
        caller.commit()

    with caller:
        releasing = begin(commit_in_a_while)
        report = refresh()
    assert releasing.result() is None
    assert (report.refreshed, report.failed, report.left) == (ROWS, 0, 0)
    assert set(provider.refreshes.values()) == {1}
    assert not any(is_leased(row) for row in rows.all())


def test_a_watch_outlives_a_locked_database_and_loses_no_answer(provider: Provider) -> None:
    make_due_connections(ROWS)
    provider.held.set()
    refresher = Refresher(Options.for_all("default", watching=True, workers=ROWS))
    reports: list[Report] = []
    caller = Caller(then_answer(make_user, provider), when=lambda: len(provider.refreshes) == ROWS)

    def commit_and_stop() -> None:
        caller.wait_for_lock()
        wait_until(lambda: len(refresher.recorded))
        time.sleep(2)
        caller.commit()
        wait_until(lambda: not rows.filter(expires_at=None).exists())
        refresher.stop.set()

    with caller:
        looking = begin(commit_and_stop)
        with stopping_in_time(refresher):
            refresher.watch(reports.append, every=60)
    assert looking.result() is None
    (report,) = reports
    assert (report.refreshed, report.failed, report.database_failed) == (ROWS, 0, False)
    assert set(provider.refreshes.values()) == {1}


def test_a_page_gets_the_token_that_could_not_be_stored(provider: Provider) -> None:
    row = make_connection("t", expires_in=-1)
    provider.held.set()
    with Caller(then_answer(make_user, provider), when=lambda: provider.refreshes["t"]):
        assert row.get_access_token() == "access-1-for-t"


def test_a_page_that_can_claim_nothing_says_that_it_has_to_wait(provider: Provider) -> None:
    row = make_connection("t", expires_in=-1)
    with Caller(make_user) as caller:
        caller.wait_for_lock()
        with pytest.raises(ProviderUnavailable):
            row.get_access_token()
    assert not provider.refreshes


def test_a_revocation_says_that_it_has_to_wait(provider: Provider) -> None:
    row = make_connection("t")
    with Caller(make_user) as caller:
        caller.wait_for_lock()
        with pytest.raises(ConnectionBusy):
            row.revoke()
    assert rows.get().status == "active"


def test_a_signal_is_heeded_while_the_database_is_locked(provider: Provider) -> None:
    make_due_connections(ROWS)
    provider.held.set()
    # The tests' settings let a command wait for twenty seconds.
    process = processes.start(
        provider, "refresh_leadexec_tokens", "--watch", "--json", f"--workers={ROWS}"
    )
    wait_until(lambda: len(provider.refreshes) == ROWS)
    with Caller(then_answer(make_user, provider)) as caller:
        caller.wait_for_lock()
        time.sleep(1)  # it begins to write
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)  # the lock is still held
    assert (process.returncode, out) == (2, ""), json.dumps(err)
    assert "The database has not answered" in err
