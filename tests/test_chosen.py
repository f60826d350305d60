"""Refreshing and sending rows that somebody has selected and waits for."""

from datetime import timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone
from pytest_django import Settings

from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.outbox import OutboxQuerySet
from django_leadexec.refresh import chosen
from django_leadexec.refresh.chosen import ChosenReport, refresh_chosen, send_batch, send_chosen

from . import provider as stand_in
from .factories import make_connection, make_due_connections
from .provider import Provider

pytestmark = pytest.mark.django_db(transaction=True)

SECONDS = 30


def send(entries: OutboxQuerySet) -> tuple[int, int]:
    """Send what a person has selected in the admin."""
    keys = list(entries.order_by("requested_at", "pk").values_list("pk", flat=True))
    return send_chosen(keys, "default", SECONDS)


def make_entries(count: int) -> None:
    make_due_connections(count)
    LeadExecConnection.objects.all().move_to_outbox()
    PendingRevocation.objects.update(retry_after=timezone.now() + timedelta(days=1))


def due_count() -> int:
    return PendingRevocation.objects.due(timezone.now()).count()


def test_the_report_says_what_became_of_each_connection(provider: Provider) -> None:
    for token in ("good", "well", "refused", "silent"):
        make_connection(token)
    provider.answers["refused"] = stand_in.refused
    provider.answers["silent"] = stand_in.unavailable
    make_connection("revoked", status="revoked")
    make_connection("foreign", app_id="another")
    make_connection("foreign and revoked", app_id="another", status="revoked")
    held = make_connection("held")
    LeadExecConnection.objects.filter(pk=held.pk).claim(1, 60)
    assert refresh_chosen(LeadExecConnection.objects.all(), SECONDS) == ChosenReport(
        refreshed=2,
        rejected=1,
        failed=1,
        revoked=2,
        foreign=1,
        left=1,
        everybody_refused=False,
    )


def test_the_report_says_that_everybody_was_refused(provider: Provider) -> None:
    provider.default = stand_in.refused
    make_due_connections(45)
    assert refresh_chosen(LeadExecConnection.objects.all(), SECONDS).everybody_refused
    assert LeadExecConnection.objects.active().count() == 45


def test_without_time_all_connections_are_left(provider: Provider) -> None:
    make_due_connections(3)
    report = refresh_chosen(LeadExecConnection.objects.all(), 0)
    assert (report.left, report.refreshed) == (3, 0)
    assert not provider.calls


def test_a_faulty_configuration_is_an_error(settings: Settings) -> None:
    settings.LEADEXEC = {}
    with pytest.raises(ImproperlyConfigured):
        refresh_chosen(LeadExecConnection.objects.all(), SECONDS)
    with pytest.raises(ImproperlyConfigured):
        send(PendingRevocation.objects.all())


def test_a_batch_is_sent_and_no_entry_but_its_own(provider: Provider) -> None:
    make_entries(2)
    make_connection("t")
    make_connection("u")
    provider.answers["disconnect u"] = provider.answers["u"] = stand_in.unavailable
    batch = LeadExecConnection.objects.live().move_to_outbox()
    assert send_batch(batch, SECONDS) == 1
    assert provider.revoked == {"t"}
    assert PendingRevocation.objects.count() == 3


def test_selected_revocations_are_sent_before_they_are_due(provider: Provider) -> None:
    make_entries(3)
    first = PendingRevocation.objects.order_by("pk")[0]
    assert send(PendingRevocation.objects.filter(pk=first.pk)) == (1, 0)
    assert PendingRevocation.objects.count() == 2
    assert due_count() == 0


def test_a_selection_by_the_time_of_the_next_try_is_sent_whole(provider: Provider) -> None:
    make_entries(3)
    waiting = PendingRevocation.objects.filter(retry_after__gt=timezone.now())
    assert send(waiting) == (3, 0)


def test_what_is_too_much_for_the_time_is_left_due_with_the_oldest_sent(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chosen, "MOST_SENT", 2)
    make_entries(4)
    oldest = PendingRevocation.objects.order_by("-pk")[0]
    PendingRevocation.objects.filter(pk=oldest.pk).update(
        requested_at=timezone.now() - timedelta(days=40)
    )
    assert send(PendingRevocation.objects.all()) == (2, 2)
    assert not PendingRevocation.objects.filter(pk=oldest.pk).exists()
    assert due_count() == 2


def test_a_revocation_that_another_worker_holds_is_left_to_it(provider: Provider) -> None:
    make_entries(1)
    PendingRevocation.objects.order_by("pk").claim(1, 60)
    assert send(PendingRevocation.objects.all()) == (0, 1)
    assert not provider.calls
