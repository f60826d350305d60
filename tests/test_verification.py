"""A token that the provider has just accepted: whose it is, and which row it becomes."""

import time

import pytest

from django_leadexec.conf import get_settings
from django_leadexec.models import LeadExecConnection
from django_leadexec.secret import Secret
from django_leadexec.verification import Verified

from .factories import make_connection, make_user

pytestmark = pytest.mark.django_db


def accepted(row: LeadExecConnection | None, account_id: str) -> Verified:
    return Verified(
        Secret("t"), Secret("access"), time.time() + 3600, account_id, row, get_settings()
    )


@pytest.mark.parametrize("before", ["", "account-1", "account-3"])
def test_a_token_on_file_whose_account_is_another_now_is_stored_with_that(before: str) -> None:
    user = make_user()
    row = make_connection("t", user=user, account_id=before)
    assert accepted(row, "account-2").link_to(user).account_id == "account-2"
    assert LeadExecConnection.objects.live().get().account_id == "account-2"


def test_a_token_on_file_whose_account_is_the_same_is_not_stored_again() -> None:
    user = make_user()
    row = make_connection("t", user=user, account_id="account-1")
    version = row.version
    assert accepted(row, "account-1").link_to(user) == row
    assert LeadExecConnection.objects.get().version == version
