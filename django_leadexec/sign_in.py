"""Logs in the user of a verified authorization."""

from django.contrib import auth
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.db import DatabaseError, router
from django.http import HttpRequest

from .accounts import still_exists
from .authorization import SignedIn
from .conflicts import retry_on_deadlock
from .exceptions import SignInForbidden
from .verification import UserDeleted


def sign_in(request: HttpRequest, verified: SignedIn) -> None:
    """Log the user in by the site's authentication backends.

    Raises SignInForbidden if no backend accepts them, UserDeleted if they were deleted in the
    meantime. In both cases the visitor stays anonymous.
    """
    user = auth.authenticate(request, verified=verified)
    # A default manager may hide users. Those would be logged out again at their next request.
    if user is None or not get_user_model()._default_manager.filter(pk=user.pk).exists():
        raise SignInForbidden("This user can't be signed in by LeadExec.")
    try:
        # Django writes the time to the user's row, which several browsers may do at once.
        retry_on_deadlock(router.db_for_write(type(user)), lambda: auth.login(request, user))
        return
    except DatabaseError:
        # Django has put the user into the session by now, and fails to write the time of the login
        # to their row if that was deleted.
        if still_exists(user):
            raise
    request.session.flush()
    request.user = AnonymousUser()
    raise UserDeleted("The user was deleted before their log-in.")
