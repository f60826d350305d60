"""The command's flags, output and exit codes. What a run does is in test_refresh."""

import io
import json
import signal
import time
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from django_leadexec import refresh
from django_leadexec.models import LeadExecConnection

from ... import processes
from ... import provider as stand_in
from ...factories import make_connection, make_due_connections
from ...provider import Provider

pytestmark = pytest.mark.django_db(transaction=True)

KEYS = {"refreshed", "rejected", "failed", "skipped", "revoked", "pending", "seconds"}


def run(*flags: str) -> str:
    out = io.StringIO()
    call_command("refresh_leadexec_tokens", *flags, stdout=out, stderr=io.StringIO())
    return out.getvalue()


def run_json(*flags: str) -> dict[str, Any]:
    counts: dict[str, Any] = json.loads(run("--json", *flags).splitlines()[-1])
    return counts


def fail(*flags: str) -> CommandError:
    with pytest.raises(CommandError) as caught:
        run(*flags)
    return caught.value


def test_it_says_what_it_did(provider: Provider) -> None:
    make_due_connections(3)
    assert run().startswith("3 refreshed, 0 rejected, 0 failed, 0 skipped, 0 revoked, 0 ")


def test_json_is_one_object_with_the_documented_keys(provider: Provider) -> None:
    make_due_connections(3)
    counts = run_json()
    assert counts.keys() >= KEYS
    assert counts["refreshed"] == 3


def test_a_dry_run_calls_nobody(provider: Provider) -> None:
    make_due_connections(3)
    assert run("--dry-run") == "Due: 3 to refresh, 0 to revoke.\n"
    assert run_json("--dry-run")["due"] == 3
    assert not provider.calls


def test_it_exits_with_1_when_some_are_left_to_retry(provider: Provider) -> None:
    make_connection("good", expires_in=-1)
    make_connection("bad", expires_in=-1)
    provider.answers["bad"] = stand_in.unavailable
    error = fail()
    assert error.returncode == 1
    assert "1 failed" in str(error)


def test_refusals_are_no_failure(provider: Provider) -> None:
    make_connection("bad", expires_in=-1)
    provider.answers["bad"] = stand_in.refused
    assert run_json()["rejected"] == 1


def test_it_exits_with_2_and_names_the_app_id_when_everybody_is_refused(
    provider: Provider,
) -> None:
    make_due_connections(60)
    provider.default = stand_in.refused
    error = fail()
    assert error.returncode == 2
    assert "APP_ID" in str(error)
    assert LeadExecConnection.objects.active().count() == 60


@pytest.mark.parametrize(
    ("change", "message"),
    [({"ENCRYPTION_KEYS": ["no key"]}, "ENCRYPTION_KEYS"), ({"APP_ID": ""}, "APP_ID")],
)
def test_it_exits_with_2_when_it_is_not_configured(
    settings: Settings, change: dict[str, Any], message: str
) -> None:
    settings.LEADEXEC = settings.LEADEXEC | change
    error = fail()
    assert error.returncode == 2
    assert message in str(error)


def test_it_exits_with_2_for_an_unknown_database(provider: Provider) -> None:
    assert fail("--database", "nowhere").returncode == 2


@pytest.mark.parametrize(
    "flags",
    [
        ("--workers", "0"),
        ("--workers", "many"),
        ("--batch-size", "0"),
        ("--limit", "-1"),
        ("--rate", "0"),
        ("--within", "-5"),
        ("--within", "nan"),
        ("--watch", "--all"),
        ("--watch", "--dry-run"),
        ("--watch", "--limit", "5"),
        ("--all", "--within", "60"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags: tuple[str, ...]) -> None:
    fail(*flags)


def test_flags_reach_the_run(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[refresh.Options] = []

    def note(self: refresh.Refresher) -> refresh.Report:
        seen.append(self.options)
        return refresh.Report()

    monkeypatch.setattr(refresh.Refresher, "run", note)
    run("--within", "900", "--workers", "3", "--batch-size", "50", "--limit", "7", "--rate", "2.5")
    run("--all")
    assert (seen[0].within, seen[0].workers, seen[0].batch_size) == (900, 3, 50)
    assert (seen[0].limit, seen[0].rate, seen[0].everything) == (7, 2.5, False)
    assert seen[1].everything


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_it_finish_what_is_in_flight(
    provider: Provider, number: signal.Signals
) -> None:
    make_due_connections(60)
    provider.held.set()
    process = processes.start(provider, "refresh_leadexec_tokens", "--workers=4", "--json")
    wait_for_calls(provider, 4)
    process.send_signal(number)
    time.sleep(0.2)
    provider.held.clear()
    out, err = process.communicate(timeout=30)
    counts = json.loads(out)
    assert (counts["refreshed"], counts["left"]) == (4, 56)
    assert process.returncode == 1
    assert "56 were left" in err
    assert LeadExecConnection.objects.filter(lease_until__gt=time.time() * 1000).count() == 0


def test_watch_refreshes_what_falls_due_and_ends_with_a_signal(provider: Provider) -> None:
    make_due_connections(3)
    process = processes.start(provider, "refresh_leadexec_tokens", "--watch", "--json")
    wait_for_calls(provider, 3)
    make_connection("later", expires_in=-1)
    wait_for_calls(provider, 4)
    process.terminate()
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert json.loads(out.splitlines()[-1])["refreshed"] == 4


def test_watch_tells_the_counts_since_the_last_heartbeat(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "django_leadexec.management.commands.refresh_leadexec_tokens.HEARTBEAT"
    monkeypatch.setattr(name, 0.0)
    passes = [refresh.Report(refreshed=3), refresh.Report(refreshed=4, pending=1)]

    def watch(self: refresh.Refresher, report: Any) -> None:
        for one in passes:
            report(one)

    monkeypatch.setattr(refresh.Refresher, "watch", watch)
    lines = [json.loads(line) for line in run("--watch", "--json").splitlines()]
    assert [line["refreshed"] for line in lines] == [3, 4, 7]
    assert lines[-1]["pending"] == 1


def wait_for_calls(provider: Provider, count: int) -> None:
    processes.wait_until(lambda: sum(provider.refreshes.values()) >= count)
