"""Rows whose answers the database does not take: one such row is one row's trouble."""

import pytest
from django.core.management import CommandError, call_command

from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.refresh import Options, Refresher, Report

from ..bounded_watch import stopping_in_time
from ..concurrency.threads import begin
from ..factories import is_leased, make_connection, make_due_connections, plain
from ..processes import wait_until
from ..provider import Provider, refused, unavailable
from .refusing_rows import refusing

pytestmark = pytest.mark.django_db(transaction=True)

rows = LeadExecConnection.objects
entries = PendingRevocation.objects
ROWS = 10
# The row takes no other token. It can be claimed, released, and put off.
NO_TOKEN = "OLD.access_token <> NEW.access_token"
# The row can be claimed, and takes nothing that would release it.
NO_RELEASE = "OLD.lease_until >= NEW.lease_until"
NOT_TAKEN = "the database does not take the answer"


def refresh() -> Report:
    return Refresher(Options.for_all("default")).run()


class TestRun:
    def test_a_row_that_takes_no_answer_costs_no_other_and_is_put_off(
        self, provider: Provider, caplog: pytest.LogCaptureFixture
    ) -> None:
        bad, *_others = make_due_connections(ROWS)
        with refusing(bad, "UPDATE", NO_TOKEN):
            report = refresh()
            assert (report.refreshed, report.failed, report.left) == (ROWS - 1, 1, 0)
            assert refresh().failed == 0  # it is not due yet
        bad.refresh_from_db()
        assert all(row.lives(3000) for row in rows.exclude(pk=bad.pk))
        assert (bad.status, bad.attempts, plain(bad.refresh_token)) == ("active", 1, "token-0")
        assert bad.last_error == f"Not refreshed: {NOT_TAKEN}"
        assert not any(is_leased(row) for row in rows.all())
        assert set(provider.refreshes.values()) == {1}
        (said,) = [it.getMessage() for it in caplog.records if it.levelname == "ERROR"]
        assert f"LeadExec connection {bad.pk} " in said
        assert "token" not in said

    def test_a_row_that_takes_no_refusal_costs_no_other(self, provider: Provider) -> None:
        bad, *_others = make_due_connections(ROWS)
        provider.answers["token-0"] = refused
        with refusing(bad, "UPDATE", "OLD.status <> NEW.status"):
            report = refresh()
        assert (report.refreshed, report.rejected, report.failed) == (ROWS - 1, 0, 1)
        bad.refresh_from_db()
        assert (bad.status, bad.rejected_at, bad.attempts) == ("active", None, 1)

    def test_a_row_that_can_not_even_be_released_costs_no_other(self, provider: Provider) -> None:
        bad, *_others = make_due_connections(ROWS)
        with refusing(bad, "UPDATE", NO_RELEASE):
            report = refresh()
        assert (report.refreshed, report.failed, report.left) == (ROWS - 1, 1, 0)
        assert [row.pk for row in rows.all() if is_leased(row)] == [bad.pk]
        assert set(provider.refreshes.values()) == {1}

    def test_the_command_says_that_one_has_failed(self, provider: Provider) -> None:
        (bad,) = make_due_connections(1)
        with refusing(bad, "UPDATE", NO_TOKEN), pytest.raises(CommandError) as raised:
            call_command("refresh_leadexec_tokens", verbosity=0)
        assert str(raised.value) == "1 failed and 0 were left; they are tried again."
        assert raised.value.returncode == 1

    def test_with_all_rows_the_row_is_asked_about_once(self, provider: Provider) -> None:
        bad, *_others = make_due_connections(ROWS)
        with refusing(bad, "UPDATE", NO_TOKEN):
            report = Refresher(Options.for_all("default", everything=True)).run()
        assert (report.refreshed, report.failed, report.left) == (ROWS - 1, 1, 0)
        assert set(provider.refreshes.values()) == {1}


class TestRevocations:
    def test_an_entry_that_stays_costs_no_other_and_is_put_off(self, provider: Provider) -> None:
        make_due_connections(ROWS)
        rows.move_to_outbox()
        bad = entries.earliest("pk")
        with refusing(bad, "DELETE"):
            report = refresh()
            assert (report.revoked, report.failed, report.left) == (ROWS - 1, 1, 0)
            assert refresh().failed == 0  # it is not due yet
        assert entries.get() == bad
        bad.refresh_from_db()
        assert (bad.attempts, bad.last_error) == (1, f"Not revoked: {NOT_TAKEN}")
        assert not is_leased(bad)
        assert provider.calls["disconnectapplicationtoken"] == ROWS

    def test_an_entry_that_can_not_even_be_released_costs_no_other(
        self, provider: Provider
    ) -> None:
        make_due_connections(ROWS)
        rows.move_to_outbox()
        bad = entries.earliest("pk")
        provider.answers["disconnect token-0"] = unavailable
        with refusing(bad, "UPDATE", NO_RELEASE):
            report = refresh()
        assert (report.revoked, report.failed) == (ROWS - 1, 1)
        bad.refresh_from_db()
        assert is_leased(bad)


class TestWatch:
    @pytest.mark.parametrize("condition", [NO_TOKEN, NO_RELEASE])
    def test_a_row_that_takes_no_answer_holds_nobody_up(
        self, provider: Provider, condition: str
    ) -> None:
        bad, *others = make_due_connections(ROWS)
        refresher = Refresher(Options.for_all("default", watching=True))
        reports: list[Report] = []

        def look_on() -> None:
            wait_until(lambda: provider.refreshes["token-0"])
            later = make_connection("later", expires_in=-1)
            other_keys = [row.pk for row in (*others, later)]
            wait_until(lambda: all(row.lives(3000) for row in rows.filter(pk__in=other_keys)))
            refresher.stop.set()

        with refusing(bad, "UPDATE", condition), stopping_in_time(refresher):
            looking = begin(look_on)
            refresher.watch(reports.append, every=60)
        assert looking.result() is None
        (report,) = reports
        assert (report.refreshed, report.failed, report.database_failed) == (ROWS, 1, False)
        assert provider.refreshes["token-0"] == 1
