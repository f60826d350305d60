"""Who is who: what a site writes itself to let people sign in with LeadExec."""

import secrets

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser

from django_leadexec.session import LeadExecSession


def identify(session: LeadExecSession) -> str:
    """The account behind a token, asked of the sandbox.

    This call is the sandbox's own: LeadExec documents none that names the account. So before you
    write your ``IDENTIFY``, find out from LeadExec (support@clickpointsoftware.com):

    - which call of the account API tells whose token it is, and under which key;
    - that its value names the account and not something that two accounts can share, such as a
      company's name;
    - that it never changes, and that no other account can get it later, also after a closure.

    Without such a call leave ``SIGN_IN`` off: your users log in as they do now, and connect.
    """
    reply = session.get(f"{session.account_api}/sandbox-only/account")
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
