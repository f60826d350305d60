"""Who is who: what a site writes itself to let people sign in with LeadExec."""

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import make_password
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
    """The site's user for an account; the same one again after a disconnect.

    No form accepts a colon in a user name, so nobody can have taken this one before.
    """
    user, _ = get_user_model().objects.get_or_create(
        username=f"leadexec:{account_id}",
        defaults={"first_name": account_id, "password": make_password(None)},
    )
    return user
