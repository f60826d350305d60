"""Which connection a user means when they disconnect."""

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser

from .models import LeadExecConnection
from .querysets import ConnectionQuerySet
from .routing import database_of

# A key of more digits than this fits into no column.
MAX_DIGITS = 18
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
    is_key = text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS
    return rows.filter(pk=text) if is_key else rows.none()
