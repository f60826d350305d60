"""What has to hold after a crash, whatever it was, and after the run that repairs it."""

import time
from collections import Counter
from collections.abc import Collection

from django.contrib.auth import get_user_model

from django_leadexec import crypto
from django_leadexec.leases import CLOCK_SKEW
from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.provider.client import get_client
from django_leadexec.refresh import Options, Refresher, Report

from .. import processes
from ..factories import is_leased, lease_left, plain
from ..provider import Provider

# Seconds, as docs/running.md has it.
LONGEST_LEASE = 90

rows = LeadExecConnection.objects
outbox = PendingRevocation.objects


def start_over(provider: Provider) -> None:
    """Forget all rows and users, and all that the provider has seen."""
    rows.all().delete()
    outbox.all().delete()
    get_user_model().objects.all().delete()
    provider.refreshes.clear()
    provider.revoked.clear()


def kept_tokens() -> Counter[str]:
    """How often each refresh token is on file, in a row or in the outbox. All of them open."""
    return Counter(
        [
            *(str(plain(row.refresh_token)) for row in rows.live()),
            *(str(plain(entry.refresh_token)) for entry in outbox.all()),
        ]
    )


def assert_nothing_is_lost(provider: Provider, tokens: Collection[str]) -> None:
    """Each of these is on file, once, unless the provider has ended it; and each row is whole."""
    kept = kept_tokens()
    lost = [token for token in tokens if not kept[token] and token not in provider.revoked]
    assert lost == []
    assert [token for token, count in kept.items() if count > 1] == []
    for row in rows.all():
        assert_is_whole(row)
    for entry in outbox.all():
        assert entry.fingerprint in crypto.fingerprints(plain(entry.refresh_token))
    assert not provider.overlaps


def assert_is_whole(row: LeadExecConnection) -> None:
    """In a state that the package itself would write, and free within a bounded time."""
    assert lease_left(row) <= LONGEST_LEASE
    if row.status == row.Status.REVOKED:
        stored = (plain(row.refresh_token), plain(row.access_token), row.fingerprint, row.identity)
        assert stored == ("", "", None, None)
        assert row.revoked_at is not None
        return
    assert row.fingerprint in crypto.fingerprints(plain(row.refresh_token))
    assert row.identity is not None
    assert row.refresh_after is not None
    assert plain(row.access_token) == "" or plain(row.access_token).endswith(
        f"-for-{plain(row.refresh_token)}"
    )
    is_due = row.refresh_after.timestamp() <= time.time()
    assert is_due or row.attempts or row.lives(60)


def run() -> Report:
    return Refresher(Options.for_all("default")).run()


def settle(provider: Provider) -> None:
    """Let the provider hear and answer what the dead had sent."""
    for _ in range(3):  # it hears those before us
        get_client().refresh("fence", "test-app")
    processes.wait_until(lambda: not provider.under_way)


def end_leases(provider: Provider) -> None:
    """Let time pass until the leases of the dead have ended; their calls have long before."""
    settle(provider)
    ended = int((time.time() - CLOCK_SKEW - 1) * 1000)
    for leased in (rows, outbox):
        leased.filter(lease_until__gt=ended).write(lease_until=ended)


def recover(provider: Provider) -> None:
    """One run leaves the dead their leases. Another, once these have ended, repairs all.

    The provider is well, and nobody else is at work.
    """
    settle(provider)
    held = [plain(row.refresh_token) for row in rows.live() if is_leased(row)]
    calls = provider.refreshes.copy()
    run()
    assert [token for token in held if provider.refreshes[token] != calls[token]] == []
    end_leases(provider)
    report = run()
    assert (report.failed, report.rejected, report.left, report.pending) == (0, 0, 0, 0), report
    assert not outbox.exists()
    for row in rows.all():
        assert_is_whole(row)
        assert not is_leased(row)
        assert row.status == row.Status.REVOKED or row.lives(60)
    assert not provider.overlaps
