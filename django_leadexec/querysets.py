"""Sets of connections: how they are found, revoked, deleted, and written under a lease."""

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db import models, transaction
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from . import crypto, signals
from .actions import AdoptingQuerySet
from .claims import Claim, Unwritten
from .clock import seconds_from_now
from .conflicts import brief_waits, waits_of_skipping
from .leases import LeasedQuerySet, released, retried_on_deadlock, writing
from .outbox import OutboxQuerySet, PendingRevocation
from .secret import Secret

if TYPE_CHECKING:
    from .models import LeadExecConnection

# How many rows one statement reads, locks or deletes at most.
CHUNK_SIZE = 500
T = TypeVar("T")


def chunks(keys: Sequence[T], size: int = CHUNK_SIZE) -> Iterator[Sequence[T]]:
    """The keys in parts, each small enough for one statement."""
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


class Status(models.TextChoices):
    """The states of a connection; docs/architecture.md tells how one leads to another."""

    ACTIVE = "active", pgettext_lazy("LeadExec connection", "active")
    REJECTED = "rejected", _("rejected")
    REVOKED = "revoked", _("revoked")


# The states of a connection that holds a refresh token.
LIVE = (Status.ACTIVE, Status.REJECTED)


def columns_of_revoked(at: datetime) -> dict[str, Any]:
    """What a connection that was revoked ``at`` this time has in its columns: no tokens."""
    return {
        "status": Status.REVOKED,
        "refresh_token": "",  # nosec B105 # erased
        "access_token": "",  # nosec B105 # erased
        "fingerprint": None,
        "identity": None,
        "expires_at": None,
        "refresh_after": None,
        "revoked_at": at,
        "lease_id": "",
        "lease_until": 0,
    }


@dataclass
class RevokedBatch:
    """What one call has revoked: the keys of the connections, and the outbox entries."""

    using: str
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    requested_at: datetime = field(default_factory=timezone.now)
    connection_keys: list[int] = field(default_factory=list)

    def entries(self) -> OutboxQuerySet:
        """The batch's entries that are still in the outbox."""
        return PendingRevocation.objects.using(self.using).filter(batch=self.name)


class ConnectionQuerySet(AdoptingQuerySet, LeasedQuerySet["LeadExecConnection"]):
    """Finds connections by what is wanted of them, and writes them only while that still holds."""

    def active(self) -> Self:
        """Connections that can be used."""
        return self.filter(status=Status.ACTIVE)

    def live(self) -> Self:
        """Connections that hold a refresh token: active, or rejected and still asked about."""
        return self.filter(status__in=LIVE)

    def for_user(self, user: AbstractBaseUser | AnonymousUser) -> Self:
        """Connections of one user; none for a visitor who is not logged in."""
        return self.filter(user=user) if user.is_authenticated else self.none()

    if TYPE_CHECKING:
        # Without stubs of Django these have no types.
        def first(self) -> "LeadExecConnection | None": ...
        def last(self) -> "LeadExecConnection | None": ...
        def get(self, *args: Any, **kwargs: Any) -> "LeadExecConnection": ...
        def count(self) -> int: ...
        def exists(self) -> bool: ...
        def __iter__(self) -> Iterator["LeadExecConnection"]: ...

    def expiring(self, within: float) -> Self:
        """Active connections whose access token has ended or ends within that many seconds."""
        return self.active().filter(expires_at__lte=seconds_from_now(within))

    def holding(self, token: str | Secret) -> Self:
        """The live connection with this refresh token, if there is one."""
        return self.live().filter(fingerprint__in=crypto.fingerprints(token))

    def of_account(self, app_id: str, account_id: str) -> Self:
        """The live connection of this LeadExec account, if there is one."""
        return self.live().filter(identity=crypto.identity_of(app_id, account_id, None))

    def bulk_create(
        self, objs: Iterable["LeadExecConnection"], *args: Any, **kwargs: Any
    ) -> list["LeadExecConnection"]:
        """Django's own, for rows that are completed as ``save()`` completes them."""
        rows = list(objs)
        for row in rows:
            row.complete()
        made = super().bulk_create(rows, *args, **kwargs)
        for row in made:
            row.mark_as_stored()
        return made

    @retried_on_deadlock
    def move_to_outbox(self, batch_name: str = "") -> RevokedBatch:
        """Revoke all live rows of this query set, in one transaction.

        Their tokens move to the outbox as they are, and all use of them stops at once.
        ``batch_name``: the batch of an earlier call that they join; else they are a new one.
        """
        batch = RevokedBatch(self.db, batch_name or uuid.uuid4().hex)
        with writing(self.model, self.db):
            self._move_to_outbox(batch)
        return batch

    # As Django marks its own methods: templates must not call it.
    move_to_outbox.alters_data = True  # type: ignore[attr-defined]

    def delete(self) -> tuple[int, dict[str, int]]:
        """Delete the rows. Their tokens move to the outbox."""
        return self.revoke_and_delete()[1]

    # As for Django's own: managers do not have it, and templates must not call it.
    delete.queryset_only = True  # type: ignore[attr-defined]
    delete.alters_data = True  # type: ignore[attr-defined]

    @retried_on_deadlock
    def revoke_and_delete(self) -> tuple[RevokedBatch, tuple[int, dict[str, int]]]:
        """Delete the rows, their tokens moved to the outbox; also tell what was revoked."""
        batch = RevokedBatch(self.db)
        # Read first: a row that is revoked may no longer match this query.
        keys = sorted(self.values_list("pk", flat=True))
        total: Counter[str] = Counter()
        with writing(self.model, self.db):
            for part in chunks(keys):
                chunk = type(self)(self.model, using=self.db).filter(pk__in=part)
                chunk._move_to_outbox(batch)
                # Rows that were revoked before are not locked yet.
                with brief_waits(self.db):
                    total.update(super(ConnectionQuerySet, chunk).delete()[1])
        return batch, (total.total(), dict(total))

    revoke_and_delete.queryset_only = True  # type: ignore[attr-defined]
    revoke_and_delete.alters_data = True  # type: ignore[attr-defined]

    def _move_to_outbox(self, batch: RevokedBatch) -> None:
        live, last = self.live().order_by("pk"), 0
        while rows := list(live.filter(pk__gt=last).locked()[:CHUNK_SIZE]):
            last = rows[-1].pk
            PendingRevocation.objects.using(self.db).bulk_create(
                PendingRevocation.of_connection(row, batch.name, batch.requested_at) for row in rows
            )
            self.with_keys_of(rows).erase(batch.requested_at)
            batch.connection_keys += [row.pk for row in rows]
            for row in rows:
                row.become_revoked(batch.requested_at)
                signals.send_after_commit(signals.connection_revoked, row)

    def erase(self, at: datetime) -> int:
        """Make these rows revoked ones, without tokens. Callers see to it where the tokens go."""
        return self.write(**columns_of_revoked(at), version=models.F("version") + 1)

    erase.alters_data = True  # type: ignore[attr-defined]

    @retried_on_deadlock
    def write_claimed(
        self, claims: Sequence[Claim["LeadExecConnection"]]
    ) -> Unwritten["LeadExecConnection"]:
        """Write what happened to claimed rows, and release them, in one transaction.

        A claim without a lease of its own leaves the row's lease to whoever holds it.
        Returns the claims that were not written, and why.
        """
        if not claims:
            return Unwritten()
        mark = released()
        with transaction.atomic(using=self.db), waits_of_skipping(self.db):
            locked = self.lock_or_skip(claims)
            mine = [claim for claim in claims if claim not in locked] if locked else claims
            written = self.guarded_update(mine, self.model.WRITTEN_UNDER_LEASE, mark) if mine else 0
            lost = []
            if written < len(mine):
                lost = _find_lost(self.with_keys_of([claim.row for claim in mine]), mine, mark)
            self._release_lost(lost, mark)
            ended = [claim.row for claim in mine if claim.ends_connection and claim not in lost]
            ended_at = timezone.now()
            if ended:
                self.with_keys_of(ended).erase(ended_at)
        for claim in mine:
            if claim.is_held:
                claim.row.lease_until = claim.lease_until = mark
        for row in ended:
            row.become_revoked(ended_at)
        return Unwritten(lost, locked)

    def _release_lost(self, lost: Sequence[Claim["LeadExecConnection"]], mark: int) -> None:
        for claim in lost:
            if claim.is_held:
                # A row that was authorized again with the same token keeps its lease. Nobody is
                # asking about it any more, so the lease ends here.
                row = self.with_keys_of([claim.row])
                row.filter(lease_id=claim.lease_id).write(lease_until=mark)


if TYPE_CHECKING:

    class ConnectionManager(AdoptingQuerySet, models.Manager["LeadExecConnection"]):
        """What ``from_queryset`` makes, for type checkers that do not run it."""

        # Without stubs of Django, pyright would take it for a descriptor that yields anything.
        def __get__(self, instance: Any, cls: Any = None) -> Self: ...
        def get_queryset(self) -> ConnectionQuerySet: ...
        def all(self) -> ConnectionQuerySet: ...
        def none(self) -> ConnectionQuerySet: ...
        def using(self, alias: str | None) -> ConnectionQuerySet: ...
        def filter(self, *args: Any, **kwargs: Any) -> ConnectionQuerySet: ...
        def exclude(self, *args: Any, **kwargs: Any) -> ConnectionQuerySet: ...
        def order_by(self, *field_names: Any) -> ConnectionQuerySet: ...
        def select_related(self, *fields: Any) -> ConnectionQuerySet: ...
        def active(self) -> ConnectionQuerySet: ...
        def live(self) -> ConnectionQuerySet: ...
        def for_user(self, user: AbstractBaseUser | AnonymousUser) -> ConnectionQuerySet: ...
        def expiring(self, within: float) -> ConnectionQuerySet: ...
        def holding(self, token: str | Secret) -> ConnectionQuerySet: ...
        def of_account(self, app_id: str, account_id: str) -> ConnectionQuerySet: ...
        def move_to_outbox(self, batch_name: str = "") -> RevokedBatch: ...

else:
    ConnectionManager = models.Manager.from_queryset(ConnectionQuerySet)


def _find_lost(
    rows: ConnectionQuerySet, claims: Sequence[Claim["LeadExecConnection"]], mark: int
) -> list[Claim["LeadExecConnection"]]:
    """The claims that ``guarded_update`` did not write, by what is in their ``rows`` now."""
    present = set(rows.values_list("pk", "version", "lease_id", "lease_until"))
    return [
        claim
        for claim in claims
        # A claim without a lease is written alone, so it is the one that lost.
        if not claim.is_held
        or (claim.row.pk, claim.row.version, claim.lease_id, mark) not in present
    ]
