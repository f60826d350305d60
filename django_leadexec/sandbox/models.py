import base64
import hashlib
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from django.db import models
from django.utils import timezone
from django.utils.crypto import salted_hmac

from ..columns import columns


def digest(token: str) -> str:
    """How a token is kept. Lower-case hex also makes look-ups exact under any collation."""
    return hashlib.sha256(token.encode()).hexdigest()


class GrantQuerySet(models.QuerySet["Grant"]):
    def live(self) -> "GrantQuerySet":
        return self.filter(revoked_at=None)

    def revoke(self) -> int:
        """End what is still live, with its access tokens; return how many there were."""
        return self.live().update(revoked_at=timezone.now())


if TYPE_CHECKING:

    class GrantManager(models.Manager["Grant"]):
        """What ``from_queryset`` makes, for type checkers that do not run it."""

        def all(self) -> GrantQuerySet: ...
        def filter(self, *args: Any, **kwargs: Any) -> GrantQuerySet: ...
        def live(self) -> GrantQuerySet: ...
        def revoke(self) -> int: ...

else:
    GrantManager = models.Manager.from_queryset(GrantQuerySet)


class Grant(models.Model):
    """One account's consent to one application.

    Its refresh token is derived from `seed`, so that a returning visitor gets the same one, while
    no table, dump or SQL log of the site holds a token in plain text.
    """

    account: str = columns.CharField(max_length=100, db_index=True)
    button_id: str = columns.CharField(max_length=191, blank=True)
    # Blank until the first refresh: the page knows only the button.
    app_id: str = columns.CharField(max_length=191, blank=True)
    seed: str = columns.CharField(max_length=64)
    digest: str = columns.CharField(max_length=64, unique=True)
    created_at: datetime = columns.DateTimeField(default=timezone.now)
    revoked_at: datetime | None = columns.DateTimeField(null=True, blank=True)

    objects: ClassVar[GrantManager] = GrantManager()

    def __str__(self) -> str:
        return f"{self.account} for {self.application}"

    @property
    def application(self) -> str:
        return self.app_id or f"button {self.button_id}"

    @property
    def refresh_token(self) -> str:
        mac = salted_hmac("leadexec_sandbox.refresh", self.seed, algorithm="sha256").digest()
        return base64.urlsafe_b64encode(mac).decode().rstrip("=")


class AccessToken(models.Model):
    grant: Grant = columns.ForeignKey(Grant, on_delete=models.CASCADE)
    digest: str = columns.CharField(max_length=64, unique=True)
    expires_at: datetime = columns.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"access token {self.pk}"


class Fault(models.Model):
    """An order to misbehave: for all tokens (scope "*") or the one with that digest."""

    class Kind(models.TextChoices):
        REFUSE = "refuse", "Refuse (valid: false)"
        UNAVAILABLE = "unavailable", "503 Service Unavailable"
        THROTTLE = "throttle", "429 Too Many Requests"
        HTML = "html", "A page of HTML"
        HALF = "half", "Half a JSON"
        SLOW = "slow", "A slow answer"

    class Call(models.TextChoices):
        ALL = "", "Refresh and disconnect"
        REFRESH = "refresh", "Refresh"
        DISCONNECT = "disconnect", "Disconnect"

    scope: str = columns.CharField(max_length=64, unique=True)
    kind: str = columns.CharField(max_length=20, choices=Kind.choices)
    call: str = columns.CharField(max_length=20, choices=Call.choices, blank=True)
    seconds: float = columns.FloatField(default=0)

    def __str__(self) -> str:
        return self.kind


class CallCount(models.Model):
    """How many calls ended how: "refresh ok", "disconnect refused" and so on."""

    name: str = columns.CharField(max_length=50, primary_key=True)
    total: int = columns.PositiveBigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.name}: {self.total}"
