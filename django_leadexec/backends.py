"""The authentication backend behind ``SIGN_IN``."""

from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.backends import BaseBackend
from django.contrib.auth.models import AbstractBaseUser
from django.http import HttpRequest

from .accounts import may_sign_in
from .authorization import SignedIn


class LeadExecBackend(BaseBackend):
    """Logs in the user of an authorization that has just been verified.

    It takes the ``SignedIn`` that ``authorization`` makes, never a value that a form could hold.
    """

    # django-stubs knows no user model but the default one.
    def authenticate(  # type: ignore[override]
        self, request: HttpRequest | None, verified: SignedIn | None = None, **kwargs: Any
    ) -> AbstractBaseUser | None:
        if isinstance(verified, SignedIn) and may_sign_in(verified.user):
            return verified.user
        return None

    def get_user(self, user_id: Any) -> AbstractBaseUser | None:  # type: ignore[override]
        # Django asks at each request. A user who has become staff must log in another way.
        user = get_user_model()._default_manager.filter(pk=user_id).first()
        return user if user is not None and may_sign_in(user) else None
