"""What a worker knows of the rows it has claimed, and of those it could not write."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Self, TypeVar

if TYPE_CHECKING:
    from .leases import Leased

Row = TypeVar("Row", bound="Leased")


@dataclass
class Claim(Generic[Row]):
    """What one worker knows of a row that it works on: the lease, and the version it has read.

    ``is_held`` is False for a row that is worked on without a lease of one's own, inside a
    caller's transaction. ``version`` is None for rows that have none.
    """

    row: Row
    lease_id: str
    lease_until: int
    version: int | None
    is_held: bool = True
    # Set when the provider has refused the row for so long that the write also revokes it.
    ends_connection: bool = False

    @classmethod
    def of(cls, row: Row, *, is_held: bool) -> Self:
        """The claim on a row as it stands in memory now."""
        version: int | None = getattr(row, "version", None)
        return cls(row, row.lease_id, row.lease_until, version, is_held)

    def seconds_left(self) -> float:
        """Seconds until the lease ends; negative once it has ended."""
        return self.lease_until / 1000 - time.time()

    def covers(self, seconds: float) -> bool:
        """Whether work that takes that long at most ends before somebody else may begin it.

        A row without a lease of its own is protected by its caller's transaction instead.
        """
        return not self.is_held or self.seconds_left() >= seconds


@dataclass(frozen=True)
class Unwritten(Generic[Row]):
    """The claims that a write has left out.

    ``lost``: their rows were revoked, authorized again, or claimed by somebody else meanwhile, so
    the answer no longer counts. ``locked``: somebody else has locked their rows. Nothing was done
    about these, so the same answer can be written later.
    """

    lost: list[Claim[Row]] = field(default_factory=list)
    locked: list[Claim[Row]] = field(default_factory=list)
