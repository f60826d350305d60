"""The automatic return: a browser may sign its visitor in again without a click.

A clicked sign-in sets a signed, HttpOnly cookie that names the connection. The cookie becomes
invalid when the user signs out, in any browser, and when their password changes.
"""

from typing import Any

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.core import signing
from django.db.models import F
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare, salted_hmac

from .conflicts import busy_on_conflict
from .leases import writing
from .models import LeadExecConnection
from .routing import database_of

COOKIE = "leadexec_return"
SALT = "django_leadexec.returning"


def remember(response: HttpResponse, connection: LeadExecConnection) -> None:
    """Let this browser return as the user of ``connection``, for as long as a session lasts."""
    value = {"connection": connection.pk, "digest": _digest(connection)}
    response.set_cookie(
        COOKIE,
        signing.dumps(value, salt=SALT),
        max_age=None if settings.SESSION_EXPIRE_AT_BROWSER_CLOSE else settings.SESSION_COOKIE_AGE,
        path=settings.SESSION_COOKIE_PATH,
        domain=settings.SESSION_COOKIE_DOMAIN,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )


def returning_connection(request: HttpRequest) -> LeadExecConnection | None:
    """The connection this browser may return to, or None."""
    try:
        value = signing.loads(
            request.COOKIES[COOKIE], salt=SALT, max_age=settings.SESSION_COOKIE_AGE
        )
        pk, digest = int(value["connection"]), str(value["digest"])
    except (KeyError, TypeError, ValueError, signing.BadSignature):
        return None
    rows = LeadExecConnection.objects.using(database_of()).live().select_related("user")
    connection = rows.filter(pk=pk).first()
    if connection is None or not constant_time_compare(digest, _digest(connection)):
        return None
    return connection


def connection_to_return_to(request: HttpRequest) -> LeadExecConnection | None:
    """The connection this visitor may return to now, or None.

    None also if the session that the request came with has been ended since, perhaps by a sign-out
    that told nobody.
    """
    return None if _session_has_ended(request) else returning_connection(request)


def forget(response: HttpResponse) -> None:
    """Delete the cookie in this browser."""
    response.delete_cookie(
        COOKIE, path=settings.SESSION_COOKIE_PATH, domain=settings.SESSION_COOKIE_DOMAIN
    )


def end_automatic_return(
    sender: Any, request: HttpRequest | None, user: AbstractBaseUser | None, **kwargs: Any
) -> None:
    """At a sign-out, make all cookies of the user invalid, until their next clicked sign-in.

    Also those of the user whom this browser's cookie names. Their session may have ended before.
    Raises ConnectionBusy if others keep a row locked. The sign-out then fails: the browser would
    still be one that its user returns to, whoever uses it next.
    """
    users = set() if user is None else {user.pk}
    connection = None if request is None else returning_connection(request)
    if connection is not None:
        users.add(connection.user_id)
    if users:
        using = database_of()
        rows = LeadExecConnection.objects.using(using).live().filter(user_id__in=users)

        def count_sign_out() -> None:
            with writing(LeadExecConnection, using):
                locked = list(rows.order_by("pk").locked(no_key=True))
                rows.with_keys_of(locked).update(sign_outs=F("sign_outs") + 1)

        busy_on_conflict(using, count_sign_out)


def _session_has_ended(request: HttpRequest) -> bool:
    key = request.session.session_key
    if not key:
        return False
    # Not exists(), which some engines can't tell. A session that is not found loses its key.
    stored = type(request.session)(key)
    stored.load()
    return not stored.session_key


def _digest(connection: LeadExecConnection) -> str:
    password = getattr(connection.user, "password", "")
    bound_to = f"{connection.pk}:{connection.sign_outs}:{password}"
    return salted_hmac(SALT, bound_to, algorithm="sha256").hexdigest()
