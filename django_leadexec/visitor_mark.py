"""Signed marks that say for whom a page was rendered.

A page posts its mark with a token. A post that comes with another visitor's session counts for
nothing: a site under the same domain can set that cookie, and would get what the visitor connects.
"""

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.utils.crypto import constant_time_compare, salted_hmac

from .exceptions import LeadExecError

SALT = "django_leadexec.visitor"


class OtherVisitor(LeadExecError):
    """The page that has posted was made for another visitor than the session is of, or for none."""


def require_mark_of(user: AbstractBaseUser | AnonymousUser, mark: object) -> None:
    """Raise OtherVisitor if ``mark``, which anybody may have posted, is not this user's."""
    if not is_mark_of(user, mark):
        raise OtherVisitor("The page was made for another visitor than the session is of.")


def mark_of(user: AbstractBaseUser | AnonymousUser | None) -> str:
    """The mark of a user, or of all who are not logged in, as 64 hex digits.

    It depends on no session, so pages for strangers stay the same for all of them. It has no end:
    it opens nothing, and a page that stays open has to go on working. It does not tell the key.
    """
    return _mark(user, settings.SECRET_KEY)


def is_mark_of(user: AbstractBaseUser | AnonymousUser | None, mark: object) -> bool:
    """Whether a posted mark is this user's."""
    if not isinstance(mark, str) or not mark.isascii():
        return False
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return any(constant_time_compare(mark, _mark(user, key)) for key in keys)


def _mark(user: AbstractBaseUser | AnonymousUser | None, key: str | bytes) -> str:
    name = f"user {user.pk}" if user is not None and user.is_authenticated else ""
    return salted_hmac(SALT, name, secret=key, algorithm="sha256").hexdigest()
