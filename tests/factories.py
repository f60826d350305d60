"""Rows for tests."""

import itertools
import time
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.utils import timezone

from django_leadexec import crypto
from django_leadexec.clock import from_timestamp
from django_leadexec.fields import Ciphertext
from django_leadexec.leases import CLOCK_SKEW, Leased, writing
from django_leadexec.linking import link
from django_leadexec.models import LeadExecConnection
from django_leadexec.secret import Secret

_numbers = itertools.count(1)


def make_user(username: str | None = None, **fields: Any) -> Any:
    return get_user_model().objects.create_user(username or f"user{next(_numbers)}", **fields)


def make_connection(
    token: str | None = None,
    *,
    user: Any = None,
    app_id: str = "test-app",
    account_id: str = "",
    expires_in: float = 3600,
    using: str = "default",
    **fields: Any,
) -> LeadExecConnection:
    """A connection with a stored access token that ends in ``expires_in`` seconds.

    It is due for refresh as the package would have it, or now if its token has ended.
    """
    token = token or f"refresh-{next(_numbers)}"
    user = user or make_user()
    with writing(LeadExecConnection, using):
        row = link(
            user,
            app_id,
            Secret(token),
            Secret(f"stored-access-for-{token}"),
            time.time() + expires_in,
            account_id=account_id,
            using=using,
        )
    if expires_in <= 0:
        fields.setdefault("refresh_after", from_timestamp(time.time() + expires_in))
    if fields.get("status") == row.Status.REVOKED:
        LeadExecConnection.objects.using(using).filter(pk=row.pk).erase(timezone.now())
        fields = {}
        row.refresh_from_db(using=using)
    if fields:
        LeadExecConnection.objects.using(using).filter(pk=row.pk).write(**fields)
        row.refresh_from_db(using=using)
    return row


def plain(ciphertext: Ciphertext) -> str:
    """What a column that holds ciphertext says."""
    return ciphertext.decrypt().reveal()


def lease_left(row: Leased) -> float:
    """Seconds until the row's lease ends; negative once it has ended."""
    return row.lease_until / 1000 - time.time()


def is_leased(row: Leased) -> bool:
    """Whether somebody holds the row, by the clock of whoever else may want it."""
    return lease_left(row) > -CLOCK_SKEW


def make_due_connections(count: int, prefix: str = "token") -> list[LeadExecConnection]:
    """Many connections whose access tokens have ended, made quickly."""
    users = get_user_model().objects.bulk_create(
        get_user_model()(username=f"{prefix}-user-{number}") for number in range(count)
    )
    users = list(
        get_user_model().objects.filter(username__startswith=f"{prefix}-user-").order_by("pk")
    )
    past = timezone.now() - timedelta(hours=1)
    rows = []
    for number, user in enumerate(users):
        token = f"{prefix}-{number}"
        row = LeadExecConnection(
            user=user,
            app_id="test-app",
            identity=crypto.identity("test-app", "user", str(user.pk)),
            fingerprint=crypto.fingerprint(token),
            refresh_after=past,
            refreshed_at=past,
        )
        row.refresh_token = token
        rows.append(row)
    LeadExecConnection.objects.bulk_create(rows, batch_size=500)
    return list(LeadExecConnection.objects.filter(user__in=users).order_by("pk"))
