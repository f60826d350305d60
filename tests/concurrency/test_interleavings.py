"""Two threads whose steps fall between each other's, one known order a test."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.contrib.auth.models import AnonymousUser
from django.core.cache import cache
from django.db import connection, transaction
from pytest_django import Settings

from django_leadexec import (
    authorization,
    crypto,
    lifecycle,
    linking,
    querysets,
    revocation,
    rotation,
)
from django_leadexec.claims import Claim, Unwritten
from django_leadexec.conf import get_settings
from django_leadexec.conflicts import retry_on_deadlock
from django_leadexec.exceptions import (
    AuthorizationRejected,
    ConnectionConflict,
    ProviderUnavailable,
    RevocationPending,
)
from django_leadexec.leases import writing
from django_leadexec.linking import link
from django_leadexec.models import ConnectionQuerySet, LeadExecConnection, PendingRevocation
from django_leadexec.refresh import Options, Refresher
from django_leadexec.secret import Secret
from django_leadexec.session import LeadExecSession
from django_leadexec.verification import UserDeleted

from .. import provider as stand_in
from ..factories import is_leased, make_connection, make_due_connections, make_user, plain
from ..processes import wait_until
from ..provider import Provider
from .threads import Thread, begin, together

pytestmark = pytest.mark.django_db(transaction=True)

rows = LeadExecConnection.objects
hook: Callable[[], object]


def identify_after_the_hook(session: LeadExecSession) -> str:
    """``IDENTIFY`` for tests: what happens here happens between the answer and the link."""
    hook()
    return "acme"


def run_with_pauses(steps: Any, pause: Callable[[], object]) -> Any:
    """What a way of ``connections`` returns if ``pause`` comes after each of its steps."""
    answer = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as stop:
            return stop.value
        answer = step.do()
        pause()


def rotate_to(settings: Settings, *keys: str) -> None:
    settings.LEADEXEC = settings.LEADEXEC | {"ENCRYPTION_KEYS": list(keys)}
    for _ in rotation.rotate_keys("default"):
        pass


def keys_of(settings: Settings) -> list[str]:
    return list(settings.LEADEXEC["ENCRYPTION_KEYS"])


def visit(user: Any) -> authorization.Visit:
    return authorization.Visit(
        user=user, clicked=True, returning=lambda: None, consume=lambda: None
    )


def link_now(user: Any, token: str, account_id: str = "") -> LeadExecConnection:
    with writing(LeadExecConnection, "default"):
        return link(
            user, "test-app", token, "a", time.time() + 9e3, account_id=account_id, using="default"
        )


def test_who_was_stopped_until_their_lease_ended_does_not_ask_beside_who_has_it_now(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = make_connection("t", expires_in=-1)
    others: list[Thread] = []

    def be_stopped_for_a_minute() -> None:
        if others:
            provider.held.clear()
            return
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 60)
        provider.held.set()
        others.append(begin(rows.get().get_access_token))
        wait_until(lambda: provider.refreshes["t"])

    steps = lifecycle._access_token(row, lambda row: row.lives(60))
    assert run_with_pauses(steps, be_stopped_for_a_minute).reveal() == "access-1-for-t"
    assert others[0].result() == "access-1-for-t"
    assert provider.refreshes["t"] == 1


def test_two_claims_at_once_take_no_row_twice() -> None:
    make_due_connections(2)
    others: list[Thread] = []

    def claim_beside(execute: Any, sql: str, *args: Any) -> Any:
        result = execute(sql, *args)
        if sql.startswith("SELECT") and not others:
            others.append(begin(lambda: rows.order_by("pk").claim(2, 60)))
            others[0].join(1)  # where it has to wait, it waits on
        return result

    with connection.execute_wrapper(claim_beside):
        mine = rows.order_by("pk").claim(2, 60)
    assert others[0].result() == []
    assert {row.lease_id for row in rows.all()} == {row.lease_id for row in mine}


def test_a_run_that_was_stopped_until_its_leases_ended_asks_about_none_of_its_rows(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_due_connections(3)
    claim, of_another = ConnectionQuerySet.claim, []

    def claim_and_be_stopped(
        self: ConnectionQuerySet, *args: Any
    ) -> list[Claim[LeadExecConnection]]:
        claimed = claim(self, *args)
        if claimed:
            now = time.time
            monkeypatch.setattr(time, "time", lambda: now() + 600)
            of_another.extend(claim(rows.order_by("pk"), 3, 60))
        return claimed

    monkeypatch.setattr(ConnectionQuerySet, "claim", claim_and_be_stopped)
    Refresher(Options.for_all("default")).run()
    assert not provider.refreshes
    assert {row.lease_until for row in rows.all()} == {row.lease_until for row in of_another}


def test_a_rotation_amid_a_revocation_makes_no_unconfirmed_one_look_confirmed(
    provider: Provider, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "PATIENCE", 0)
    row = make_connection("t")
    provider.answers["disconnect t"] = stand_in.unavailable
    rotate = partial(rotate_to, settings, Fernet.generate_key().decode(), *keys_of(settings))
    assert run_with_pauses(revocation._revocation(row), rotate) is False
    assert plain(PendingRevocation.objects.get().refresh_token) == "t"


def test_a_token_that_is_revoked_while_it_is_verified_is_not_linked(
    provider: Provider, settings: Settings
) -> None:
    global hook
    settings.LEADEXEC = settings.LEADEXEC | {"IDENTIFY": f"{__name__}.identify_after_the_hook"}
    user = make_user()
    provider.answers["disconnect t"] = stand_in.unavailable

    def link_and_revoke_in_another_tab() -> None:
        link_now(user, "t").revoke()

    hook = link_and_revoke_in_another_tab
    with pytest.raises(RevocationPending):
        authorization.authorize(Secret("t"), visit(user))
    assert not rows.live().exists()
    assert PendingRevocation.objects.count() == 1


def test_a_token_that_has_ended_while_it_was_verified_is_rejected_by_the_next_refresh(
    provider: Provider, settings: Settings
) -> None:
    global hook
    settings.LEADEXEC = settings.LEADEXEC | {"IDENTIFY": f"{__name__}.identify_after_the_hook"}
    user = make_user()

    def link_and_revoke_in_another_tab() -> None:
        assert link_now(user, "t").revoke() is True

    hook = link_and_revoke_in_another_tab
    authorization.authorize(Secret("t"), visit(user))
    with pytest.raises(AuthorizationRejected):
        lifecycle.verify(rows.live().get())
    assert rows.live().get().status == "rejected"


def test_a_callback_that_is_overtaken_by_another_keeps_what_that_has_stored(
    provider: Provider, settings: Settings
) -> None:
    global hook
    settings.LEADEXEC = settings.LEADEXEC | {"IDENTIFY": f"{__name__}.identify_after_the_hook"}
    user = make_user()

    def call_back_from_another_tab() -> None:
        global hook
        hook = object
        cache.clear()  # the first has had its time to ask alone
        authorization.authorize(Secret("t"), visit(user))

    hook = call_back_from_another_tab
    authorization.authorize(Secret("t"), visit(user))
    assert provider.refreshes["t"] == 2
    assert plain(rows.get().access_token) == "access-2-for-t"


def test_a_read_that_always_comes_too_late_gives_up(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = make_connection("t", expires_in=-1)
    monkeypatch.setattr(
        ConnectionQuerySet, "write_claimed", lambda self, claims: Unwritten(lost=claims)
    )
    with pytest.raises(ProviderUnavailable), transaction.atomic():
        row.get_access_token()
    assert provider.refreshes["t"] == 2


@pytest.mark.mysql
def test_a_transaction_that_sees_only_the_past_gives_up(provider: Provider) -> None:
    row = make_connection("t", expires_in=-1)
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    try:
        with transaction.atomic():
            rows.get()
            begin(lambda: LeadExecConnection.objects.get().get_access_token()).result()
            provider.refreshes.clear()
            with pytest.raises(ProviderUnavailable):
                row.get_access_token()
            assert provider.refreshes["t"] <= 2
    finally:
        connection.close()


@pytest.mark.parametrize("same_user", [True, False])
def test_processes_with_their_keys_in_another_order_store_one_token_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, same_user: bool
) -> None:
    settings.LEADEXEC = settings.LEADEXEC | {
        "ENCRYPTION_KEYS": [*keys_of(settings), Fernet.generate_key().decode()]
    }
    conf = get_settings()
    turned = replace(conf, encryption_keys=conf.encryption_keys[::-1])
    of_thread = threading.local()
    monkeypatch.setattr(crypto, "get_settings", lambda: getattr(of_thread, "conf", conf))
    one = make_user()
    another = one if same_user else make_user()

    def in_the_other_process() -> object:
        of_thread.conf = turned
        return linking.store(
            "default",
            lambda: link(another, "test-app", "t", "a", time.time() + 60, using="default"),
        )

    with writing(LeadExecConnection, "default"):
        link(one, "test-app", "t", "a", time.time() + 60, using="default")
        other = begin(in_the_other_process)
        time.sleep(0.3)
        assert other.is_alive()
    result = other.result()
    assert isinstance(result, LeadExecConnection if same_user else ConnectionConflict)
    assert [row.user_id for row in rows.holding("t")] == [one.pk]
    monkeypatch.undo()
    rotate_to(settings, *turned.encryption_keys)
    rotate_to(settings, *turned.encryption_keys[:1])
    assert plain(rows.holding("t").get().refresh_token) == "t"


def test_a_rotation_that_is_killed_keeps_nobody_from_a_row(
    provider: Provider, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = make_connection("t", expires_in=-1)

    def die(ciphertext: str) -> str:
        raise SystemExit

    monkeypatch.setattr(crypto, "rotate", die)
    with pytest.raises(SystemExit):
        rotate_to(settings, Fernet.generate_key().decode(), *keys_of(settings))
    assert row.get_access_token() == "access-1-for-t"


@pytest.mark.parametrize("account_id", ["", "acme"])
def test_the_same_token_again_leaves_the_lease_to_who_asks_about_it(account_id: str) -> None:
    user = make_user()
    make_connection("t", user=user, account_id="")
    (claimed,) = rows.order_by("pk").claim(1, 60)
    link_now(user, "t", account_id)
    assert rows.get().lease_until == claimed.lease_until
    claimed.row.record_success("late", time.time() + 60)
    assert rows.all().write_claimed([claimed]).lost == [claimed]


def test_another_token_needs_no_lease_of_the_former_one() -> None:
    user = make_user()
    make_connection("t", user=user)
    rows.order_by("pk").claim(1, 60)
    link_now(user, "another")
    assert not is_leased(rows.get())


@contextmanager
def revoking_all_after_the_first_lock() -> Iterator[Callable[[], object]]:
    """Let this thread lock its first rows, and then another revoke everything; its result."""
    others: list[Thread] = []

    def pause(execute: Any, sql: str, *args: Any) -> Any:
        result = execute(sql, *args)
        if "FOR UPDATE" in sql and not others:
            others.append(begin(LeadExecConnection.objects.all().move_to_outbox))
            time.sleep(0.3)
        return result

    with connection.execute_wrapper(pause):
        yield lambda: others[0].result()


@pytest.mark.server
def test_a_link_and_a_bulk_revocation_lock_two_rows_in_one_order() -> None:
    user = make_user()
    make_connection("of-acme", user=user, account_id="acme")
    make_connection("unnamed", user=user)
    with revoking_all_after_the_first_lock() as revocation:
        row = link_now(user, "unnamed", "acme")
    assert not isinstance(revocation(), Exception)
    row.refresh_from_db()
    assert row.status == "revoked"
    assert plain(PendingRevocation.objects.get().refresh_token) == "unnamed"


@pytest.mark.server
def test_a_deletion_and_a_bulk_revocation_lock_rows_in_one_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(querysets, "CHUNK_SIZE", 1)
    make_due_connections(2)
    with revoking_all_after_the_first_lock() as revocation:
        rows.order_by("-pk").delete()
    assert not isinstance(revocation(), Exception)
    assert PendingRevocation.objects.count() == 2


@pytest.mark.server
def test_a_batch_that_meets_a_callers_transaction_crosswise_waits_for_none_of_its_rows(
    provider: Provider,
) -> None:
    first, second = make_due_connections(2)
    of_first, of_second = claimed = rows.order_by("pk").claim(2, 60)
    for claim in claimed:
        claim.row.record_success("late", time.time() + 3600)

    def write() -> object:
        return LeadExecConnection.objects.all().write_claimed(claimed)

    with transaction.atomic():
        second.get_access_token()
        assert begin(write).result() == Unwritten(locked=[of_second])
        # The batch would wait for the other row by now, and each of the two for the other.
        assert first.get_access_token() == "late"
    assert begin(write).result() == Unwritten(lost=[of_first, of_second])


@pytest.mark.mysql
def test_a_write_on_too_old_a_snapshot_is_done_again() -> None:
    # As MariaDB does from 11.6 on for whoever asks for REPEATABLE READ.
    row = make_connection()
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("SET SESSION innodb_snapshot_isolation = ON")
    tries = []

    def write() -> None:
        with transaction.atomic():
            tries.append(rows.get().attempts)
            if len(tries) == 1:
                begin(lambda: rows.update(attempts=5)).result()
            rows.filter(pk=row.pk).update(last_error="written")

    try:
        retry_on_deadlock("default", write)
    finally:
        connection.close()
    assert tries == [0, 5]
    assert rows.get().last_error == "written"


def test_two_callbacks_for_a_new_account_make_one_user(
    provider: Provider, settings: Settings
) -> None:
    settings.LEADEXEC = settings.LEADEXEC | {
        "SIGN_IN": True,
        "IDENTIFY": "tests.site.identify",
        "CREATE_USER": "tests.site.create_user",
    }

    def call_back(token: str) -> Callable[[], object]:
        return lambda: authorization.authorize(Secret(token), visit(AnonymousUser()))

    outcomes = together(*(call_back(f"acme-{number % 2}") for number in range(6)))
    assert {type(outcome) for outcome in outcomes} == {authorization.SignedIn}
    assert rows.count() == 1
    assert rows.get().user.username == "user of acme"
    assert plain(rows.get().refresh_token) in ("acme-0", "acme-1")


@pytest.mark.parametrize("same_user", [True, False])
def test_many_callbacks_with_one_new_token_make_one_row(
    provider: Provider, same_user: bool
) -> None:
    users = [make_user() for _ in range(4)]
    if same_user:
        users = users[:1] * 4

    def call_back(user: Any) -> Callable[[], object]:
        return lambda: authorization.authorize(Secret("t"), visit(user))

    outcomes = together(*map(call_back, users))
    connected = [it for it in outcomes if isinstance(it, authorization.Connected)]
    refused = [it for it in outcomes if isinstance(it, ConnectionConflict)]
    assert len(connected) == (4 if same_user else 1)
    assert len(refused) == (0 if same_user else 3)
    assert rows.live().count() == 1


def test_a_user_deleted_amid_their_callback_gets_nothing_linked(
    provider: Provider, settings: Settings
) -> None:
    global hook
    settings.LEADEXEC = settings.LEADEXEC | {"IDENTIFY": f"{__name__}.identify_after_the_hook"}
    user = make_user()
    hook = type(user).objects.get(pk=user.pk).delete
    with pytest.raises(UserDeleted):
        authorization.authorize(Secret("t"), visit(user))
    assert not rows.exists()
