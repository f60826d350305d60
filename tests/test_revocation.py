"""The end of one connection: no more use at once, and LeadExec is told."""

from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import DatabaseError, OperationalError, transaction
from django.utils import timezone

from django_leadexec import revocation
from django_leadexec.claims import Claim
from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.outbox import OutboxQuerySet
from django_leadexec.provider.client import Client
from django_leadexec.refresh import Options, Refresher
from django_leadexec.signals import connection_revoked

from . import provider as stand_in
from .factories import is_leased, make_connection, plain
from .provider import Provider

pytestmark = pytest.mark.django_db(transaction=True)

rows = LeadExecConnection.objects
REVOKERS: dict[str, Callable[[LeadExecConnection], object]] = {
    "sync": lambda row: row.revoke(),
    "async": lambda row: async_to_sync(row.arevoke)(),
    "in two steps": lambda row: revocation.start_revocation(row)(),
}


class Interrupted(Exception):
    """As Celery's SoftTimeLimitExceeded: raised wherever the program is, in a call too."""


class TimeIsUp(BaseException):
    """As gevent's Timeout."""


def interrupt(*args: object, **kwargs: object) -> None:
    raise Interrupted


def test_revoke_stops_all_use_and_is_confirmed(provider: Provider) -> None:
    row = make_connection("t")
    assert row.revoke() is True
    assert provider.revoked == {"t"}
    assert not PendingRevocation.objects.exists()
    stored = LeadExecConnection.objects.get()
    assert stored.status == row.status == "revoked"
    assert (plain(stored.refresh_token), plain(stored.access_token)) == ("", "")
    assert (stored.fingerprint, stored.identity, stored.refresh_after) == (None, None, None)
    assert stored.revoked_at is not None


def test_revoke_with_the_provider_down_is_queued(provider: Provider) -> None:
    row = make_connection("t")
    provider.answers["disconnect t"] = stand_in.unavailable
    assert row.revoke() is False
    entry = PendingRevocation.objects.get()
    assert plain(entry.refresh_token) == "t"
    assert entry.retry_after is not None
    assert entry.retry_after > timezone.now()
    assert LeadExecConnection.objects.get().status == "revoked"


def test_revoking_twice_tells_the_provider_once(provider: Provider) -> None:
    row = make_connection("t")
    stale = LeadExecConnection.objects.get()
    assert row.revoke() is True
    assert stale.revoke() is True
    assert provider.calls["disconnectapplicationtoken"] == 1


def test_revoke_inside_a_transaction_tells_the_provider_on_commit(provider: Provider) -> None:
    row = make_connection("t")
    with transaction.atomic():
        assert row.revoke() is False
        assert not provider.calls
    assert provider.revoked == {"t"}
    assert not PendingRevocation.objects.exists()


def test_revoke_that_is_rolled_back_never_happened(provider: Provider) -> None:
    row = make_connection("t")
    with transaction.atomic():
        row.revoke()
        transaction.set_rollback(True)
    assert not provider.calls
    assert LeadExecConnection.objects.get().status == "active"


def test_revoke_async(provider: Provider) -> None:
    row = make_connection("t")
    assert async_to_sync(row.arevoke)() is True
    assert provider.revoked == {"t"}


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [(OutboxQuerySet, "write_claimed", DatabaseError), (Client, "revoke", TimeIsUp)],
    ids=["a write that fails", "what is no Exception"],
)
def test_a_revocation_that_an_error_ends_gives_its_entry_back(
    provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    error: type[BaseException],
) -> None:
    row = make_connection("t")

    def fail(*args: object, **kwargs: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises(error):
            row.revoke()
    assert not is_leased(PendingRevocation.objects.get())
    assert row.revoke() is True


@pytest.mark.parametrize("is_locked", [True, False])
def test_a_revocation_whose_entry_others_keep_locked_is_sent_again_later(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, is_locked: bool
) -> None:
    row = make_connection("t")

    def fail(*args: object, **kwargs: object) -> None:
        raise OperationalError

    monkeypatch.setattr(OutboxQuerySet, "write_claimed", fail)
    monkeypatch.setattr(revocation, "is_conflict", lambda error, using: is_locked)
    if is_locked:
        assert row.revoke() is False
    else:
        with pytest.raises(OperationalError):
            row.revoke()
    assert is_leased(PendingRevocation.objects.get()) is is_locked


@pytest.mark.parametrize("revoke", REVOKERS.values(), ids=REVOKERS)
def test_an_error_in_the_call_of_a_revocation_gives_its_entry_back(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, revoke: Any
) -> None:
    row = make_connection("t")
    with monkeypatch.context() as patch:
        patch.setattr(Client, "revoke", interrupt)
        with pytest.raises(Interrupted):
            revoke(row)
    assert not is_leased(PendingRevocation.objects.get())
    assert row.revoke() is True


@pytest.mark.parametrize("revoke", REVOKERS.values(), ids=REVOKERS)
def test_what_is_queued_is_never_said_to_be_confirmed(provider: Provider, revoke: Any) -> None:
    row = make_connection("t")
    provider.answers["disconnect t"] = stand_in.unavailable
    assert revoke(row) is False
    # Held back until its time, and so not asked about again.
    assert revoke(rows.get()) is False
    assert revoke(row) is False


def test_another_try_by_hand_tells_the_provider(provider: Provider) -> None:
    row = make_connection("t")
    row_of_another = make_connection("another")
    provider.answers["disconnect t"] = stand_in.unavailable
    provider.answers["disconnect another"] = stand_in.unavailable
    row.revoke()
    row_of_another.revoke()
    del provider.answers["disconnect t"]
    assert rows.get(pk=row.pk).revoke() is True
    assert rows.get(pk=row_of_another.pk).revoke() is False


def test_a_connection_that_is_gone_is_revoked(provider: Provider) -> None:
    row = make_connection("t")
    stale = rows.get()
    row.delete()
    assert stale.revoke() is True
    assert provider.revoked == {"t"}


@pytest.mark.parametrize("revoke", REVOKERS.values(), ids=REVOKERS)
def test_the_object_is_then_like_its_row(provider: Provider, revoke: Any) -> None:
    row = make_connection("t", account_id="acme")
    for _ in range(2):
        revoke(row)
        assert columns(row) == columns(rows.get())


def columns(row: LeadExecConnection) -> dict[str, Any]:
    """All but the version, which counts the writes that were asked for."""
    values = {field.attname: getattr(row, field.attname) for field in row._meta.concrete_fields}
    return {name: value for name, value in values.items() if name != "version"}


@pytest.mark.parametrize("end", ["revoke", "query set", "thirty days of no"])
def test_who_hears_of_a_revocation_gets_a_revoked_row(
    provider: Provider, end: str, request: pytest.FixtureRequest
) -> None:
    heard: list[LeadExecConnection] = []

    def hear(sender: type, connection: LeadExecConnection, **kwargs: Any) -> None:
        heard.append(connection)

    connection_revoked.connect(hear)
    request.addfinalizer(lambda: connection_revoked.disconnect(hear))
    row = make_connection("t", expires_in=-1)
    if end == "revoke":
        row.revoke()
    elif end == "query set":
        rows.all().move_to_outbox()
    else:
        long_ago = timezone.now() - timedelta(days=31)
        rows.all().write(status="rejected", rejected_at=long_ago)
        provider.answers["t"] = stand_in.refused
        Refresher(Options.for_all("default")).run()
    [connection] = heard
    assert (connection.status, connection.fingerprint) == ("revoked", None)
    assert (plain(connection.refresh_token), plain(connection.access_token)) == ("", "")
    assert connection.revoked_at == rows.get().revoked_at is not None


def test_nobody_is_called_when_the_lease_could_end_first(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = make_connection("t")
    with monkeypatch.context() as patch:
        # As in a process that was stopped for a while, between the claim and the call.
        patch.setattr(Claim, "seconds_left", lambda claim: 1)
        assert row.revoke() is False
    assert not provider.calls
    assert not is_leased(PendingRevocation.objects.get())
    assert row.revoke() is True


@pytest.mark.parametrize("is_nested", [True, False])
def test_a_row_whose_revocation_was_rolled_back_is_still_revoked_when_it_is_deleted(
    provider: Provider, is_nested: bool
) -> None:
    row = make_connection("t")
    with transaction.atomic() if is_nested else nullcontext():
        with transaction.atomic():
            row.revoke()
            transaction.set_rollback(True)
        row.delete()
    assert plain(PendingRevocation.objects.get().refresh_token) == "t"


@pytest.mark.parametrize("revoke", REVOKERS.values(), ids=REVOKERS)
def test_a_row_that_is_deleted_after_its_revocation_is_told_of_at_the_commit(
    provider: Provider, revoke: Any
) -> None:
    row = make_connection("t")
    with transaction.atomic():
        assert revoke(row) is False
        row.delete()
    assert provider.revoked == {"t"}
    assert not PendingRevocation.objects.exists()


@pytest.mark.parametrize("revoke", REVOKERS.values(), ids=REVOKERS)
def test_a_row_that_was_deleted_is_told_of_by_its_token(provider: Provider, revoke: Any) -> None:
    row = make_connection("t")
    row.delete()
    assert revoke(row) is True
    assert provider.revoked == {"t"}
    assert not PendingRevocation.objects.exists()


def test_a_row_that_was_put_back_is_not_confirmed_before_both_its_entries_are(
    provider: Provider,
) -> None:
    row = make_connection("t")
    provider.answers["disconnect t"] = stand_in.unavailable
    row.revoke()
    put_back = make_connection("put-back", user=row.user)
    rows.filter(pk=row.pk).delete()
    rows.filter(pk=put_back.pk).update(id=row.pk)
    assert rows.get(pk=row.pk).revoke() is False
    assert provider.revoked == {"put-back"}
