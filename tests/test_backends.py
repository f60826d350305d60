"""The authentication backend."""

from typing import Any

import pytest
from django.contrib.auth import authenticate, get_user_model

from django_leadexec.authorization import SignedIn
from django_leadexec.backends import LeadExecBackend

from .factories import make_connection, make_user

pytestmark = pytest.mark.django_db


def test_it_takes_a_verified_outcome() -> None:
    row = make_connection()
    user = authenticate(None, verified=SignedIn(row))
    assert user
    assert user == row.user
    assert user.backend == "django_leadexec.backends.LeadExecBackend"


@pytest.mark.parametrize("value", ["a-token", 1, None, {"connection": 1}, True])
def test_it_takes_nothing_that_a_form_could_carry(value: Any) -> None:
    row = make_connection("a-token")
    assert authenticate(None, verified=value) is None
    assert authenticate(None, username=row.user.username, password=value) is None


@pytest.mark.parametrize("field", ["is_staff", "is_superuser"])
def test_it_knows_no_staff(field: str) -> None:
    fields: dict[str, Any] = {field: True}
    row = make_connection(user=make_user(**fields))
    assert authenticate(None, verified=SignedIn(row)) is None
    assert LeadExecBackend().get_user(row.user.pk) is None


def test_a_session_ends_when_its_user_is_made_inactive_or_deleted() -> None:
    user = make_user()
    assert LeadExecBackend().get_user(user.pk) == user
    get_user_model().objects.update(is_active=False)
    assert LeadExecBackend().get_user(user.pk) is None
    user.delete()
    assert LeadExecBackend().get_user(user.pk) is None
