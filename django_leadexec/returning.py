"""The automatic return: what lets a browser sign its visitor in again without a click.

A signed, HttpOnly cookie, set by a clicked sign-in, names the connection. It ends with the user's
next sign-out, on whatever browser, and with a change of their password.
"""

from typing import Any

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.core import signing
from django.db.models import F
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare, salted_hmac

from .connections import database_of
from .models import LeadExecConnection, despite_deadlocks

COOKIE = "leadexec_return"
SALT = "django_leadexec.returning"


def remember(response: HttpResponse, connection: LeadExecConnection) -> None:
    """Let this browser return as the user of ``connection``, for as long as a session lasts."""
    ticket = {"connection": connection.pk, "seal": _seal(connection)}
    response.set_cookie(
        COOKIE,
        signing.dumps(ticket, salt=SALT),
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
        ticket = signing.loads(
            request.COOKIES[COOKIE], salt=SALT, max_age=settings.SESSION_COOKIE_AGE
        )
        pk, seal = int(ticket["connection"]), str(ticket["seal"])
    except (KeyError, TypeError, ValueError, signing.BadSignature):
        return None
    rows = LeadExecConnection.objects.using(database_of()).live().select_related("user")
    connection = rows.filter(pk=pk).first()
    if connection is None or not constant_time_compare(seal, _seal(connection)):
        return None
    return connection


def forget(response: HttpResponse) -> None:
    """Take the cookie from this browser."""
    response.delete_cookie(
        COOKIE, path=settings.SESSION_COOKIE_PATH, domain=settings.SESSION_COOKIE_DOMAIN
    )


def end_automatic_return(
    sender: Any, request: HttpRequest | None, user: AbstractBaseUser | None, **kwargs: Any
) -> None:
    """At a user's sign-out: no browser returns as them before their next clicked sign-in.

    Nor does this browser as anybody: the session of the one who could may have run out before.
    """
    users = set() if user is None else {user.pk}
    connection = None if request is None else returning_connection(request)
    if connection is not None:
        users.add(connection.user_id)
    if users:
        using = database_of()
        rows = LeadExecConnection.objects.using(using).live().filter(user_id__in=users)
        despite_deadlocks(using, lambda: rows.update(sign_outs=F("sign_outs") + 1))


def _seal(connection: LeadExecConnection) -> str:
    password = getattr(connection.user, "password", "")
    bound_to = f"{connection.pk}:{connection.sign_outs}:{password}"
    return salted_hmac(SALT, bound_to, algorithm="sha256").hexdigest()
