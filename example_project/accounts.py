"""Who is who: what a site writes itself to let people sign in with LeadExec."""

import secrets

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser

from django_leadexec.session import LeadExecSession


def identify(session: LeadExecSession) -> str:
    """The account behind a token, asked of the sandbox.

    LeadExec documents no such call. Put in its place one that your account is known to have and
    that names the account for good.
    """
    reply = session.get(f"{settings.LEADEXEC_DATA_API}/account")
    reply.raise_for_status()
    return str(reply.json()["accountId"])


def create_user(account_id: str, session: LeadExecSession) -> AbstractBaseUser:
    """A user for an account that the site doesn't know, or no longer does. Has no password.

    Always a new one: who may use an existing user is for that user to say. No form accepts a
    colon in a user name, so nobody can have taken the name before.
    """
    return get_user_model().objects.create_user(
        f"{account_id}:{secrets.token_hex(4)}", first_name=account_id
    )
