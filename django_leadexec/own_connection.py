"""Which connection a user means when they disconnect."""

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db.models import BigIntegerField

from .models import LeadExecConnection
from .querysets import ConnectionQuerySet
from .routing import database_of

# The largest key that fits into the column. It has 19 digits.
MAX_KEY: int = BigIntegerField.MAX_BIGINT
NO_KEY: tuple[object, ...] = (None, "")


def own_connection(
    user: AbstractBaseUser | AnonymousUser, key: object = None
) -> LeadExecConnection | None:
    """The user's own live connection with this key. Without a key: the only one they have.

    ``key`` is what a form or a script has posted, of any type; None and "" are no key. Returns None
    if there is no such connection, or without a key more than one.
    """
    live = _rows_of(user).live()
    found = list(live[:2] if key in NO_KEY else _with_key(live, key))
    return found[0] if len(found) == 1 else None


def is_disconnected(user: AbstractBaseUser | AnonymousUser, key: object = None) -> bool:
    """Whether there is nothing left to end: the row with this key is revoked, or all rows are.

    So a form that is sent twice, or from an old page, need not fail. Says nothing about the rows
    of other users.
    """
    rows = _rows_of(user)
    revoked = rows.filter(status=LeadExecConnection.Status.REVOKED)
    return _with_key(revoked, key).exists() or not rows.live().exists()


def _rows_of(user: AbstractBaseUser | AnonymousUser) -> ConnectionQuerySet:
    return LeadExecConnection.objects.using(database_of()).for_user(user)


def _with_key(rows: ConnectionQuerySet, key: object) -> ConnectionQuerySet:
    text = str(key)
    # First the length: Python reads no number of thousands of digits.
    is_short = text.isascii() and text.isdigit() and len(text) <= len(str(MAX_KEY))
    return rows.filter(pk=text) if is_short and int(text) <= MAX_KEY else rows.none()
