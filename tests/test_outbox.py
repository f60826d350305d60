"""How long a revocation waits for its next try, and who may have it meanwhile."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import transaction
from django.utils import timezone

from django_leadexec import guarded, outbox
from django_leadexec.conf import get_settings
from django_leadexec.models import LeadExecConnection, PendingRevocation

from . import provider as stand_in
from .concurrency.threads import begin
from .factories import lease_left, make_connection
from .processes import wait_until
from .provider import Provider

pytestmark = pytest.mark.django_db(transaction=True)


def make_entry(token: str = "t") -> PendingRevocation:
    row = make_connection(token)
    LeadExecConnection.objects.filter(pk=row.pk).move_to_outbox()
    return PendingRevocation.objects.get(fingerprint=row.fingerprint)


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [(1, 30), (2, 60), (3, 120), (12, 61_440), (13, 86_400), (2_000, 86_400)],
)
def test_each_failure_doubles_the_wait_from_half_a_minute_up_to_a_day(
    failures: int, seconds: int
) -> None:
    entry = make_entry()
    entry.attempts = failures - 1
    before = timezone.now()
    entry.record_failure("down", None)
    after = timezone.now()
    # By chance up to half as long, so that many entries are not all due at one moment.
    assert before + timedelta(seconds=seconds / 2) <= entry.retry_after
    assert entry.retry_after <= after + timedelta(seconds=seconds)
    assert entry.attempts == failures


def test_an_entry_is_held_while_the_provider_may_be_asked_twice(
    provider: Provider, configure: Callable[..., None]
) -> None:
    # Far longer than a busy machine can take to look at the lease.
    configure(TIMEOUT=60)
    row = make_connection("t")
    provider.held.set()
    revoking = begin(row.revoke)
    try:
        wait_until(lambda: provider.calls["disconnectapplicationtoken"])
        held_for = lease_left(PendingRevocation.objects.get())
    finally:
        provider.held.clear()
    assert revoking.result() is True
    conf = get_settings()
    assert conf.lease_seconds(calls=1) < held_for <= conf.lease_seconds(calls=2)


@pytest.mark.parametrize("end", [min, max])
def test_the_wait_is_anything_from_half_of_it_to_all_of_it(
    monkeypatch: pytest.MonkeyPatch, end: Callable[..., float]
) -> None:
    monkeypatch.setattr(guarded, "jitter", end)
    entry = make_entry()
    before = timezone.now()
    entry.record_failure("down", None)
    after = timezone.now()
    wait = timedelta(seconds=outbox.FIRST_WAIT * end(0.5, 1))
    assert before + wait <= entry.retry_after <= after + wait


@pytest.mark.server
def test_a_second_claim_takes_other_rows_without_waiting_for_the_first() -> None:
    for number in range(4):
        make_entry(f"t{number}")
    entries = PendingRevocation.objects.order_by("pk")
    with transaction.atomic():
        first = {entry.pk for entry in entries.select_for_update()[:2]}
        second = begin(lambda: {claim.row.pk for claim in entries.claim(2, 60)}).result()
    assert isinstance(second, set)
    assert len(second) == 2
    assert not first & second


def test_a_failed_revocation_says_when_it_is_tried_next(provider: Provider) -> None:
    row = make_connection("t")
    provider.answers["disconnect t"] = stand_in.unavailable
    assert row.revoke() is False
    entry = PendingRevocation.objects.get()
    assert entry.attempts == 1
    assert entry.retry_after > timezone.now()
