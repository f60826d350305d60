"""The peers' way: social-auth-app-django, as its documentation has it, with the stand-in."""

from typing import Any

from django.conf import settings
from social_core.backends.oauth import BaseOAuth2


class StandInOAuth2(BaseOAuth2[Any]):
    name = "stand-in"
    ACCESS_TOKEN_URL = REFRESH_TOKEN_URL = f"{settings.LEADEXEC['BASE_URL']}/token"
    EXTRA_DATA = [("refresh_token", "refresh_token"), ("expires_in", "expires")]
