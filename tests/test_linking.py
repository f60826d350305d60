"""Storing a verified authorization: whose row it becomes, and which rows it leaves alone."""

import time
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.db import IntegrityError, transaction
from pytest_django import Settings

from django_leadexec import crypto
from django_leadexec.exceptions import ConnectionConflict, RevocationPending
from django_leadexec.leases import writing
from django_leadexec.linking import LINK_ATTEMPTS, link, store
from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.secret import Secret

from .factories import is_leased, make_connection, make_user, plain

pytestmark = pytest.mark.django_db(transaction=True)


def link_now(user: Any, token: str, account_id: str = "") -> LeadExecConnection:
    return store(
        "default",
        lambda: link(
            user,
            "test-app",
            Secret(token),
            Secret(f"access-for-{token}"),
            time.time() + 3600,
            account_id=account_id,
            using="default",
        ),
    )


def stored() -> dict[int, dict[str, Any]]:
    return {row["id"]: dict(row) for row in LeadExecConnection.objects.values()}


def test_a_link_leaves_the_rows_of_others_as_they_are() -> None:
    for number in range(30):
        make_connection(f"other-{number}", account_id=f"account-{number}" if number % 2 else "")
    user = make_user()
    make_connection("of-acme", user=user, account_id="acme")
    make_connection("unnamed", user=user)
    before = stored()
    row = link_now(user, "unnamed", "acme")
    changed = {pk for pk, fields in stored().items() if fields != before[pk]}
    assert changed == set(LeadExecConnection.objects.filter(user=user).values_list("pk", flat=True))
    assert plain(row.refresh_token) == "unnamed"
    assert [row.pk] == list(
        LeadExecConnection.objects.for_user(user).live().values_list("pk", flat=True)
    )


@pytest.mark.parametrize("token", ["theirs", "new"])
def test_the_account_of_another_user_is_a_conflict(token: str) -> None:
    make_connection("theirs", account_id="acme")
    before = stored()
    with pytest.raises(ConnectionConflict):
        link_now(make_user(), token, "acme")
    assert stored() == before


def test_a_token_and_an_account_of_two_users_are_a_conflict_for_both() -> None:
    owner, other = make_user(), make_user()
    make_connection("of-owner", user=owner, account_id="acme")
    make_connection("of-other", user=other, account_id="bolt")
    before = stored()
    for user in (owner, other):
        with pytest.raises(ConnectionConflict):
            link_now(user, "of-owner", "bolt")
    assert stored() == before


@pytest.mark.parametrize("turned", [False, True])
def test_a_link_is_found_under_the_first_of_several_keys(settings: Settings, turned: bool) -> None:
    """A rotation that drops the others has no need to know which of them it was stored with."""
    keys = [Fernet.generate_key().decode() for _ in range(2)]
    settings.LEADEXEC = settings.LEADEXEC | {"ENCRYPTION_KEYS": keys[::-1] if turned else keys}
    row = link_now(make_user(), "t")
    row.refresh_from_db()
    assert row.fingerprint == crypto.fingerprint("t")


def test_a_token_in_the_outbox_is_not_linked() -> None:
    user = make_user()
    make_connection("leaving", user=user)
    LeadExecConnection.objects.for_user(user).move_to_outbox()
    with pytest.raises(RevocationPending):
        link_now(user, "leaving")


@pytest.mark.parametrize("failures", [0, 1, LINK_ATTEMPTS - 1, LINK_ATTEMPTS])
def test_a_link_is_tried_ten_times_in_all(failures: int) -> None:
    user, attempts = make_user(), []

    def work() -> LeadExecConnection:
        attempts.append(1)
        if len(attempts) <= failures:
            raise IntegrityError("somebody else was quicker")
        return make_connection("t", user=user)

    if failures < LINK_ATTEMPTS:
        assert store("default", work).user == user
        assert len(attempts) == failures + 1
    else:
        with pytest.raises(IntegrityError):
            store("default", work)
        assert len(attempts) == 10


def test_a_user_without_a_known_account_has_one_row() -> None:
    user = make_user()
    first = make_connection("a", user=user)
    second = make_connection("b", user=user)
    assert first.pk == second.pk
    assert plain(LeadExecConnection.objects.get().refresh_token) == "b"


def test_accounts_that_differ_by_case_are_two() -> None:
    user = make_user()
    make_connection("a", user=user, account_id="acme")
    make_connection("b", user=user, account_id="ACME")
    assert LeadExecConnection.objects.count() == 2


def test_a_token_or_account_of_another_user_is_a_conflict() -> None:
    make_connection("a", account_id="acme")
    for token, account in (("a", ""), ("a", "other"), ("b", "acme")):
        with pytest.raises(ConnectionConflict):
            make_connection(token, account_id=account)


def test_an_account_learned_later_stays_on_the_same_row() -> None:
    user = make_user()
    first = make_connection("a", user=user)
    second = make_connection("a", user=user, account_id="acme")
    assert first.pk == second.pk
    assert LeadExecConnection.objects.get().account_id == "acme"


def test_an_account_once_known_is_not_forgotten() -> None:
    user = make_user()
    make_connection("a", user=user, account_id="acme")
    make_connection("a", user=user)
    assert LeadExecConnection.objects.get().account_id == "acme"


def test_two_rows_of_one_association_become_one() -> None:
    user = make_user()
    make_connection("a", user=user)
    make_connection("b", user=user, account_id="acme")
    make_connection("a", user=user, account_id="acme")
    assert plain(LeadExecConnection.objects.live().get().refresh_token) == "a"
    assert not PendingRevocation.objects.exists()


def test_connecting_again_after_a_revocation_makes_a_new_row() -> None:
    user = make_user()
    old = make_connection("a", user=user)
    LeadExecConnection.objects.all().move_to_outbox()
    new = make_connection("b", user=user)
    assert new.pk != old.pk
    assert LeadExecConnection.objects.count() == 2


def test_the_database_holds_a_token_once() -> None:
    row = make_connection("a")
    duplicate = LeadExecConnection(
        user=make_user(), app_id="x", fingerprint=row.fingerprint, refresh_token="b"
    )
    with pytest.raises(IntegrityError), transaction.atomic():
        duplicate.save()


def test_a_lease_ends_with_a_new_token() -> None:
    user = make_user()
    make_connection("a", user=user)
    (claimed,) = LeadExecConnection.objects.order_by("pk").claim(1, 60)
    with writing(LeadExecConnection, "default"):
        link(user, "test-app", "b", "x", time.time() + 60, using="default")
    assert not is_leased(LeadExecConnection.objects.get())
    claimed.row.record_success("late", time.time() + 3600)
    assert LeadExecConnection.objects.all().write_claimed([claimed]).lost == [claimed]
    assert plain(LeadExecConnection.objects.get().access_token) == "x"
