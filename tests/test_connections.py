"""One connection: its access token and its end, with a provider on a real socket."""

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.db import connection as database
from django.db import transaction
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from django_leadexec import connections, signals
from django_leadexec.exceptions import AuthorizationRejected, ProviderUnavailable
from django_leadexec.models import CLOCK_SKEW, LeadExecConnection, PendingRevocation

from . import provider as stand_in
from .factories import make_connection
from .processes import wait_until
from .provider import Provider

pytestmark = pytest.mark.django_db(transaction=True)


def in_threads(count: int, work: Callable[[], object]) -> list[object]:
    """What ``work`` returned or raised in each of so many threads at once."""
    results: list[object] = []
    barrier = threading.Barrier(count)

    def run() -> None:
        barrier.wait()
        try:
            results.append(work())
        except Exception as error:
            results.append(error)
        finally:
            database.close()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_a_stored_token_that_lives_costs_one_query_and_no_call(
    provider: Provider, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    row = make_connection("t")
    with django_assert_num_queries(1):
        assert row.get_access_token() == "stored-access-for-t"
    assert not provider.calls


def test_an_expired_token_is_refreshed_and_stored(provider: Provider) -> None:
    row = make_connection("t", expires_in=-1)
    assert row.get_access_token() == "access-1-for-t"
    assert row.get_access_token() == "access-1-for-t"
    assert provider.refreshes["t"] == 1


def test_min_ttl_asks_for_a_token_that_lives_longer(provider: Provider) -> None:
    row = make_connection("t", expires_in=300)
    assert row.get_access_token(min_ttl=200) == "stored-access-for-t"
    assert row.get_access_token(min_ttl=400) == "access-1-for-t"


def test_many_threads_make_one_call(provider: Provider) -> None:
    row = make_connection("t", expires_in=-1)
    provider.latency = 0.2
    assert set(in_threads(12, row.get_access_token)) == {"access-1-for-t"}
    assert provider.refreshes["t"] == 1


def test_a_refusal_rejects_the_connection_and_keeps_its_tokens(provider: Provider) -> None:
    row = make_connection("refresh-1", expires_in=-1)
    provider.answers["refresh-1"] = stand_in.refused
    with pytest.raises(AuthorizationRejected, match="not valid"):
        row.get_access_token()
    row.refresh_from_db()
    assert (row.status, row.refresh_token) == ("rejected", "refresh-1")
    with pytest.raises(AuthorizationRejected):
        row.get_access_token()
    assert provider.refreshes["refresh-1"] == 1


def test_an_unavailable_provider_is_not_asked_again_during_the_backoff(provider: Provider) -> None:
    row = make_connection("t", expires_in=-1)
    provider.answers["t"] = stand_in.throttling(4000)
    with pytest.raises(ProviderUnavailable) as caught:
        row.get_access_token()
    assert caught.value.retry_after == 4000
    with pytest.raises(ProviderUnavailable) as caught:
        row.get_access_token()
    assert 3000 < (caught.value.retry_after or 0) <= 4000
    assert provider.refreshes["t"] == 1
    row.refresh_from_db()
    assert row.status == "active"


def test_a_revoked_connection_gives_no_token_even_from_a_stale_instance(
    provider: Provider,
) -> None:
    row = make_connection("t")
    stale = LeadExecConnection.objects.get()
    row.revoke()
    with pytest.raises(AuthorizationRejected, match="revoked"):
        stale.get_access_token()


def test_a_connection_of_another_application_is_never_called(provider: Provider) -> None:
    row = make_connection("t", app_id="another", expires_in=-1)
    with pytest.raises(AuthorizationRejected, match="APP_ID"):
        row.get_access_token()
    assert not provider.calls


def test_inside_a_transaction_it_calls_without_claiming(provider: Provider) -> None:
    row = make_connection("t", expires_in=-1)
    with transaction.atomic():
        assert row.get_access_token() == "access-1-for-t"
    row.refresh_from_db()
    assert row.access_token == "access-1-for-t"
    assert not row.is_leased()


def test_it_waits_for_whoever_holds_the_lease(provider: Provider) -> None:
    row = make_connection("t", expires_in=-1)
    (held,) = LeadExecConnection.objects.order_by("pk").claim(1, 60)

    def finish() -> None:
        time.sleep(0.3)
        held.record_success("from-another", time.time() + 3600)
        LeadExecConnection.objects.all().write_claimed([held])
        database.close()

    other = threading.Thread(target=finish)
    other.start()
    assert row.get_access_token() == "from-another"
    other.join()
    assert not provider.calls


def test_it_does_not_wait_for_ever(provider: Provider, settings: Settings) -> None:
    settings.LEADEXEC = settings.LEADEXEC | {"TIMEOUT": 0.3}
    row = make_connection("t", expires_in=-1)
    LeadExecConnection.objects.order_by("pk").claim(1, 60)
    with pytest.raises(ProviderUnavailable, match="Another process"):
        row.get_access_token()
    assert not provider.calls


def test_a_lease_that_has_lapsed_is_taken_over(provider: Provider) -> None:
    row = make_connection("t", expires_in=-1)
    LeadExecConnection.objects.order_by("pk").claim(1, -CLOCK_SKEW - 1)
    assert row.get_access_token() == "access-1-for-t"


def test_who_authorizes_anew_during_the_call_wins(provider: Provider) -> None:
    user = get_user_model().objects.create_user("u")
    row = make_connection("old", user=user, expires_in=-1)
    provider.held.set()
    results: list[object] = []

    def get() -> None:
        results.append(row.get_access_token())
        database.close()

    caller = threading.Thread(target=get)
    caller.start()
    wait_until(lambda: provider.refreshes["old"])
    make_connection("new", user=user)
    provider.held.clear()
    caller.join()
    assert results == ["stored-access-for-new"]
    row.refresh_from_db()
    assert row.refresh_token == "new"


def test_the_async_twin_does_the_same(provider: Provider) -> None:
    row = make_connection("t", expires_in=-1)
    provider.latency = 0.1

    async def get_three() -> list[str]:
        return await asyncio.gather(*(row.aget_access_token() for _ in range(3)))

    assert set(async_to_sync(get_three)()) == {"access-1-for-t"}
    assert provider.refreshes["t"] == 1


def test_revoke_stops_all_use_and_is_confirmed(provider: Provider) -> None:
    row = make_connection("t")
    assert row.revoke() is True
    assert provider.revoked == {"t"}
    assert not PendingRevocation.objects.exists()
    stored = LeadExecConnection.objects.get()
    assert stored.status == row.status == "revoked"
    assert (stored.refresh_token, stored.access_token) == ("", "")
    assert (stored.fingerprint, stored.identity, stored.refresh_after) == (None, None, None)
    assert stored.revoked_at is not None


def test_revoke_with_the_provider_down_is_queued(provider: Provider) -> None:
    row = make_connection("t")
    provider.answers["disconnect t"] = stand_in.unavailable
    assert row.revoke() is False
    entry = PendingRevocation.objects.get()
    assert entry.refresh_token == "t"
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


@pytest.mark.parametrize("delete", ["row", "query set", "user"])
def test_deleting_queues_the_revocation(provider: Provider, delete: str) -> None:
    row = make_connection("t")
    if delete == "row":
        row.delete()
    elif delete == "query set":
        LeadExecConnection.objects.all().delete()
    else:
        row.user.delete()
    assert not LeadExecConnection.objects.exists()
    assert PendingRevocation.objects.get().refresh_token == "t"


def test_signals_come_after_the_commit_and_only_once(provider: Provider) -> None:
    heard: list[tuple[str, str]] = []

    def hear(name: str) -> Callable[..., None]:
        return lambda sender, connection, **kwargs: heard.append((name, connection.status))

    names = ("authorized", "refreshed", "rejected", "revoked")
    receivers = {name: hear(name) for name in names}
    for name, receiver in receivers.items():
        getattr(signals, f"connection_{name}").connect(receiver)
    try:
        row = make_connection("t", expires_in=-1)
        assert heard == [("authorized", "active")]
        row.get_access_token()
        provider.answers["t"] = stand_in.refused
        with pytest.raises(AuthorizationRejected):
            row.get_access_token(min_ttl=5000)
        with transaction.atomic():
            row.revoke()
            assert len(heard) == 3
    finally:
        for name, receiver in receivers.items():
            getattr(signals, f"connection_{name}").disconnect(receiver)
    assert [name for name, _ in heard] == ["authorized", "refreshed", "rejected", "revoked"]


def test_after_thirty_days_of_no_the_connection_is_revoked_for_good(provider: Provider) -> None:
    row = make_connection(
        "t",
        expires_in=-1,
        status="rejected",
        rejected_at=timezone.now() - timedelta(days=31),
    )
    provider.answers["t"] = stand_in.refused
    with pytest.raises(AuthorizationRejected):
        connections.verify(row)
    row.refresh_from_db()
    assert (row.status, row.refresh_token, row.fingerprint) == ("revoked", "", None)
    assert not PendingRevocation.objects.exists()


def test_who_is_not_answered_after_thirty_days_of_no_keeps_their_connection(
    provider: Provider,
) -> None:
    row = make_connection(
        "t",
        expires_in=-1,
        status="rejected",
        rejected_at=timezone.now() - timedelta(days=31),
    )
    provider.answers["t"] = stand_in.unavailable
    with pytest.raises(ProviderUnavailable):
        connections.verify(row)
    row.refresh_from_db()
    assert (row.status, row.refresh_token) == ("rejected", "t")
