"""One connection: its access token, fresh when it is needed, with a provider on a real socket."""

import asyncio
import inspect
import time
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.db import DatabaseError, transaction
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from django_leadexec import lifecycle, signals
from django_leadexec.exceptions import AuthorizationRejected, ProviderUnavailable
from django_leadexec.leases import CLOCK_SKEW
from django_leadexec.models import ConnectionQuerySet, LeadExecConnection, PendingRevocation
from django_leadexec.provider.client import Client
from django_leadexec.session import LeadExecSession

from . import provider as stand_in
from .concurrency.threads import begin, together
from .factories import is_leased, make_connection, plain
from .processes import wait_until
from .provider import Provider

pytestmark = pytest.mark.django_db(transaction=True)


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
    assert set(together(*[row.get_access_token] * 12)) == {"access-1-for-t"}
    assert provider.refreshes["t"] == 1


def test_a_refusal_rejects_the_connection_and_keeps_its_tokens(provider: Provider) -> None:
    row = make_connection("refresh-1", expires_in=-1)
    provider.answers["refresh-1"] = stand_in.refused
    with pytest.raises(AuthorizationRejected, match="not valid"):
        row.get_access_token()
    row.refresh_from_db()
    assert (row.status, plain(row.refresh_token)) == ("rejected", "refresh-1")
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
    assert plain(row.access_token) == "access-1-for-t"
    assert not is_leased(row)


def test_it_waits_for_whoever_holds_the_lease(provider: Provider, settings: Settings) -> None:
    settings.LEADEXEC = settings.LEADEXEC | {"TIMEOUT": 60}
    row = make_connection("t", expires_in=-1)
    (held,) = LeadExecConnection.objects.order_by("pk").claim(1, 60)

    def finish() -> None:
        time.sleep(0.3)
        held.row.record_success("from-another", time.time() + 3600)
        # On MariaDB, whoever looks for a free row has it locked for a moment.
        wait_until(lambda: not LeadExecConnection.objects.all().write_claimed([held]).locked)

    other = begin(finish)
    assert row.get_access_token() == "from-another"
    other.returned()
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


def test_who_authorizes_again_during_the_call_wins(provider: Provider) -> None:
    user = get_user_model().objects.create_user("u")
    row = make_connection("old", user=user, expires_in=-1)
    provider.held.set()
    caller = begin(row.get_access_token)
    wait_until(lambda: provider.refreshes["old"])
    make_connection("new", user=user)
    provider.held.clear()
    assert caller.returned() == "stored-access-for-new"
    row.refresh_from_db()
    assert plain(row.refresh_token) == "new"


def test_the_async_twin_does_the_same(provider: Provider) -> None:
    row = make_connection("t", expires_in=-1)
    provider.latency = 0.1

    async def get_three() -> list[str]:
        return await asyncio.gather(*(row.aget_access_token() for _ in range(3)))

    assert set(async_to_sync(get_three)()) == {"access-1-for-t"}
    assert provider.refreshes["t"] == 1


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
    assert plain(PendingRevocation.objects.get().refresh_token) == "t"


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
        lifecycle.verify(row)
    row.refresh_from_db()
    assert (row.status, plain(row.refresh_token), row.fingerprint) == ("revoked", "", None)
    assert not PendingRevocation.objects.exists()


@pytest.mark.parametrize(
    ("refused_for", "status"),
    [
        (timedelta(days=29, hours=23, minutes=50), "rejected"),
        (timedelta(days=30), "revoked"),
    ],
)
def test_a_connection_is_revoked_once_thirty_days_of_no_are_over(
    provider: Provider, refused_for: timedelta, status: str
) -> None:
    row = make_connection(
        "t", expires_in=-1, status="rejected", rejected_at=timezone.now() - refused_for
    )
    provider.answers["t"] = stand_in.refused
    with pytest.raises(AuthorizationRejected):
        lifecycle.verify(row)
    row.refresh_from_db()
    assert row.status == status


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
        lifecycle.verify(row)
    row.refresh_from_db()
    assert (row.status, plain(row.refresh_token)) == ("rejected", "t")


@pytest.mark.parametrize("error", [DatabaseError, ValueError])
def test_a_write_that_fails_gives_the_row_back(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    row = make_connection("t", expires_in=-1)

    def fail(*args: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ConnectionQuerySet, "write_claimed", fail)
        with pytest.raises(error):
            row.get_access_token()
    assert not is_leased(LeadExecConnection.objects.get())
    assert row.get_access_token() == "access-2-for-t"


@pytest.mark.parametrize(
    ("owner", "name"),
    [(Client, "refresh"), (lifecycle, "believe"), (lifecycle, "_is_good")],
    ids=["the call", "the write", "the claim"],
)
def test_even_what_is_no_exception_gives_the_row_back(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    row = make_connection("t", expires_in=-1)
    looks: list[object] = []

    def fail(*args: object, **kwargs: object) -> bool:
        looks.append(args)
        # The first look is at a row that is not claimed yet.
        if name == "_is_good" and len(looks) == 1:
            return False
        raise TimeIsUp

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises(TimeIsUp):
            row.get_access_token()
    assert not is_leased(LeadExecConnection.objects.get())


@pytest.mark.parametrize(
    "method",
    [LeadExecConnection.get_access_token, LeadExecConnection.aget_access_token],
    ids=lambda method: method.__qualname__,
)
def test_every_way_to_a_token_asks_for_one_that_lives_a_minute(
    method: Callable[..., object],
) -> None:
    assert inspect.signature(method).parameters["min_ttl"].default == 60


class TestLockedRow:
    """Somebody else has the row locked when the answer is to be written."""

    @pytest.fixture(autouse=True)
    def no_pause(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lifecycle, "POLL_INTERVAL", 0)

    def lock(self, monkeypatch: pytest.MonkeyPatch, act: Callable[[int], bool]) -> list[int]:
        """The tries to write, each of which ``act`` may let find the row locked."""
        write = lifecycle._write
        tries: list[int] = []

        def locked(*arguments: Any) -> bool | None:
            tries.append(len(tries))
            assert len(tries) < 10, "it is tried without end"
            return None if act(len(tries)) else write(*arguments)

        monkeypatch.setattr(lifecycle, "_write", locked)
        return tries

    def test_the_answer_is_written_once_the_row_is_free(
        self, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        row = make_connection("t", expires_in=-1)
        tries = self.lock(monkeypatch, lambda count: count < 3)
        assert row.get_access_token() == "access-1-for-t"
        row.refresh_from_db()
        assert plain(row.access_token) == "access-1-for-t"
        assert len(tries) == 3

    @pytest.mark.parametrize("late", [0, 1])
    def test_the_token_is_handed_out_when_patience_is_over(
        self,
        provider: Provider,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        late: float,
    ) -> None:
        row = make_connection("t", expires_in=-1)
        passed = [0.0]
        monkeypatch.setattr(lifecycle, "monotonic", lambda: 1_000 + passed[0])

        def lock_on(count: int) -> bool:
            passed[0] = 0 if count == 1 else lifecycle.WRITE_PATIENCE + late
            return True

        tries = self.lock(monkeypatch, lock_on)
        assert row.get_access_token() == "access-1-for-t"
        assert len(tries) == 2
        assert f"keeps connection {row.pk} locked" in caplog.text


class Interrupted(Exception):
    """As Celery's SoftTimeLimitExceeded: raised wherever the program is, in a call too."""


class TimeIsUp(BaseException):
    """As gevent's Timeout."""


def waits_for_a_lock(*args: object) -> None:
    return None


def break_the_call(patch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise Interrupted

    patch.setattr(Client, "refresh", fail)


def break_the_wait_for_a_lock(patch: pytest.MonkeyPatch) -> None:
    def fail(seconds: float) -> None:
        raise Interrupted

    patch.setattr(lifecycle, "_write", waits_for_a_lock)
    patch.setattr(lifecycle, "time", SimpleNamespace(sleep=fail, time=time.time))


def get_leads(session: LeadExecSession) -> object:
    return session.get(f"{session.account_api}/leads")


GETTERS: dict[str, Callable[[LeadExecConnection], object]] = {
    "sync": lambda row: row.get_access_token(),
    "async": lambda row: async_to_sync(row.aget_access_token)(),
    "session": lambda row: get_leads(row.session()),
}


@pytest.mark.parametrize("broken", [break_the_call, break_the_wait_for_a_lock])
@pytest.mark.parametrize("get", GETTERS.values(), ids=GETTERS)
def test_an_error_between_claim_and_write_gives_the_row_back(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, get: Any, broken: Any
) -> None:
    row = make_connection("t", expires_in=-1)
    with monkeypatch.context() as patch:
        broken(patch)
        with pytest.raises(Interrupted):
            get(row)
    assert not is_leased(LeadExecConnection.objects.get())
    assert row.get_access_token().endswith("-for-t")
