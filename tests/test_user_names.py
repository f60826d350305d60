"""Which fields of the user model users can be found by."""

import pytest

from django_leadexec import user_names
from django_leadexec.models import LeadExecConnection
from django_leadexec.user_names import UnknownField, UserNames

from .factories import make_user

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("name", [None, "username", "email"])
def test_a_column_will_do(name: str | None) -> None:
    user = make_user("ada", email="ada@example.org")
    value = getattr(user, name or "username")
    assert UserNames("default", name).find([value]) == {value: [user]}


@pytest.mark.parametrize("name", ["nowhere", "groups", "leadexec_connections"])
def test_what_is_no_column_is_told_by_its_name(name: str) -> None:
    with pytest.raises(UnknownField, match=f"^Users can't be found by '{name}'"):
        UserNames("default", name)


def test_nor_will_a_column_that_refuses_to_be_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_names, "get_user_model", lambda: LeadExecConnection)
    with pytest.raises(UnknownField, match="refresh_token"):
        UserNames("default", "refresh_token")
