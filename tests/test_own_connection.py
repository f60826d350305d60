"""Which connection a user means when they disconnect. ``test_views`` has the view."""

from typing import Any

import pytest
from pytest_django import DjangoAssertNumQueries

from django_leadexec.models import LeadExecConnection
from django_leadexec.own_connection import is_disconnected, own_connection

from .factories import make_connection, make_user

pytestmark = pytest.mark.django_db

LARGEST = 9_223_372_036_854_775_807


def test_the_largest_key_that_a_row_can_have_is_looked_for(
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    user = make_user()
    for key in (str(LARGEST), LARGEST):
        with django_assert_num_queries(1) as queries:
            assert own_connection(user, key) is None
        assert str(LARGEST) in queries[0]["sql"]


@pytest.mark.parametrize("key", [str(LARGEST + 1), "9" * 19, "1" * 20, "1" * 5000, "-1", "²"])
def test_what_can_be_no_key_is_not_looked_for(
    django_assert_num_queries: DjangoAssertNumQueries, key: Any
) -> None:
    user = make_connection().user
    with django_assert_num_queries(0):
        assert own_connection(user, key) is None
    assert not is_disconnected(user, key)
    assert LeadExecConnection.objects.active().count() == 1
