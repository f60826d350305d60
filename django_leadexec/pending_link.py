"""A link that waits in the session for its visitor to log in and confirm it, for ten minutes."""

import time
from dataclasses import dataclass

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.http import HttpRequest
from django.utils.crypto import get_random_string

from . import crypto
from .authorization import LinkWaiting
from .exceptions import DecryptionFailed

KEY = "leadexec_pending_link"
# In seconds.
LIFETIME = 600


@dataclass(frozen=True)
class PendingLink(LinkWaiting):
    """What the confirm page shows and links. ``next_url``: where to go afterwards, "" for none.

    ``name`` is different for each link. The page posts it back, so that only the link that it has
    shown can be confirmed.
    """

    next_url: str
    name: str


def keep(request: HttpRequest, waiting: LinkWaiting, next_url: str) -> PendingLink:
    """Keep a link in the session, its token encrypted.

    If the visitor is logged in, nobody else may confirm it. Who is not gets a session of a new
    key: whoever has planted the old one in this browser must not find the link in it.
    """
    link = PendingLink(
        waiting.refresh_token, waiting.account_id, next_url, name=get_random_string(12)
    )
    if not request.user.is_authenticated:
        request.session.cycle_key()
    request.session[KEY] = {
        "refresh_token": crypto.encrypt(link.refresh_token),
        "account_id": link.account_id,
        "next_url": link.next_url,
        "name": link.name,
        "user": _key_of(request.user),
        "until": time.time() + LIFETIME,
    }
    return link


def find(request: HttpRequest) -> PendingLink | None:
    """The link that waits for this visitor, or None. A link for another user is dropped."""
    kept = request.session.get(KEY)
    if kept is None:
        return None
    if kept["until"] < time.time() or kept["user"] not in ("", _key_of(request.user)):
        drop(request)
        return None
    try:
        refresh_token = crypto.decrypt(kept["refresh_token"])
    except DecryptionFailed:
        drop(request)
        return None
    if request.user.is_authenticated and not kept["user"]:
        # The first to log in is the only one who may confirm.
        request.session[KEY] = {**kept, "user": _key_of(request.user)}
    return PendingLink(refresh_token, kept["account_id"], kept["next_url"], kept["name"])


def drop(request: HttpRequest) -> None:
    """Forget the link."""
    request.session.pop(KEY, None)


def _key_of(user: AbstractBaseUser | AnonymousUser) -> str:
    return str(user.pk) if user.is_authenticated else ""
