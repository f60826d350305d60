"""The mark that says for whom a page was rendered."""

import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from pytest_django import Settings

from django_leadexec.visitor_mark import OtherVisitor, is_mark_of, mark_of, require_mark_of

NOBODY = AnonymousUser()


def user(pk: object) -> Any:
    return SimpleNamespace(pk=pk, is_authenticated=True)


USERS = [user(1), user(11), user(uuid.UUID(int=1)), user("ada"), user("é"), user("")]


def test_each_visitor_has_a_mark_of_their_own() -> None:
    visitors = [*USERS, NOBODY]
    marks = [mark_of(visitor) for visitor in visitors]
    assert len(set(marks)) == len(visitors)
    for visitor in visitors:
        assert [is_mark_of(visitor, mark) for mark in marks].count(True) == 1


def test_strangers_share_one_mark_whatever_stands_for_them() -> None:
    assert mark_of(None) == mark_of(AnonymousUser())
    assert is_mark_of(NOBODY, mark_of(None))


def test_a_key_is_known_again_when_the_user_comes_from_the_database() -> None:
    key = uuid.uuid4()
    assert mark_of(user(key)) == mark_of(user(str(key)))


def test_it_does_not_tell_the_key_to_who_lacks_the_secret(settings: Settings) -> None:
    mark = mark_of(user(123_456))
    assert "123456" not in mark
    settings.SECRET_KEY = "guessed"
    assert mark_of(user(123_456)) != mark


def test_marks_of_before_a_change_of_the_secret_are_good_while_it_is_a_fallback(
    settings: Settings,
) -> None:
    mark = mark_of(user(1))
    settings.SECRET_KEY = "new"
    assert not is_mark_of(user(1), mark)
    settings.SECRET_KEY_FALLBACKS = ["older", "only-for-tests"]
    assert is_mark_of(user(1), mark)
    assert not is_mark_of(user(2), mark)
    assert is_mark_of(user(1), mark_of(user(1)))


@pytest.mark.parametrize(
    "mark", [None, "", "é" * 64, "\ud800", "0" * 64, 1, True, [], {}, ["x"]], ids=ascii
)
@pytest.mark.parametrize("visitor", [NOBODY, user(1)], ids=["nobody", "user"])
def test_what_is_no_mark_is_nobodys(visitor: Any, mark: object) -> None:
    assert not is_mark_of(visitor, mark)
    with pytest.raises(OtherVisitor):
        require_mark_of(visitor, mark)
