"""Several processes at once on one table: each token is asked about once."""

import json
import os
import subprocess
import time

import pytest
from django.db.models import Min

from django_leadexec.models import LeadExecConnection

from .. import processes
from ..factories import make_due_connections
from ..provider import Provider, fresh_until

pytestmark = pytest.mark.django_db(transaction=True)

# LEADEXEC_PROCESS_ROWS=50000 for a long look.
ROWS = int(os.environ.get("LEADEXEC_PROCESS_ROWS", "600"))


def start_four(provider: Provider, *flags: str) -> list["subprocess.Popen[str]"]:
    command = ("refresh_leadexec_tokens", "--json", "--workers=4", "--batch-size=20")
    return [processes.start(provider, *command, *flags) for _ in range(4)]


def refreshed_by(workers: list["subprocess.Popen[str]"]) -> int:
    reports = []
    for worker in workers:
        out, err = worker.communicate(timeout=300)
        assert worker.returncode == 0, err
        reports.append(json.loads(out))
    assert sum(report["skipped"] for report in reports) == 0
    return sum(report["refreshed"] for report in reports)


def earliest_lease_end() -> float:
    """In epoch seconds."""
    held = LeadExecConnection.objects.filter(lease_until__gt=time.time() * 1000)
    end: int = held.aggregate(end=Min("lease_until"))["end"]
    return end / 1000


def run_four(provider: Provider, *flags: str) -> int:
    """How many rows four commands refreshed together."""
    return refreshed_by(start_four(provider, *flags))


def test_four_processes_share_what_is_due_without_a_double_call(provider: Provider) -> None:
    make_due_connections(600)
    provider.latency = 0.01
    assert run_four(provider) == 600
    assert len(provider.refreshes) == 600
    assert set(provider.refreshes.values()) == {1}
    assert not provider.overlaps
    assert not LeadExecConnection.objects.filter(expires_at=None).exists()


def test_one_of_four_that_is_killed_makes_nobody_ask_twice_before_its_leases_end(
    provider: Provider,
) -> None:
    make_due_connections(ROWS)
    provider.latency, provider.default = 0.01, fresh_until(ROWS // 2)
    victim, *others = start_four(provider)
    processes.wait_until(provider.held.is_set, seconds=300)
    victim.kill()
    victim.communicate(timeout=60)
    first_end = earliest_lease_end()
    provider.default = None
    provider.held.clear()
    # On a slow machine the others may still be at work when the first of the leases ends.
    while time.time() < first_end and any(worker.poll() is None for worker in others):
        time.sleep(0.05)
    assert set(provider.refreshes.copy().values()) == {1}
    refreshed_by(others)
    left = LeadExecConnection.objects.filter(expires_at=None).write(lease_until=0)
    assert run_four(provider) == left
    assert not LeadExecConnection.objects.filter(expires_at=None).exists()
    assert len(provider.refreshes) == ROWS
    assert not provider.overlaps


def test_with_all_no_token_is_asked_about_twice_at_once(provider: Provider) -> None:
    make_due_connections(200)
    provider.latency = 0.01
    # One that starts later asks again about what was refreshed before it began.
    assert 200 <= run_four(provider, "--all") <= 800
    assert len(provider.refreshes) == 200
    assert not provider.overlaps
