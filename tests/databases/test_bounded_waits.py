"""What can skip no lock waits for it about ten seconds, and leaves the session as it was."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import (
    IntegrityError,
    InterfaceError,
    OperationalError,
    connection,
    transaction,
)
from django.db.models.signals import post_save
from django.test import Client

from django_leadexec import conflicts
from django_leadexec.conflicts import LOCK_WAIT
from django_leadexec.exceptions import ConnectionBusy, ConnectionConflict
from django_leadexec.models import LeadExecConnection, PendingRevocation

from ..concurrency.threads import begin
from ..factories import make_connection, make_user, plain
from ..provider import Provider
from ..visitor import LOGIN, agree, assert_error, link_shown, post
from .callers import Caller

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.server]

rows = LeadExecConnection.objects
# Seconds in which each of these waits is over, on a busy machine, too. MariaDB's own take fifty.
SOON = 40


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait is tried once. It then ends after LOCK_WAIT."""
    monkeypatch.setattr(conflicts, "LOCK_PATIENCE", 0.5)


def lock_user(user: Any) -> None:
    get_user_model().objects.select_for_update().get(pk=user.pk)


def adopt(user: Any, token: str = "t") -> LeadExecConnection:
    return rows.adopt(user, token, verify=False)


LOCKS: dict[str, Callable[[Any], object]] = {
    "the user's row": lock_user,
    "the same token, not committed": adopt,
}


@pytest.fixture(params=LOCKS)
def lock(request: pytest.FixtureRequest) -> Any:
    return LOCKS[request.param]


@contextmanager
def locked(lock: Callable[[], object]) -> Iterator[None]:
    with Caller(lock) as caller:
        caller.wait_for_lock()
        yield


def execute(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


def own_wait() -> str:
    """What this session has as its time to wait for a lock."""
    name = "lock_timeout" if connection.vendor == "postgresql" else "innodb_lock_wait_timeout"
    sql = f"SELECT current_setting('{name}')" if name == "lock_timeout" else f"SELECT @@{name}"
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return str(cursor.fetchone()[0])


def set_own_wait(value: int) -> str:
    """Set it in seconds; how the database then names it."""
    name = "lock_timeout" if connection.vendor == "postgresql" else "innodb_lock_wait_timeout"
    with connection.cursor() as cursor:
        cursor.execute(f"SET {name} = {value * 1000 if name == 'lock_timeout' else value}")
    return own_wait()


@pytest.fixture
def waits_for_an_hour() -> Iterator[str]:
    """A session of the site's that is ready to wait for an hour, and says so itself."""
    yield set_own_wait(3600)
    connection.close()


@pytest.fixture
def waits_while_storing() -> Iterator[list[str]]:
    """What the session had as its time to wait each time a connection was stored."""
    seen: list[str] = []

    def look(**kwargs: Any) -> None:
        seen.append(own_wait())

    post_save.connect(look, sender=LeadExecConnection)
    yield seen
    post_save.disconnect(look, sender=LeadExecConnection)


class TestLink:
    def test_the_callback_says_that_it_has_to_wait(
        self, provider: Provider, client: Client, lock: Callable[[Any], object]
    ) -> None:
        user = make_user()
        client.force_login(user, backend=LOGIN)
        with locked(partial(lock, user)):
            response = begin(lambda: post(client, "t")).result(SOON)
            assert_error(response, 503, "busy")
        assert post(client, "t").json()["status"] == "connected"
        assert plain(rows.get().refresh_token) == "t"

    def test_the_confirm_page_says_so_and_keeps_the_link(
        self, provider: Provider, client: Client, lock: Callable[[Any], object]
    ) -> None:
        post(client, "t")
        user = make_user()
        client.force_login(user, backend=LOGIN)
        link = link_shown(client)
        with locked(partial(lock, user)):
            page: Any = begin(lambda: agree(client, link)).result(SOON)
        assert page.status_code == 503
        assert "in use just now" in page.content.decode()
        assert agree(client).status_code == 302
        assert rows.get().user == user

    def test_an_adoption_says_so(self, lock: Callable[[Any], object]) -> None:
        user = make_user()
        with locked(partial(lock, user)):
            result = begin(lambda: adopt(user)).result(SOON)
        assert isinstance(result, ConnectionBusy)
        assert adopt(user).user == user

    def test_a_row_that_gets_the_token_waits_no_longer(self) -> None:
        user = make_user()
        make_connection("old", user=user)
        with locked(lambda: adopt(make_user(), "t")):
            result = begin(lambda: adopt(user, "t")).result(SOON)
        assert isinstance(result, ConnectionBusy)

    def test_a_row_that_was_moved_to_another_user_waits_no_longer(self) -> None:
        before, heir = make_user(), make_user()
        make_connection("t", user=before)
        rows.update(user=heir)
        with locked(lambda: make_connection("heirs", user=heir, app_id="test-app")):
            result = begin(lambda: adopt(before, "new")).result(SOON)
        assert isinstance(result, ConnectionBusy)

    def test_a_callers_transaction_outlives_it(self) -> None:
        user = make_user()

        def adopt_in_a_transaction() -> str:
            with transaction.atomic():
                own = own_wait()
                with pytest.raises(ConnectionBusy):
                    adopt(user)
                assert own_wait() == own
                return str(make_user().pk)

        with locked(lambda: adopt(user)):
            key: Any = begin(adopt_in_a_transaction).result(SOON)
        assert get_user_model().objects.filter(pk=key).exists()


class TestSession:
    def test_it_has_its_own_value_back(self, waits_for_an_hour: str) -> None:
        adopt(make_user())
        assert own_wait() == waits_for_an_hour

    def test_it_has_it_back_after_a_wait(self, lock: Callable[[Any], object]) -> None:
        user = make_user()

        def adopt_and_look() -> tuple[str, str]:
            own = set_own_wait(3600)
            with pytest.raises(ConnectionBusy):
                adopt(user)
            return own, own_wait()

        with locked(partial(lock, user)):
            result: Any = begin(adopt_and_look).result(SOON)
        assert result[0] == result[1]

    @pytest.mark.parametrize("error", [ConnectionConflict, KeyboardInterrupt, IntegrityError])
    def test_it_has_it_back_after_an_error(
        self, waits_for_an_hour: str, error: type[BaseException]
    ) -> None:
        def fail(**kwargs: Any) -> None:
            raise error

        post_save.connect(fail, sender=LeadExecConnection)
        try:
            with pytest.raises(error):
                adopt(make_user())
        finally:
            post_save.disconnect(fail, sender=LeadExecConnection)
        assert own_wait() == waits_for_an_hour

    @pytest.mark.parametrize("fails", [False, True])
    def test_a_callers_transaction_has_it_back_at_once(
        self, waits_for_an_hour: str, fails: bool
    ) -> None:
        user = make_user()
        make_connection("other's")
        with transaction.atomic():
            if fails:
                with pytest.raises(ConnectionConflict):
                    adopt(user, "other's")
            else:
                adopt(user)
            assert own_wait() == waits_for_an_hour
        assert own_wait() == waits_for_an_hour

    def test_it_waits_a_shorter_time_while_a_connection_is_stored(
        self, waits_for_an_hour: str, waits_while_storing: list[str]
    ) -> None:
        adopt(make_user(), "one")
        with transaction.atomic():
            adopt(make_user(), "two")
        assert waits_while_storing == [set_own_wait(LOCK_WAIT)] * 2

    def test_a_site_that_waits_a_shorter_time_goes_on_doing_so(
        self, waits_while_storing: list[str]
    ) -> None:
        own = set_own_wait(1)
        adopt(make_user())
        assert waits_while_storing == [own]
        assert own_wait() == own
        connection.close()

    def test_a_connection_that_breaks_meanwhile_fails_as_it_does_elsewhere(self) -> None:
        on_postgresql = connection.vendor == "postgresql"

        def cut(**kwargs: Any) -> None:
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT {'pg_backend_pid' if on_postgresql else 'connection_id'}()")
                (number,) = cursor.fetchone()
            kill = f"SELECT pg_terminate_backend({number})" if on_postgresql else f"KILL {number}"
            assert not isinstance(begin(partial(execute, kill)).result(), Exception)

        post_save.connect(cut, sender=LeadExecConnection)
        try:
            with pytest.raises((OperationalError, InterfaceError)):
                adopt(make_user())
        finally:
            post_save.disconnect(cut, sender=LeadExecConnection)
            connection.close()
        assert not rows.exists()


class TestDelete:
    def test_a_revoked_row_that_is_locked_waits_no_longer(self) -> None:
        row = make_connection("t")
        rows.all().move_to_outbox()
        with locked(lambda: rows.select_for_update().get(pk=row.pk)):
            result = begin(lambda: rows.all().delete()).result(SOON)
        assert isinstance(result, OperationalError)
        assert rows.all().delete()[0] == 1


class TestWithoutSkipLocked:
    """As MariaDB before 10.6."""

    @pytest.fixture(autouse=True)
    def no_skip_locked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        features = type(connection.features)
        monkeypatch.setattr(features, "has_select_for_update_skip_locked", False)

    def test_a_write_waits_no_longer(self) -> None:
        make_connection("t", expires_in=-1)
        (claim,) = rows.order_by("pk").claim(1, 60)
        claim.row.record_failure("no answer")
        with locked(lambda: rows.select_for_update().get()):
            result = begin(lambda: rows.all().write_claimed([claim])).result(SOON)
        assert isinstance(result, OperationalError)
        assert conflicts.is_conflict(result, "default")
        assert rows.all().write_claimed([claim]).lost == []

    def test_a_claim_and_its_return_wait_no_longer(self) -> None:
        make_connection("t", expires_in=-1)
        claims = rows.order_by("pk").claim(1, 60)
        with locked(lambda: rows.select_for_update().get()):
            assert begin(lambda: rows.all().release(claims)).result(SOON) is None
        rows.all().write(lease_until=0)
        with locked(lambda: rows.select_for_update().get()):
            result = begin(lambda: rows.order_by("pk").claim(1, 60)).result(SOON)
        assert isinstance(result, OperationalError)

    def test_an_entry_of_the_outbox_waits_no_longer(self) -> None:
        make_connection("t").user.delete()
        entries = PendingRevocation.objects.order_by("pk")
        (claim,) = entries.claim(1, 60)
        with locked(lambda: PendingRevocation.objects.select_for_update().get()):
            write = partial(entries.write_claimed, claim, confirmed=True)
            assert isinstance(begin(write).result(SOON), OperationalError)
        assert entries.write_claimed(claim, confirmed=True)
        assert not entries.exists()

    def test_the_session_has_its_own_value_back(self, waits_for_an_hour: str) -> None:
        make_connection("t", expires_in=-1)
        claims = rows.order_by("pk").claim(1, 60)
        rows.all().release(claims)
        rows.all().write_claimed(rows.order_by("pk").claim(1, 60))
        assert own_wait() == waits_for_an_hour
