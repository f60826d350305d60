"""Revoking the connections of some users, or of all, from the command line."""

import io
import json
import logging
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_leadexec import mass_revocation
from django_leadexec.conf import new_key
from django_leadexec.conflicts import LOCK_PATIENCE
from django_leadexec.mass_revocation import MassRevocation
from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.refresh import Refresher

from ... import processes
from ... import provider as stand_in
from ...factories import make_connection, make_due_connections, make_user
from ...provider import Provider
from ...security import canaries

pytestmark = pytest.mark.django_db(transaction=True)

live = LeadExecConnection.objects.live
outbox = PendingRevocation.objects


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def revoke(*flags: str) -> tuple[int, dict[str, Any], str]:
    """The exit code, the counts, and what stands on stderr. A busy machine has time to send all."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    given = ("--no-input", "--json", "--seconds=600", *flags)
    try:
        call_command("leadexec_revoke", *given, stdout=out, stderr=err)
    except CommandError as error:
        code = error.returncode
        err.write(str(error))
    return code, json.loads(out.getvalue() or "{}"), err.getvalue()


def counted(counts: dict[str, Any]) -> tuple[int, int, int]:
    return counts["revoked"], counts["confirmed"], counts["queued"]


@pytest.fixture
def ada() -> Any:
    return make_user("ada")


@pytest.fixture
def bob() -> Any:
    return make_user("bob")


def test_it_revokes_all_connections_of_the_users_it_is_given(
    provider: Provider, ada: Any, bob: Any
) -> None:
    make_connection("t1", user=ada, account_id="acme")
    make_connection("t2", user=ada, account_id="zenith")
    make_connection("t3", user=bob)
    other = make_connection("t4")
    code, counts, _ = revoke("--user=ada", "--user=bob")
    assert (code, counted(counts)) == (0, (3, 3, 0))
    assert provider.revoked == {"t1", "t2", "t3"}
    assert live().get() == other


def test_users_from_a_file(provider: Provider, tmp_path: Path, ada: Any, bob: Any) -> None:
    make_connection("t1", user=ada)
    make_connection("t2", user=bob)
    other = make_connection("t3")
    names = tmp_path / "names"
    names.write_text("\ufeffada\r\n\r\n  bob \nada\n", "utf-8")
    code, counts, _ = revoke(f"--users-from={names}")
    assert (code, counted(counts)) == (0, (2, 2, 0))
    assert live().get() == other


def test_an_unknown_user_is_named_and_keeps_nobody_else(provider: Provider, ada: Any) -> None:
    make_connection("t1", user=ada)
    code, counts, err = revoke("--user=ada", "--user=adda")
    assert (code, counted(counts)) == (1, (1, 1, 0))
    assert counts["unknown_users"] == 1
    assert "There is no user 'adda'." in err


@pytest.mark.slow
def test_all_users_and_what_waited_already(provider: Provider) -> None:
    make_connection("waiting")
    LeadExecConnection.objects.all().move_to_outbox()
    make_due_connections(700)
    code, counts, _ = revoke("--all")
    assert (code, counted(counts)) == (0, (700, 701, 0))
    assert not live().exists()
    assert not outbox.exists()


def test_what_leadexec_does_not_confirm_stays_queued_and_can_not_be_used(
    provider: Provider, ada: Any
) -> None:
    make_connection("t1", user=ada)
    provider.answers["disconnect t1"] = stand_in.unavailable
    code, counts, _ = revoke("--user=ada")
    assert (code, counted(counts)) == (1, (1, 0, 1))
    assert not live().exists()
    assert outbox.get().attempts == 1


def test_revocations_that_no_key_opens_exit_with_2_each_time(
    provider: Provider, ada: Any, configure: Callable[..., None]
) -> None:
    make_connection("t1", user=ada)
    configure(ENCRYPTION_KEYS=[new_key()])
    for revoked in (1, 0):
        code, counts, err = revoke("--user=ada")
        assert (code, counted(counts), counts["unreadable"]) == (2, (revoked, 0, 1), 1)
        assert "none of LEADEXEC['ENCRYPTION_KEYS']: 1." in err
    assert not live().exists()


def test_what_is_queued_is_sent_and_counted_when_it_is_started_again(
    provider: Provider, ada: Any
) -> None:
    make_connection("t1", user=ada)
    make_connection("of-another-user").revoke()
    LeadExecConnection.objects.live().move_to_outbox()
    code, counts, _ = revoke("--user=ada", "--seconds=0")
    assert (code, counted(counts)) == (1, (0, 0, 1))
    code, counts, _ = revoke("--user=ada")
    assert (code, counted(counts)) == (0, (0, 1, 0))
    code, counts, _ = revoke("--user=ada")
    assert (code, counted(counts)) == (0, (0, 0, 0))


def test_a_connection_that_is_deleted_meanwhile_still_counts_as_queued(
    provider: Provider, ada: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_connection("t1", user=ada)
    provider.answers["disconnect t1"] = stand_in.unavailable
    run = Refresher.run

    def delete_first(refresher: Refresher) -> Any:
        LeadExecConnection.objects.all().delete()
        return run(refresher)

    monkeypatch.setattr(Refresher, "run", delete_first)
    code, counts, _ = revoke("--user=ada")
    assert (code, counted(counts)) == (1, (1, 0, 1))


def test_more_users_than_one_statement_takes_are_revoked_and_sent(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, ada: Any
) -> None:
    monkeypatch.setattr(mass_revocation, "CHUNK_SIZE", 2)
    made = make_due_connections(7)
    make_connection("of-another")
    for row in made[:3]:
        provider.answers[f"disconnect {row.refresh_token.decrypt().reveal()}"] = stand_in.reset
        row.revoke()
    provider.answers.clear()
    PendingRevocation.objects.update(retry_after=timezone.now())
    report = MassRevocation("default", [row.user_id for row in made], stop=threading.Event()).run(
        60
    )
    assert (report.revoked, report.confirmed, report.queued) == (4, 7, 0)
    assert live().count() == 1


def test_what_leadexec_has_not_confirmed_yet_is_never_told_as_confirmed(
    provider: Provider, ada: Any
) -> None:
    make_connection("t1", user=ada)
    provider.answers["disconnect t1"] = stand_in.unavailable
    assert revoke("--user=ada")[0] == 1
    # It is not due again yet.
    code, counts, _ = revoke("--user=ada")
    assert (code, counted(counts)) == (1, (0, 0, 1))


def test_without_seconds_all_of_it_is_queued(provider: Provider) -> None:
    make_due_connections(3)
    code, counts, _ = revoke("--all", "--seconds=0")
    assert (code, counted(counts)) == (1, (3, 0, 3))
    assert not provider.calls


@pytest.mark.slow
def test_a_thousand_rows_take_few_statements(provider: Provider) -> None:
    make_due_connections(1_000)
    with CaptureQueriesContext(connection) as queries:
        revoke("--all", "--seconds=0")
    # Two transactions, whose statements take as many rows as SQLite allows.
    assert len(queries) < 80
    assert not live().exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Say whose"),
        (["--all", "--user=ada"], "Say whose"),
        (["--all", "--database=none"], "no such database"),
        (["--users-from=/nonexistent/names"], "can't be read"),
    ],
)
def test_what_can_not_run(provider: Provider, flags: list[str], message: str) -> None:
    make_connection("t1")
    with pytest.raises(CommandError, match=message) as caught:
        call_command("leadexec_revoke", "--no-input", *flags)
    assert caught.value.returncode == 2
    assert live().exists()


def test_a_list_of_users_that_is_no_text(provider: Provider, tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_bytes(b"\xff\xfe")
    with pytest.raises(CommandError, match="must be UTF-8") as caught:
        call_command("leadexec_revoke", "--no-input", f"--users-from={names}")
    assert caught.value.returncode == 2


def ask(monkeypatch: pytest.MonkeyPatch, answer: str | None) -> None:
    """Let somebody at a terminal type that answer; None for nobody who types anything."""

    def read() -> str:
        if answer is None:
            raise EOFError
        return answer

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("builtins.input", read)


@pytest.mark.parametrize("answer", ["no", "", "y", None])
def test_nothing_is_revoked_before_a_yes(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, answer: str | None
) -> None:
    make_connection("t1")
    ask(monkeypatch, answer)
    err = io.StringIO()
    with pytest.raises(CommandError, match="Nothing was revoked") as caught:
        call_command("leadexec_revoke", "--all", stderr=err)
    assert caught.value.returncode == 2
    assert "Connections to end: 1." in err.getvalue()
    assert live().exists()


def test_after_a_yes_it_revokes(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    make_connection("t1")
    ask(monkeypatch, "yes")
    out = io.StringIO()
    call_command("leadexec_revoke", "--all", stdout=out, stderr=Terminal())
    assert out.getvalue().startswith("1 revoked, 1 of the revocations confirmed by LeadExec, 0 ")
    assert not live().exists()


def test_where_nobody_can_be_asked_it_wants_to_be_told(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_connection("t1")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(CommandError, match="--no-input") as caught:
        call_command("leadexec_revoke", "--all", stderr=io.StringIO())
    assert caught.value.returncode == 2
    assert live().exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_a_signal_lets_it_finish_what_is_in_flight(
    provider: Provider, number: signal.Signals
) -> None:
    make_due_connections(60)
    provider.held.set()
    process = processes.start(provider, "leadexec_revoke", "--all", "--no-input", "--json")
    processes.wait_until(lambda: provider.calls["disconnectapplicationtoken"] >= 1)
    process.send_signal(number)
    processes.wait_until_handled(process)
    provider.held.clear()
    out, err = process.communicate(timeout=120)
    counts = json.loads(out)
    assert process.returncode == 1, err
    assert counts["revoked"] == 60
    assert counts["confirmed"] + counts["queued"] == 60
    assert counts["queued"] == outbox.count() > 0
    assert "Traceback" not in err


def test_no_token_is_in_output_or_logs(
    provider: Provider, ada: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    good, bad = canaries.make_canary("good"), canaries.make_canary("bad")
    make_connection(good, user=ada, account_id="acme")
    make_connection(bad, user=ada, account_id="zenith")
    provider.answers[f"disconnect {bad}"] = stand_in.unavailable
    said = str(revoke("--user=ada", "-v3")) + caplog.text
    assert canaries.find(said, good, bad) == []


def test_a_row_that_was_locked_in_a_long_first_pass_is_tried_again(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_connection("t")
    now = [1_000.0]
    monkeypatch.setattr(mass_revocation, "monotonic", lambda: now[0])
    revoke_part = MassRevocation._revoke

    def lock_all_and_take_long(revocation: MassRevocation, rows: Any) -> int:
        now[0] += 2 * LOCK_PATIENCE
        monkeypatch.setattr(MassRevocation, "_revoke", revoke_part)
        return 0

    monkeypatch.setattr(MassRevocation, "_revoke", lock_all_and_take_long)
    report = MassRevocation("default", None, stop=threading.Event()).run(60)
    assert (report.revoked, report.left) == (1, 0)
