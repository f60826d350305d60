"""What the provider knows and decides: accounts, grants, tokens. No HTTP here.

On SQLite a transaction that begins with a read fails at once when another writes; so here every
write is one statement of its own.
"""

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from django.db.models import QuerySet
from django.utils import timezone

from .conf import get_options
from .models import AccessToken, Grant, digest
from .wire import Payload, expire_date

ACCOUNTS: Mapping[str, str] = {
    "northwind-solar": "Northwind Solar",
    "harbor-mortgage": "Harbor Mortgage",
    "evergreen-insurance": "Evergreen Insurance",
    "summit-roofing": "Summit Roofing",
}
_NAME_LIMIT = 191


def company(account: str) -> str:
    """The company's name; accounts made by `create_grants` are named after their id."""
    return ACCOUNTS.get(account) or account.replace("-", " ").title()


def knows_button(button_id: str) -> bool:
    """Whether an application has this sign-in button."""
    applications = get_options().applications
    if applications is None:
        return 0 < len(button_id) <= _NAME_LIMIT and button_id.isprintable()
    return button_id in applications.values()


def app_of(button_id: str) -> str:
    """The button's application; "" while no refresh call has told which it is."""
    applications = get_options().applications
    if applications is None:
        grants = Grant.objects.filter(button_id=button_id).exclude(app_id="")
        return grants.values_list("app_id", flat=True).order_by("-pk").first() or ""
    return next((app for app, button in applications.items() if button == button_id), "")


def find_grant(account: str, button_id: str) -> Grant | None:
    """What the account has already granted to the button's application."""
    grants = Grant.objects.live().filter(account=account, button_id=button_id).order_by("pk")
    # A grant made under another SECRET_KEY can't give its token again.
    return next((grant for grant in grants if digest(grant.refresh_token) == grant.digest), None)


def authorize(account: str, button_id: str) -> Grant:
    """Consent. An account that consents again keeps its grant, and so its refresh token."""
    grant = find_grant(account, button_id)
    if grant is None:
        app_id = app_of(button_id) if get_options().applications is not None else ""
        grant = _new_grant(account, app_id, button_id)
        grant.save(force_insert=True)
    return grant


def create_grants(
    app_id: str, count: int = 1, *, account: str | None = None, button_id: str = ""
) -> list[str]:
    """Make grants in bulk and return their refresh tokens; each is of an account of its own
    unless one is named."""
    grants = [
        _new_grant(account or f"demo-{secrets.token_hex(4)}", app_id, button_id)
        for _ in range(count)
    ]
    Grant.objects.bulk_create(grants, batch_size=500)
    return [grant.refresh_token for grant in grants]


def _new_grant(account: str, app_id: str, button_id: str) -> Grant:
    grant = Grant(
        account=account, app_id=app_id, button_id=button_id, seed=secrets.token_urlsafe(32)
    )
    grant.digest = digest(grant.refresh_token)
    return grant


def authorization(grant: Grant) -> Payload:
    """The object that the page's AuthorizeResult receives."""
    token, _ = _issue(grant)
    return {
        "valid": True,
        "refreshToken": grant.refresh_token,
        "authToken": token,
        "error": None,
    }


def refresh(token: str, app_id: str) -> Payload:
    """The answer to refreshaccesstoken. It repeats the token it was asked with."""
    grant = Grant.objects.live().filter(digest=digest(token)).first()
    if grant is None:
        return refusal(token, "The refresh token is unknown or was revoked.")
    if not _belongs(grant, app_id):
        return refusal(token, "The application ID and the refresh token do not go together.")
    access_token, expires_at = _issue(grant)
    return {
        "valid": True,
        "refreshToken": token,
        "authToken": access_token,
        "expireDate": expire_date(expires_at, get_options().expire_date_format),
        "errorMessage": None,
    }


def disconnect(token: str) -> Payload:
    """The answer to disconnectapplicationtoken."""
    if not Grant.objects.filter(digest=digest(token)).revoke():
        return refusal(token, "The refresh token is unknown or was revoked.")
    return {"valid": True, "refreshToken": token, "errorMessage": None}


def refusal(token: str, reason: str) -> Payload:
    """The provider's explicit no."""
    return {
        "valid": False,
        "refreshToken": token,
        "authToken": None,
        "expireDate": None,
        "errorMessage": reason,
    }


def _belongs(grant: Grant, app_id: str) -> bool:
    applications = get_options().applications
    if applications is not None and app_id not in applications:
        return False
    if not grant.app_id and 0 < len(app_id) <= _NAME_LIMIT and app_id.isprintable():
        # The page named only its button: the first application that asks is the one.
        Grant.objects.filter(pk=grant.pk, app_id="").update(app_id=app_id)
        grant.refresh_from_db(fields=["app_id"])
    return app_id != "" and grant.app_id == app_id


def _issue(grant: Grant) -> tuple[str, datetime]:
    now = timezone.now()
    lifetime = timedelta(seconds=get_options().access_token_lifetime)
    token = secrets.token_urlsafe(32)
    AccessToken.objects.create(grant=grant, digest=digest(token), expires_at=now + lifetime)
    expired = AccessToken.objects.filter(expires_at__lt=now)
    if expired.exists():
        expired.delete()
    return token, datetime.now(UTC) + lifetime


def live_access_tokens() -> QuerySet[AccessToken]:
    """Those that the APIs take: not expired, of a grant that is not revoked."""
    return AccessToken.objects.filter(expires_at__gt=timezone.now(), grant__revoked_at=None)


def account_of(access_token: str) -> str | None:
    """The account an access token stands for, while it and its grant are good."""
    tokens = live_access_tokens().filter(digest=digest(access_token))
    return tokens.values_list("grant__account", flat=True).first()
