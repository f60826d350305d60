"""Refresh tokens that a site already holds become connections."""

import asyncio
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from django_leadexec.exceptions import (
    AuthorizationRejected,
    ConnectionConflict,
    ProviderUnavailable,
    RevocationPending,
)
from django_leadexec.models import LeadExecConnection
from django_leadexec.refresh import Options, Refresher
from django_leadexec.secret import Secret

from . import provider as stand_in
from .factories import make_connection, make_user, plain
from .processes import wait_until
from .provider import Provider

pytestmark = pytest.mark.django_db(transaction=True)

rows = LeadExecConnection.objects


def test_a_token_that_the_provider_accepts_is_stored_and_usable(provider: Provider) -> None:
    user = make_user()
    row = rows.adopt(user, "t", account_id="acme")
    assert row == user.leadexec_connections.get()
    assert (plain(row.refresh_token), row.account_id) == ("t", "acme")
    assert row.get_access_token() == "access-1-for-t"
    assert provider.refreshes["t"] == 1


def test_a_secret_and_async_code_will_do(provider: Provider) -> None:
    user = make_user()

    async def adopt() -> LeadExecConnection:
        return await rows.aadopt(user, Secret("t"))

    row = async_to_sync(adopt)()
    assert row.get_access_token() == "access-1-for-t"


def test_a_token_that_is_not_verified_is_due_at_once(provider: Provider) -> None:
    row = rows.adopt(make_user(), "t", verify=False)
    assert not provider.refreshes
    assert Refresher(Options.for_all("default")).run().refreshed == 1
    assert row.get_access_token() == "access-1-for-t"


def test_a_token_on_file_is_left_as_it_is_and_nobody_is_asked(provider: Provider) -> None:
    row = make_connection("t")
    assert rows.adopt(row.user, "t") == row
    assert not provider.refreshes
    with pytest.raises(ConnectionConflict):
        rows.adopt(make_user(), "t")


def test_a_token_on_file_for_another_application_is_stored_for_this_one(provider: Provider) -> None:
    row = make_connection("t", app_id="of-before")
    assert rows.adopt(row.user, "t") == row
    assert provider.refreshes["t"] == 1
    assert rows.get().app_id == "test-app"
    assert row.get_access_token() == "access-1-for-t"


def test_async_code_keeps_the_thread_of_the_database_free_during_the_call(
    provider: Provider,
) -> None:
    user = make_user()
    provider.held.set()

    async def adopt_beside_another_query() -> int:
        adopting = asyncio.create_task(rows.aadopt(user, "t"))
        await asyncio.to_thread(wait_until, lambda: provider.refreshes)
        count = await rows.acount()
        provider.held.clear()
        await adopting
        return count

    assert async_to_sync(adopt_beside_another_query)() == 0
    assert rows.count() == 1


def test_another_token_replaces_the_users_own(provider: Provider) -> None:
    row = make_connection("old")
    assert rows.adopt(row.user, "new") == row
    assert plain(rows.get().refresh_token) == "new"


def test_the_account_of_another_user_is_a_conflict(provider: Provider) -> None:
    make_connection("t", account_id="acme")
    with pytest.raises(ConnectionConflict):
        rows.adopt(make_user(), "new", account_id="acme")
    assert rows.count() == 1


def test_what_waits_in_the_outbox_is_not_adopted(provider: Provider) -> None:
    row = make_connection("t")
    rows.all().move_to_outbox()
    with pytest.raises(RevocationPending):
        rows.adopt(row.user, "t")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (stand_in.refused, AuthorizationRejected),
        (stand_in.unavailable, ProviderUnavailable),
    ],
)
def test_without_the_providers_yes_nothing_is_stored(
    provider: Provider, answer: stand_in.Answer, error: type[Exception]
) -> None:
    provider.answers["t"] = answer
    with pytest.raises(error):
        rows.adopt(make_user(), "t")
    assert not rows.exists()


@pytest.mark.parametrize("wrong", ["", " ", ".", "..", "a b", "ä", "x" * 2_049, "a\n"])
def test_what_can_be_no_token_is_an_error_that_does_not_show_it(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"2,048") as caught:
        rows.adopt(make_user(), wrong)
    assert wrong.strip(" .\n") == "" or wrong not in str(caught.value)


@pytest.mark.parametrize("wrong", [None, 5, b"t"])
def test_what_is_no_text_is_an_error(wrong: Any) -> None:
    with pytest.raises(TypeError):
        rows.adopt(make_user(), wrong)
