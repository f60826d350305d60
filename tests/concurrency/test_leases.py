"""Whose lease a write lets go: its own, whether the answer still counts or not, and no other."""

import time

import pytest
from django.db import transaction

from django_leadexec.exceptions import LeadExecError
from django_leadexec.models import LeadExecConnection

from .. import provider as stand_in
from ..factories import is_leased, make_connection, make_user, plain
from ..processes import wait_until
from ..provider import Provider
from .test_interleavings import link_now
from .threads import begin

pytestmark = pytest.mark.django_db(transaction=True)

rows = LeadExecConnection.objects


def test_an_answer_that_came_too_late_lets_its_lease_go() -> None:
    user = make_user()
    make_connection("t", user=user)
    (claimed,) = rows.order_by("pk").claim(1, 60)
    link_now(user, "t")
    claimed.row.record_success("late", time.time() + 60)
    assert rows.all().write_claimed([claimed]).lost == [claimed]
    assert not is_leased(rows.get())
    assert plain(rows.get().access_token) == "a"


def test_an_answer_that_came_too_late_leaves_the_lease_of_who_has_claimed_since() -> None:
    make_connection("t")
    (lapsed,) = rows.order_by("pk").claim(1, -10)
    rows.order_by("pk").claim(1, 60)
    lapsed.row.record_success("late", time.time() + 60)
    assert rows.all().write_claimed([lapsed]).lost == [lapsed]
    assert is_leased(rows.get())


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (stand_in.fresh, "access-1-for-t"),
        (stand_in.refused, "AuthorizationRejected"),
        (stand_in.unavailable, "ProviderUnavailable"),
    ],
)
def test_a_read_in_a_callers_transaction_leaves_the_lease_of_who_is_asking(
    provider: Provider, answer: stand_in.Answer, result: str
) -> None:
    make_connection("t", expires_in=-1)
    provider.answers["t"] = answer
    (claimed,) = rows.order_by("pk").claim(1, 60)
    assert begin(in_a_transaction).result() == result
    assert rows.get().lease_until == claimed.lease_until


@pytest.mark.server
def test_a_read_in_a_callers_transaction_that_came_too_late_leaves_it_too(
    provider: Provider,
) -> None:
    user = make_user()
    make_connection("t", user=user, expires_in=-1)
    (claimed,) = rows.order_by("pk").claim(1, 60)
    provider.held.set()
    reader = begin(in_a_transaction)
    wait_until(lambda: provider.refreshes["t"])
    link_now(user, "t")
    provider.held.clear()
    assert reader.result() == "a"
    assert rows.get().lease_until == claimed.lease_until


def in_a_transaction() -> str:
    with transaction.atomic():
        try:
            return rows.get().get_access_token(30)
        except LeadExecError as error:
            return type(error).__name__
