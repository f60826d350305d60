"""The command's flags, output and exit codes. What a run does is in test_refresh."""

import io
import json
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command
from pytest_django import Settings

from django_leadexec import refresh
from django_leadexec.management import stopping
from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.refresh import refresher as refresher_module

from ... import processes
from ... import provider as stand_in
from ...bounded_watch import stopping_in_time
from ...factories import make_connection, make_due_connections
from ...provider import Provider

pytestmark = pytest.mark.django_db(transaction=True)

KEYS = {"refreshed", "rejected", "failed", "skipped", "revoked", "pending", "seconds"}
KEYS |= {"unreadable", "left", "held"}


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


class TestTokensThatNoKeyOpens:
    @pytest.fixture
    def lose_keys(self, configure: Callable[..., None]) -> Callable[[], None]:
        return lambda: configure(ENCRYPTION_KEYS=[Fernet.generate_key().decode()])

    def test_it_exits_with_2_and_names_the_keys(
        self, provider: Provider, lose_keys: Callable[[], None], capsys: pytest.CaptureFixture[str]
    ) -> None:
        make_due_connections(25)
        lose_keys()
        with pytest.raises(CommandError, match=r"ENCRYPTION_KEYS'\]: 25\.") as caught:
            call_command("refresh_leadexec_tokens", "--json")
        assert caught.value.returncode == 2
        counts = json.loads(capsys.readouterr().out)
        assert (counts["failed"], counts["unreadable"], counts["outage"]) == (25, 25, False)
        assert not provider.calls

    def test_each_later_run_says_so_too(
        self, provider: Provider, lose_keys: Callable[[], None], time_machine: Any
    ) -> None:
        make_due_connections(2)
        LeadExecConnection.objects.filter(pk=make_connection("ended").pk).move_to_outbox()
        lose_keys()
        time_machine.move_to(time.time(), tick=False)
        for _ in range(40):
            error = fail()
            assert (error.returncode, "KEYS']: 3." in str(error)) == (2, True)
            time_machine.shift(60)

    def test_so_it_does_if_only_some_do_not_open(
        self, provider: Provider, lose_keys: Callable[[], None]
    ) -> None:
        make_due_connections(3)
        lose_keys()
        make_connection("new", expires_in=-1)
        make_connection("down", expires_in=-1)
        provider.answers["down"] = stand_in.unavailable
        error = fail()
        assert (error.returncode, "KEYS']: 3." in str(error)) == (2, True)
        assert provider.refreshes == {"new": 1, "down": 1}

    def test_revocations_are_no_outage_of_the_provider(
        self, provider: Provider, lose_keys: Callable[[], None]
    ) -> None:
        make_due_connections(25)
        LeadExecConnection.objects.move_to_outbox()
        lose_keys()
        make_connection("new")
        LeadExecConnection.objects.move_to_outbox()
        error = fail()
        assert (error.returncode, "KEYS']: 25." in str(error)) == (2, True)
        assert provider.revoked == {"new"}


@pytest.mark.parametrize("flags", [(), ("--within", "900"), ("--all",)])
def test_it_says_that_others_hold_what_is_due(provider: Provider, flags: tuple[str, ...]) -> None:
    make_due_connections(3)
    LeadExecConnection.objects.order_by("pk").claim(2, 60)
    make_connection("ended")
    ended = LeadExecConnection.objects.filter(app_id="test-app").latest("pk")
    LeadExecConnection.objects.filter(pk=ended.pk).move_to_outbox()
    PendingRevocation.objects.order_by("pk").claim(1, 60)
    counts = run_json(*flags)
    assert (counts["refreshed"], counts["held"], counts["left"]) == (1, 3, 0)
    assert run(*flags).endswith("3 held by others.\n")


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
        ("--watch", "--within", "1801"),
        ("--all", "--within", "60"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags: tuple[str, ...]) -> None:
    fail(*flags)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--workers=0", "workers must be a whole number from 1 to 256, not 0"),
        ("--batch-size=many", "batch_size must be a whole number from 1 to 5000, not 'many'"),
        ("--rate=-1", "rate must be a number from 0.01 to 100000, not -1.0"),
    ],
)
def test_a_flag_that_is_refused_tells_what_it_may_be(flag: str, message: str) -> None:
    assert message in str(fail(flag))


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


def test_a_watch_looks_half_an_hour_ahead_at_most(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float | None] = []

    def note(self: refresh.Refresher, *args: object, **options: object) -> refresh.Report:
        seen.append(self.options.within)
        return refresh.Report()

    monkeypatch.setattr(refresh.Refresher, "watch", note)
    run("--watch", "--within", "1800")
    assert seen == [1_800]
    assert "1800" in str(fail("--watch", "--within", "1801"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_a_signal_lets_it_finish_what_is_in_flight(
    provider: Provider, number: signal.Signals
) -> None:
    make_due_connections(60)
    provider.held.set()
    process = processes.start(provider, "refresh_leadexec_tokens", "--workers=4", "--json")
    wait_for_calls(provider, 4)
    process.send_signal(number)
    processes.wait_until_handled(process)
    provider.held.clear()
    out, err = process.communicate(timeout=120)
    counts = json.loads(out)
    assert (counts["refreshed"], counts["left"]) == (4, 56)
    assert process.returncode == 1
    assert "56 were left" in err
    assert LeadExecConnection.objects.filter(lease_until__gt=time.time() * 1000).count() == 0


def test_a_signal_waits_for_no_lock_of_the_thread_it_interrupts() -> None:
    stop = stopping.Stop()
    with stopping.stop_on_signals(stop, 60):
        with stop._cond:  # type: ignore[attr-defined]
            signal.raise_signal(signal.SIGTERM)
        assert stop.wait(30)


@pytest.mark.slow
def test_watch_refreshes_what_falls_due_and_ends_with_a_signal(provider: Provider) -> None:
    make_due_connections(3)
    process = processes.start(provider, "refresh_leadexec_tokens", "--watch", "--json")
    wait_for_calls(provider, 3)
    make_connection("later", expires_in=-1)
    wait_for_calls(provider, 4)
    process.terminate()
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert json.loads(out.splitlines()[-1])["refreshed"] == 4


class Pipe(io.TextIOWrapper):
    """A block-buffered stdout, as of a process whose output another one reads."""

    def __init__(self) -> None:
        self.read_end = io.BytesIO()
        super().__init__(self.read_end, encoding="utf-8")

    def arrived(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.read_end.getvalue().splitlines()]


def test_watch_tells_the_counts_since_the_last_heartbeat(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "django_leadexec.management.commands.refresh_leadexec_tokens.HEARTBEAT"
    monkeypatch.setattr(name, 0.2)
    monkeypatch.setattr(refresher_module, "MAX_SLEEP", 0.05)
    monkeypatch.setattr(refresher_module, "MIN_SLEEP", 0.05)
    make_due_connections(3)
    pipe = Pipe()
    arrived: list[int] = []
    watch = refresh.Refresher.watch

    def two_beats(self: refresh.Refresher, beat: Any, **options: Any) -> None:
        def counted(report: refresh.Report) -> None:
            beat(report)
            arrived.append(len(pipe.arrived()))
            if len(arrived) == 1:
                make_due_connections(4, "later")
            if len(pipe.arrived()) >= 3:
                self.stop.set()

        with stopping_in_time(self):
            watch(self, counted, **options)

    monkeypatch.setattr(refresh.Refresher, "watch", two_beats)
    call_command("refresh_leadexec_tokens", "--watch", "--json", stdout=pipe)
    assert arrived[:3] == [1, 2, 3]
    *beats, total = [line["refreshed"] for line in pipe.arrived()]
    assert sum(beats) == total == 7
    assert beats[0] == 3


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_stays_in_its_line(provider: Provider) -> None:
    make_due_connections(30)
    terminal = Terminal()
    call_command("refresh_leadexec_tokens", "--batch-size=3", stdout=io.StringIO(), stderr=terminal)
    assert "30/30" in terminal.getvalue()
    assert "\n" not in terminal.getvalue().rstrip()


def test_verbosity_0_leaves_nothing_for_cron_to_mail(provider: Provider) -> None:
    make_due_connections(3)
    assert run("--verbosity", "0") == ""
    assert json.loads(run("--verbosity", "0", "--json"))["pending"] == 0


def wait_for_calls(provider: Provider, count: int) -> None:
    processes.wait_until(lambda: sum(provider.refreshes.values()) >= count)
