"""Several processes at once on one table: each token is asked about once."""

import json

import pytest

from django_leadexec.models import LeadExecConnection

from .. import processes
from ..factories import make_due_connections
from ..provider import Provider

pytestmark = pytest.mark.django_db(transaction=True)


def run_four(provider: Provider, *flags: str) -> int:
    """How many rows four commands refreshed together."""
    workers = [
        processes.start(
            provider, "refresh_leadexec_tokens", "--json", "--workers=4", "--batch-size=20", *flags
        )
        for _ in range(4)
    ]
    reports = []
    for worker in workers:
        out, err = worker.communicate(timeout=120)
        assert worker.returncode == 0, err
        reports.append(json.loads(out))
    assert sum(report["skipped"] for report in reports) == 0
    return sum(report["refreshed"] for report in reports)


def test_four_processes_share_what_is_due_without_a_double_call(provider: Provider) -> None:
    make_due_connections(600)
    provider.latency = 0.01
    assert run_four(provider) == 600
    assert len(provider.refreshes) == 600
    assert set(provider.refreshes.values()) == {1}
    assert not provider.overlaps
    assert not LeadExecConnection.objects.filter(expires_at=None).exists()


def test_with_all_no_token_is_asked_about_twice_at_once(provider: Provider) -> None:
    make_due_connections(200)
    provider.latency = 0.01
    # One that starts later asks again about what was refreshed before it began.
    assert 200 <= run_four(provider, "--all") <= 800
    assert len(provider.refreshes) == 200
    assert not provider.overlaps
