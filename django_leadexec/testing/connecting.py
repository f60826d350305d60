"""Makes users, and connections in any state, without asking the provider and without a signal."""

import time
import uuid
from typing import Any, Literal, get_args

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser
from django.db import models
from django.utils import timezone

from .. import crypto
from ..clock import from_timestamp
from ..conf import get_settings
from ..models import LeadExecConnection
from ..routing import database_of
from ..secret import Secret

# active: good for 50 minutes. expiring: good for five minutes, and due. expired: the next
# use refreshes it. failing: expired, and LeadExec could not be reached a moment ago. rejected:
# LeadExec has said no. revoked: ended.
State = Literal["active", "expiring", "expired", "failing", "rejected", "revoked"]

# Seconds until the access token ends.
_EXPIRES_IN = {"expiring": 300, "expired": -60, "failing": -60}
_GOOD_FOR = 3_000
# Seconds that an access token lives, from LeadExec's answer on.
_LIFETIME = 3_600


def connect(
    user: AbstractBaseUser,
    status: State = "active",
    *,
    refresh_token: str | None = None,
    account_id: str = "",
    using: str | None = None,
) -> LeadExecConnection:
    """A connection of this user, stored in this state.

    Without ``account_id`` a user can have one active or rejected connection, as on a site without
    ``IDENTIFY``. ``using`` is a database alias.
    """
    if status not in get_args(State):
        raise ValueError(f"{status!r} is no state: it is one of {', '.join(get_args(State))}.")
    rows = LeadExecConnection.objects.using(using or database_of())
    app_id = get_settings().app_id
    token = refresh_token or new_refresh_token()
    identity = crypto.identity_of(app_id, account_id, user.pk)
    if rows.filter(identity=identity).exists():
        raise ValueError(
            f"{user} is connected already. Two connections need two accounts: "
            "connect(…, account_id=…)."
        )
    row = LeadExecConnection(
        user_id=user.pk, app_id=app_id, account_id=account_id, identity=identity
    )
    row.refresh_token = Secret(token)
    expires_at = time.time() + _EXPIRES_IN.get(status, _GOOD_FOR)
    row.record_success(Secret(access_token_for(token)), expires_at)
    row.refreshed_at = from_timestamp(expires_at - _LIFETIME)
    if status in ("expiring", "expired"):
        row.refresh_after = timezone.now()
    elif status == "failing":
        row.record_failure("out of reach for the test")
    elif status == "rejected":
        row.record_refusal("refused for the test")
    row.save(using=rows.db)
    if status == "revoked":
        rows.filter(pk=row.pk).erase(timezone.now())
        row.refresh_from_db()
    return row


def new_refresh_token() -> str:
    """A refresh token that no test has used before."""
    return f"refresh-{uuid.uuid4().hex}"


def access_token_for(refresh_token: str) -> str:
    """The access token that ``connect`` stores beside this refresh token."""
    return f"access-of-{refresh_token}"


def make_user() -> Any:
    """A user of the site's own model, with the fields that ``createsuperuser`` would ask for.

    Fits a model whose required fields are text. Others need the site's own factory.
    """
    model = get_user_model()
    name = f"leadexec-{uuid.uuid4().hex[:8]}"
    values: dict[str, Any] = {}
    for field_name in (model.USERNAME_FIELD, *model.REQUIRED_FIELDS):
        is_email = isinstance(model._meta.get_field(field_name), models.EmailField)
        values[field_name] = f"{name}@example.com" if is_email else name
    return model._default_manager.create_user(**values)
