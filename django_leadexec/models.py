"""Rows, their states, and every write that changes a token or a state. Knows no HTTP.

A write is guarded: it names the version or the lease it is based on, and changes nothing if the
row has moved on. Leases are milliseconds since the epoch, so no time zone and no change to summer
time can end one early or make it last an hour longer.
"""

import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, ParamSpec, Self, TypeVar

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db import IntegrityError, OperationalError, connections, models, transaction
from django.db.models.signals import pre_delete
from django.dispatch import receiver
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from . import crypto, signals
from .conf import DAY, get_settings
from .exceptions import ConnectionConflict, RevocationPending
from .fields import Ciphertext, EncryptedTextField

if TYPE_CHECKING:
    from .session import LeadExecSession

CLOCK_SKEW = 5
FIRST_BACKOFF = 30
MAX_BACKOFF = 900
HOUR = 3_600
REJECTED_FOR = timedelta(days=30)
REVOKE_FOR = timedelta(days=30)
LOCK_CHUNK = 500
DEADLOCK_ATTEMPTS = 5

T = TypeVar("T")
P = ParamSpec("P")


@contextmanager
def writing(using: str) -> Iterator[None]:
    """A transaction that may read before it writes.

    On SQLite it takes the write lock first: a transaction that has read can't wait for the lock,
    it fails at once when another writer was there in between.
    """
    with transaction.atomic(using=using):
        if not connections[using].features.has_select_for_update:
            LeadExecConnection.objects.using(using).filter(pk=0).update(version=0)
        yield


def despite_deadlocks(using: str, work: Callable[[], T]) -> T:
    """Run ``work``, one transaction; again if the database ended it to resolve a deadlock.

    Ours lock rows in key order. But a caller's transaction may not, and MariaDB and MySQL lock
    what a scan passes, and indexes, too. Inside a caller's transaction the error is the caller's,
    as all of that has been undone.
    """
    for _attempt in range(DEADLOCK_ATTEMPTS - 1):
        try:
            return work()
        except OperationalError as error:
            if connections[using].in_atomic_block or not _is_deadlock(error):
                raise
        time.sleep(_spread(0.001, 0.02))
    return work()


def _is_deadlock(error: OperationalError) -> bool:
    """A deadlock, or a transaction that can't be serialized with another."""
    cause = error.__cause__
    sqlstate = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    # 1213: a deadlock; 1020: MariaDB's of a row that has changed since the snapshot.
    return sqlstate in ("40P01", "40001") or error.args[:1] in ((1213,), (1020,))


def moment(epoch: float) -> datetime:
    """Epoch seconds as the datetime that ``USE_TZ`` wants."""
    return datetime.fromtimestamp(epoch, UTC if settings.USE_TZ else None)


def from_now(seconds: float) -> datetime:
    """The moment so many seconds from now.

    Told later than now, whatever the clock: without ``USE_TZ``, 1:50 comes before 2:10 in autumn,
    too, and so a row is an hour late once a year rather than due for an hour without end.
    """
    return moment(time.time()) + timedelta(seconds=seconds)


def backoff(attempts: int) -> float:
    """Seconds to wait after that many failures in a row: doubling, jittered, 15 minutes at most."""
    return min(FIRST_BACKOFF * 2.0 ** min(attempts - 1, 10), MAX_BACKOFF) * _spread(0.5, 1)


def _spread(least: float, most: float) -> float:
    return random.uniform(least, most)  # noqa: S311  # nosec B311 # spreads load, guards nothing


def _lease_mark(epoch: float) -> int:
    return int(epoch * 1000)


Row = TypeVar("Row", bound="Leased")
Rows = TypeVar("Rows", bound="LeasedQuerySet[Any]")


def _despite_deadlocks(
    method: Callable[Concatenate[Rows, P], T],
) -> Callable[Concatenate[Rows, P], T]:
    @wraps(method)
    def persistent(self: Rows, /, *args: P.args, **kwargs: P.kwargs) -> T:
        # For routers, as Django's own methods say it.
        self._for_write = True  # type: ignore[attr-defined]
        return despite_deadlocks(self.db, lambda: method(self, *args, **kwargs))

    return persistent


class LeasedQuerySet(models.QuerySet[Row]):
    def due(self, at: datetime) -> Self:
        """Rows scheduled for ``at`` or earlier, the longest due first."""
        schedule = self.model.schedule
        return self.filter(**{f"{schedule}__lte": at}).order_by(schedule, "pk")

    def free(self, *, untouched_since: float | None = None) -> Self:
        """Rows that nobody holds; with ``untouched_since`` (epoch seconds), nor has held since.

        A lease that was let go keeps the moment of it, so a run over all rows meets each once,
        however many processes share it.
        """
        now = time.time()
        bound = now if untouched_since is None else min(now, untouched_since)
        return self.filter(lease_until__lte=_lease_mark(bound - CLOCK_SKEW))

    @_despite_deadlocks
    def claim(self, limit: int, seconds: float) -> list[Row]:
        """Take up to ``limit`` free rows of this ordered query set under one lease."""
        lease_id = uuid.uuid4().hex
        with writing(self.db):
            rows = list(self.free().locked(skip=True)[:limit])
            lease_until = _lease_mark(time.time() + seconds)
            self._rows_of(rows).update(lease_id=lease_id, lease_until=lease_until)
        for row in rows:
            row.lease_id, row.lease_until, row.holds_lease = lease_id, lease_until, True
            row.claimed_version = getattr(row, "version", None)
        return rows

    @_despite_deadlocks
    def release(self, rows: Sequence[Row]) -> None:
        """Give back claimed rows as if they had never been taken."""
        by_lease: dict[str, list[Row]] = {}
        for row in rows:
            by_lease.setdefault(row.lease_id, []).append(row)
        for lease_id, claimed in by_lease.items():
            self._rows_of(claimed).filter(lease_id=lease_id).update(lease_until=0)

    def locked(self, *, skip: bool = False) -> Self:
        """Rows to be locked when read, inside ``writing()``; ``skip``: but not what others lock."""
        features = connections[self.db].features
        if not features.has_select_for_update:
            return self
        return self.select_for_update(
            skip_locked=skip and features.has_select_for_update_skip_locked
        )

    def _rows_of(self, rows: Sequence[Row]) -> Self:
        everything = type(self)(self.model, using=self.db)
        return everything.filter(pk__in=[row.pk for row in rows])


def released() -> int:
    """The ``lease_until`` of a row that is let go now: free at once, however clocks differ."""
    return _lease_mark(time.time() - CLOCK_SKEW)


class Leased(models.Model):
    """A row that one worker at a time may work on."""

    lease_id = models.CharField(max_length=32, default="", editable=False)
    lease_until = models.BigIntegerField(default=0, editable=False)

    schedule: ClassVar[str]
    claimed_version: int | None
    # Whether the lease was taken with this instance, and not only read with the row.
    holds_lease = False

    class Meta:
        abstract = True

    def lease_left(self) -> float:
        """Seconds until the lease ends; negative once it has."""
        return self.lease_until / 1000 - time.time()

    def is_leased(self) -> bool:
        return self.lease_left() > -CLOCK_SKEW


class ConnectionQuerySet(LeasedQuerySet["LeadExecConnection"]):
    def active(self) -> Self:
        """Connections that can be used."""
        return self.filter(status=LeadExecConnection.Status.ACTIVE)

    def live(self) -> Self:
        """Connections that hold a refresh token: active, or rejected and still asked about."""
        return self.filter(status__in=LeadExecConnection.LIVE)

    def for_user(self, user: AbstractBaseUser | AnonymousUser) -> Self:
        """Connections of one user; none for a visitor who isn't logged in."""
        return self.filter(user=user) if user.is_authenticated else self.none()

    def expiring(self, within: float) -> Self:
        """Active connections whose access token ends within that many seconds, or has ended."""
        return self.active().filter(expires_at__lte=from_now(within))

    def holding(self, token: str) -> Self:
        """The live connection with this refresh token, if there is one."""
        return self.live().filter(fingerprint__in=crypto.fingerprints(token))

    def of_account(self, app_id: str, account_id: str) -> Self:
        return self.live().filter(identity=crypto.identity(app_id, "account", account_id))

    @_despite_deadlocks
    def move_to_outbox(self) -> datetime:
        """Revoke all live rows of this query set, in one transaction.

        Their tokens go to the outbox as they are, and their use stops at once.
        Returns the ``requested_at`` that all their outbox entries carry.
        """
        requested_at = timezone.now()
        live = self.live().order_by("pk")
        with writing(self.db):
            last = 0
            while rows := list(live.filter(pk__gt=last).locked()[:LOCK_CHUNK]):
                last = rows[-1].pk
                PendingRevocation.objects.using(self.db).bulk_create(
                    PendingRevocation.for_connection(row, requested_at)
                    for row in rows
                    if row.refresh_token_ciphertext
                )
                self._rows_of(rows)._erase(requested_at)
                for row in rows:
                    row.status = LeadExecConnection.Status.REVOKED
                    signals.announce(signals.connection_revoked, row)
        return requested_at

    # As Django marks its own: not for templates to call.
    move_to_outbox.alters_data = True  # type: ignore[attr-defined]

    @_despite_deadlocks
    def delete(self) -> tuple[int, dict[str, int]]:
        """Delete the rows, their tokens moved to the outbox in few statements."""
        keys = sorted(self.values_list("pk", flat=True))
        total: Counter[str] = Counter()
        with writing(self.db):
            for start in range(0, len(keys), LOCK_CHUNK):
                chunk = type(self)(self.model, using=self.db).filter(
                    pk__in=keys[start : start + LOCK_CHUNK]
                )
                chunk.move_to_outbox()
                total.update(super(ConnectionQuerySet, chunk).delete()[1])
        return total.total(), dict(total)

    # Nor for managers.
    delete.queryset_only = True  # type: ignore[attr-defined]
    delete.alters_data = True  # type: ignore[attr-defined]

    def _erase(self, at: datetime) -> int:
        return self.update(  # nosec B106 # erased
            status=LeadExecConnection.Status.REVOKED,
            refresh_token="",
            access_token="",
            fingerprint=None,
            identity=None,
            expires_at=None,
            refresh_after=None,
            revoked_at=at,
            version=models.F("version") + 1,
            lease_id="",
            lease_until=0,
        )

    @_despite_deadlocks
    def write_claimed(self, rows: Sequence["LeadExecConnection"]) -> list["LeadExecConnection"]:
        """Write what happened to rows of a claim, and let them go, in one transaction.

        Rows that were asked about without a claim leave the lease to whoever holds it.
        Returns the rows that lost: those revoked, authorized anew or claimed by another since.
        """
        if not rows:
            return []
        connection = connections[self.db]
        quote = connection.ops.quote_name
        options = LeadExecConnection._meta
        fields = [
            field
            for field in options.concrete_fields
            if field.name in LeadExecConnection.WRITTEN_UNDER_LEASE
        ]
        assignments = ", ".join(f"{quote(str(field.column))} = %s" for field in fields)
        sql = (
            f"UPDATE {quote(options.db_table)} SET {assignments}, {quote('lease_until')} = %s "  # noqa: S608  # nosec B608 # names of columns
            f"WHERE {quote('id')} = %s AND {quote('version')} = %s AND {quote('lease_id')} = %s"
        )
        mark = released()
        until = {row.pk: mark if row.holds_lease else row.lease_until for row in rows}
        # In key order, so that two writers can't lock each other's rows crosswise.
        rows = sorted(rows, key=lambda row: row.pk)
        parameters = [
            [
                *(
                    field.get_db_prep_save(getattr(row, field.attname), connection)
                    for field in fields
                ),
                until[row.pk],
                row.pk,
                row.claimed_version,
                row.lease_id,
            ]
            for row in rows
        ]
        with transaction.atomic(using=self.db):
            with connection.cursor() as cursor:
                cursor.executemany(sql, parameters)
                written = cursor.rowcount
            if written == len(rows):
                lost = []
            else:
                kept = self._rows_of(rows).values_list("pk", "version", "lease_id", "lease_until")
                present = set(kept)
                # A row that is asked about without a claim comes alone, so it is the one that lost.
                lost = [
                    row
                    for row in rows
                    if not row.holds_lease
                    or (row.pk, row.version, row.lease_id, mark) not in present
                ]
                for row in lost:
                    if row.holds_lease:
                        # Authorized anew with the token it holds: nobody is asking any more.
                        self._rows_of([row]).filter(lease_id=row.lease_id).update(lease_until=mark)
            overdue = [row for row in rows if row.is_given_up and row not in lost]
            if overdue:
                self._rows_of(overdue)._erase(timezone.now())
        for row in rows:
            row.lease_until = until[row.pk]
        return lost


class LeadExecConnection(Leased):
    """One user's authorization at LeadExec: the refresh token, and the access token of the hour."""

    class Status(models.TextChoices):
        ACTIVE = "active", _("active")
        REJECTED = "rejected", _("rejected")
        REVOKED = "revoked", _("revoked")

    LIVE = (Status.ACTIVE, Status.REJECTED)
    WRITTEN_UNDER_LEASE = (
        "status",
        "access_token",
        "expires_at",
        "refresh_after",
        "refreshed_at",
        "rejected_at",
        "attempts",
        "last_error",
        "version",
    )
    schedule = "refresh_after"
    # Whether the provider has just said no, as it has for 30 days. An answer that fails to come, or
    # isn't believed, ends no connection, however long ago the first no was.
    is_given_up = False

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        related_name="leadexec_connections",
        verbose_name=_("user"),
    )
    app_id = models.CharField(_("application ID"), max_length=100)
    account_id = models.CharField(_("LeadExec account"), max_length=255, blank=True, default="")
    identity = models.CharField(max_length=64, null=True, editable=False)  # noqa: DJ001 - unique
    status = models.CharField(
        _("status"), max_length=10, choices=Status.choices, default=Status.ACTIVE
    )
    refresh_token = EncryptedTextField(editable=False)
    refresh_token_ciphertext: Ciphertext
    access_token = EncryptedTextField(editable=False)
    access_token_ciphertext: Ciphertext
    fingerprint = models.CharField(max_length=64, null=True, editable=False)  # noqa: DJ001
    version = models.PositiveBigIntegerField(default=1, editable=False)
    expires_at = models.DateTimeField(_("access token expires"), null=True)
    refresh_after = models.DateTimeField(_("next refresh"), null=True)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    refreshed_at = models.DateTimeField(_("last refresh"), null=True)
    revoked_at = models.DateTimeField(_("revoked"), null=True)
    rejected_at = models.DateTimeField(_("rejected since"), null=True)
    attempts = models.PositiveIntegerField(_("failures in a row"), default=0)
    last_error = models.CharField(_("last error"), max_length=255, blank=True, default="")
    # How often the user has signed out: an automatic return is good until the next time.
    sign_outs = models.PositiveIntegerField(default=0, editable=False)

    objects = ConnectionQuerySet.as_manager()

    class Meta:
        verbose_name = _("LeadExec connection")
        verbose_name_plural = _("LeadExec connections")
        indexes = [
            models.Index(fields=["app_id", "refresh_after", "id"], name="leadexec_due"),
        ]
        # Not unique=True, for which PostgreSQL gets a second index that each refresh has to write.
        constraints = [
            models.UniqueConstraint(fields=["identity"], name="leadexec_one_row_per_account"),
            models.UniqueConstraint(fields=["fingerprint"], name="leadexec_one_row_per_token"),
        ]
        permissions = [("revoke_leadexecconnection", _("Can revoke LeadExec connections"))]

    def __str__(self) -> str:
        return f"LeadExec connection {self.pk} ({self.status})"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Insert the row, or save what isn't guarded: no whole-row save touches a token."""
        if not self._state.adding and kwargs.get("update_fields") is None:
            kwargs["update_fields"] = {"user"} - self.get_deferred_fields()
        super().save(*args, **kwargs)

    # What happened to a row under a lease; write_claimed() makes it last.

    def record_success(self, access_token: str, expires_at: float) -> None:
        """A fresh access token, good until ``expires_at`` (epoch seconds)."""
        now = time.time()
        self.status = self.Status.ACTIVE
        self.access_token = access_token
        self.expires_at = moment(expires_at)
        self.refresh_after = from_now(refresh_wait(expires_at - now))
        self.refreshed_at = moment(now)
        self.rejected_at = None
        self.attempts = 0
        self.last_error = ""
        self.version += 1

    def record_refusal(self, reason: str) -> None:
        """The provider's explicit no. Asked again after an hour, then daily, for 30 days."""
        now = timezone.now()
        if self.status != self.Status.REJECTED:
            self.version += 1
        self.status = self.Status.REJECTED
        wait = HOUR if self.rejected_at is None else DAY
        self.rejected_at = self.rejected_at or now
        self.refresh_after = from_now(wait * _spread(0.9, 1))
        self.attempts += 1
        self.last_error = f"Refused: {reason}"[:255]
        self.is_given_up = self.rejected_at <= now - REJECTED_FOR

    def record_trouble(self, reason: str, retry_after: float | None = None) -> None:
        """No answer: says nothing of the token, only puts off the next try."""
        self.attempts += 1
        self.refresh_after = from_now(max(backoff(self.attempts), retry_after or 0))
        self.last_error = f"Not refreshed: {reason}"[:255]

    def lives(self, min_ttl: float) -> bool:
        """Whether the stored access token is good for at least ``min_ttl`` more seconds."""
        return (
            bool(self.access_token_ciphertext)
            and self.expires_at is not None
            and self.expires_at >= from_now(min_ttl)
        )

    def outlives(self, expires_at: float) -> bool:
        """Whether the stored access token is a newer one than that which ends at ``expires_at``."""
        return (
            self.status == self.Status.ACTIVE
            and self.expires_at is not None
            and self.expires_at > moment(expires_at)
        )

    # The doors to the provider, here for convenience; what they do is in connections and session.

    def get_access_token(self, min_ttl: float = 60) -> str:
        """An access token with at least ``min_ttl`` seconds left, refreshed if need be.

        Raises AuthorizationRejected, ProviderUnavailable, DecryptionFailed.
        """
        from . import connections

        return connections.get_access_token(self, min_ttl)

    async def aget_access_token(self, min_ttl: float = 60) -> str:
        """``get_access_token`` for async code."""
        from . import connections

        return await connections.aget_access_token(self, min_ttl)

    def session(self) -> "LeadExecSession":
        """A ``requests`` session that calls LeadExec's API on the user's behalf."""
        from . import connections

        return connections.open_session(self)

    def revoke(self) -> bool:
        """End the authorization. All use stops at once.

        True when the provider confirmed it, False when telling it is queued.
        """
        from . import connections

        return connections.revoke(self)

    revoke.alters_data = True  # type: ignore[attr-defined]

    async def arevoke(self) -> bool:
        """``revoke`` for async code."""
        from . import connections

        return await connections.arevoke(self)


def refresh_wait(life: float) -> float:
    """Seconds until a token that lives so many is refreshed: the margin earlier, spread a little.

    Never in the first half of its life, so a provider with short lives isn't asked without end.
    """
    return max(life - get_settings().refresh_margin * _spread(1, 1.25), life / 2)


def link(
    user: AbstractBaseUser,
    app_id: str,
    refresh_token: str,
    access_token: str,
    expires_at: float,
    *,
    account_id: str = "",
    using: str,
) -> LeadExecConnection:
    """Store a verified authorization as the user's: a new row, or their old one with a new token.

    One row per account where ``account_id`` is known, else one per user. The token it replaces is
    dropped and not revoked, as the provider may hold both for the same association.
    Raises ConnectionConflict if the token or the account is another user's, RevocationPending if
    the token is in the outbox.
    Call it inside ``writing()``. IntegrityError: somebody else did the same just now; try again.
    """
    manager = LeadExecConnection.objects.using(using)
    fingerprints = crypto.fingerprints(refresh_token)
    known = manager.holding(refresh_token).first()
    if known and not account_id:
        account_id = known.account_id
    kind, value = ("account", account_id) if account_id else ("user", str(user.pk))
    identity = crypto.identity(app_id, kind, value)
    of_account = manager.live().filter(identity=identity).first()
    # By key and in key order, as every other writer locks rows.
    keys = {row.pk for row in (known, of_account) if row}
    locked = list(manager.live().filter(pk__in=keys).order_by("pk").locked())
    of_token = next((row for row in locked if row.fingerprint in fingerprints), None)
    of_identity = next((row for row in locked if row.identity == identity), None)
    if any(row and row.user_id != user.pk for row in (of_token, of_identity)):
        raise ConnectionConflict("This LeadExec account is connected to another user of this site.")
    if PendingRevocation.objects.using(using).filter(fingerprint__in=fingerprints).exists():
        raise RevocationPending("This authorization was revoked a moment ago. Please try again.")
    row = of_identity or of_token or LeadExecConnection(user_id=user.pk)
    if of_token and of_token.pk != row.pk:
        # The same token again, so nothing is left to be revoked.
        manager.filter(pk=of_token.pk)._erase(timezone.now())
    if of_token is None or of_token.pk != row.pk:
        # Who holds it asks about another token. With the same one, two would ask at once.
        row.lease_id, row.lease_until = "", 0
    row.app_id, row.account_id, row.identity = app_id, account_id, identity
    row.refresh_token = refresh_token
    if not (of_token is row and row.outlives(expires_at)):
        row.record_success(access_token, expires_at)
    _save_linked(row, refresh_token, using)
    signals.announce(signals.connection_authorized, row)
    return row


def _save_linked(row: LeadExecConnection, refresh_token: str, using: str) -> None:
    fingerprint = crypto.fingerprint(refresh_token)
    fingerprints = crypto.fingerprints(refresh_token)
    # While keys change, another process may have its own in another order, and so store another
    # digest of this token. They meet at the one that both would choose, which the unique index
    # lets only one of them pass at a time.
    row.fingerprint = min(fingerprints)
    row.save(
        using=using,
        update_fields=None
        if row._state.adding
        else {
            *LeadExecConnection.WRITTEN_UNDER_LEASE,
            *("app_id", "account_id", "identity", "refresh_token", "fingerprint"),
            *("lease_id", "lease_until"),
        },
    )
    if len(fingerprints) > 1:
        manager = LeadExecConnection.objects.using(using)
        if manager.holding(refresh_token).exclude(pk=row.pk).locked().first():
            raise IntegrityError("Another process has just stored this token.")
        row.fingerprint = fingerprint
        manager.filter(pk=row.pk).update(fingerprint=fingerprint)


class PendingRevocation(Leased):
    """A refresh token the provider still has to be told to revoke."""

    schedule = "retry_after"

    app_id = models.CharField(_("application ID"), max_length=100)
    refresh_token = EncryptedTextField(editable=False)
    refresh_token_ciphertext: Ciphertext
    fingerprint = models.CharField(max_length=64, editable=False)
    requested_at = models.DateTimeField(_("requested"))
    # None: given up after 30 days, and left for the operator to see.
    retry_after = models.DateTimeField(_("next try"), null=True, db_index=True)
    attempts = models.PositiveIntegerField(_("attempts"), default=0)
    last_error = models.CharField(_("last error"), max_length=255, blank=True, default="")

    objects = LeasedQuerySet["PendingRevocation"].as_manager()

    class Meta:
        verbose_name = _("pending revocation")
        verbose_name_plural = _("pending revocations")
        indexes = [models.Index(fields=["fingerprint"], name="leadexec_outbox_token")]

    def __str__(self) -> str:
        return f"pending revocation {self.pk}"

    @classmethod
    def for_connection(cls, row: LeadExecConnection, requested_at: datetime) -> Self:
        """The entry for a row's token, taken over as it is: moving it needs no key."""
        entry = cls(
            app_id=row.app_id,
            fingerprint=row.fingerprint or "",
            requested_at=requested_at,
            retry_after=requested_at,
        )
        entry.refresh_token_ciphertext = row.refresh_token_ciphertext
        return entry

    def record_trouble(self, reason: str, retry_after: float | None = None) -> None:
        """Put off the next try: doubling from 30 seconds to a day, for 30 days."""
        now = timezone.now()
        self.attempts += 1
        self.last_error = f"Not revoked: {reason}"[:255]
        wait = min(FIRST_BACKOFF * 2.0 ** min(self.attempts - 1, 12), DAY) * _spread(0.5, 1)
        later = from_now(max(wait, retry_after or 0))
        self.retry_after = None if now - self.requested_at >= REVOKE_FOR else later

    def write_claimed(self, *, confirmed: bool) -> None:
        """Delete the entry once the provider has confirmed, else store when to try again."""
        mine = PendingRevocation.objects.using(self._state.db).filter(
            pk=self.pk, lease_id=self.lease_id
        )
        if confirmed:
            mine.delete()
        else:
            mine.update(
                attempts=self.attempts,
                last_error=self.last_error,
                retry_after=self.retry_after,
                lease_until=released(),
            )


@receiver(pre_delete, sender=LeadExecConnection)
def _revoke_what_is_deleted(instance: LeadExecConnection, using: str, **kwargs: Any) -> None:
    # Only a revocation sets it, and nothing takes it back.
    if instance.revoked_at is None:
        LeadExecConnection.objects.using(using).filter(pk=instance.pk).move_to_outbox()
