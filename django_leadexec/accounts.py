"""LeadExec accounts and the site's users: IDENTIFY, CREATE_USER, and who may be signed in."""

import logging
import threading
from typing import Any

import requests
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser
from django.core.exceptions import ImproperlyConfigured
from django.db.models.signals import post_save
from django.utils.module_loading import import_string

from .exceptions import LeadExecError, ProviderUnavailable, SignInForbidden
from .routing import database_of
from .secret import Secret
from .session import LeadExecSession

logger: logging.Logger = logging.getLogger(__name__)

# The length of the column, in characters.
MAX_ACCOUNT_ID = 255


class UserExists(LeadExecError):
    """``CREATE_USER`` could not save its user, most likely as there is one of that name."""


def identify(path: str, access_token: Secret) -> str:
    """Ask the site's ``IDENTIFY``, a dotted path, which account an access token is for.

    Raises ProviderUnavailable if it does not name one, and whatever else it raises itself.
    """
    try:
        with _open_session(access_token) as session:
            account_id = import_string(path)(session)
    except requests.RequestException:
        logger.warning("LEADEXEC['IDENTIFY'] could not reach LeadExec's API.")
    else:
        if _is_account_id(account_id):
            return str(account_id)
        logger.error("LEADEXEC['IDENTIFY'] must return a str of 1 to 255 characters, not blank.")
    raise ProviderUnavailable("The account behind this authorization could not be found out.")


def _is_account_id(value: object) -> bool:
    return (
        isinstance(value, str)
        and 1 <= len(value) <= MAX_ACCOUNT_ID
        and value.isprintable()
        and value.strip().lower() not in ("", "none", "null")
    )


def create_user(path: str, account_id: str, access_token: Secret) -> AbstractBaseUser:
    """Let the site's ``CREATE_USER``, a dotted path, make the user of an unknown account.

    The user has to be a new one. An existing user has to link an account themselves.
    Raises ProviderUnavailable if it can't reach LeadExec's API, ImproperlyConfigured if it returns
    anything else, and whatever it raises itself.
    """
    created_keys: set[Any] = set()
    thread = threading.get_ident()
    model = get_user_model()

    def on_save(sender: Any, instance: Any, created: bool, **kwargs: Any) -> None:
        if created and isinstance(instance, model) and threading.get_ident() == thread:
            created_keys.add(instance.pk)

    # For every sender, because a proxy or a child of the user model sends as itself.
    post_save.connect(on_save)
    is_unreachable = False
    try:
        with _open_session(access_token) as session:
            user = import_string(path)(account_id, session)
    except requests.RequestException:
        is_unreachable = True
    finally:
        post_save.disconnect(on_save)
    if is_unreachable:
        logger.warning("LEADEXEC['CREATE_USER'] could not reach LeadExec's API.")
        raise ProviderUnavailable("The user of this authorization could not be created.")
    if not isinstance(user, model) or user.pk not in created_keys or not may_sign_in(user):
        raise ImproperlyConfigured(
            "LEADEXEC['CREATE_USER'] must save and return a new, active user without staff rights."
        )
    return user


def may_sign_in(user: AbstractBaseUser) -> bool:
    """Whether LeadExec may sign this user in.

    Inactive users may not. Nor may staff and superusers: what they can do on this site must not
    depend on an account at another.
    """
    return user.is_active and not (
        getattr(user, "is_staff", False) or getattr(user, "is_superuser", False)
    )


def refuse_staff_and_inactive(user: AbstractBaseUser) -> None:
    """Raise SignInForbidden for a user whom LeadExec may not sign in: ``may_sign_in``."""
    if not may_sign_in(user):
        raise SignInForbidden("This user can't be signed in by LeadExec.")


def still_exists(user: AbstractBaseUser) -> bool:
    """Whether the user has not been deleted since they were read."""
    return get_user_model()._base_manager.using(database_of()).filter(pk=user.pk).exists()


def _open_session(access_token: Secret) -> LeadExecSession:
    return LeadExecSession(lambda refused: access_token)
