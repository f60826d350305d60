"""The refresh command, killed with SIGKILL while it works."""

import time

import pytest

from django_leadexec.leases import CLOCK_SKEW
from django_leadexec.models import LeadExecConnection
from django_leadexec.refresh import Options, Refresher

from .. import processes
from ..factories import make_due_connections, plain
from ..provider import Provider, fresh_until

pytestmark = pytest.mark.django_db(transaction=True)

ROWS = 300


def test_what_a_killed_process_held_comes_free_with_its_lease_and_not_before(
    provider: Provider,
) -> None:
    make_due_connections(ROWS)
    provider.latency, provider.default = 0.02, fresh_until(60)
    worker = processes.start(provider, "refresh_leadexec_tokens", "--workers=4", "--batch-size=50")
    processes.wait_until(provider.held.is_set)
    worker.kill()
    worker.communicate(timeout=60)
    provider.default = None
    provider.held.clear()
    processes.wait_until(lambda: not provider.under_way)
    before = dict(provider.refreshes)

    report = Refresher(Options.for_all("default")).run()
    held = LeadExecConnection.objects.filter(lease_until__gt=time.time() * 1000)
    assert 0 < held.count() <= 4 * 50
    assert report.refreshed + held.count() + written_by_the_victim(report.refreshed) == ROWS
    assert not provider.overlaps
    repeated = [token for token, count in provider.refreshes.items() if count > 1]
    assert repeated == [], "asked again before the lease had ended"

    in_the_past = int((time.time() - CLOCK_SKEW - 1) * 1000)
    LeadExecConnection.objects.filter(pk__in=list(held.values_list("pk", flat=True))).write(
        lease_until=in_the_past
    )
    Refresher(Options.for_all("default")).run()
    rows = LeadExecConnection.objects.all()
    assert all(row.lives(3000) for row in rows)
    assert all(plain(row.refresh_token).startswith("token-") for row in rows)
    assert len(provider.refreshes) == ROWS
    assert before.keys() <= provider.refreshes.keys()


def written_by_the_victim(by_us: int) -> int:
    return LeadExecConnection.objects.exclude(expires_at=None).count() - by_us
