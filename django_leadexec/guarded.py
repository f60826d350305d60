"""Rows that say so when a change can't be saved, instead of losing it."""

from collections.abc import Collection, Iterable
from typing import Any, ClassVar, Self

from django.core.exceptions import FieldError
from django.db import router

from .clock import backoff, jitter, seconds_from_now
from .crypto import UNREADABLE
from .leases import Leased, refuse_own_columns


class GuardedRow(Leased):
    """A row of which ``save()`` stores only ``free_columns``, all others being guarded writes.

    ``save()`` compares the row with what was loaded or written last, and raises FieldError for a
    change that it would not store.
    """

    free_columns: ClassVar[frozenset[str]]
    # The failures in a row.
    attempts: int
    # Attributes as they were loaded or written last: their names, and their values.
    _stored: tuple[tuple[str, ...], tuple[Any, ...]] = ((), ())
    # Whether `_stored` is what the database returned. False after a write, which may be rolled
    # back.
    _is_as_read: bool = False

    class Meta:
        abstract = True

    @classmethod
    def from_db(
        cls, db: str | None, field_names: Collection[str], values: Collection[Any], **options: Any
    ) -> Self:
        row = super().from_db(db, field_names, values, **options)
        row._stored = (tuple(field_names), tuple(values))
        row._is_as_read = True
        return row

    def refresh_from_db(self, using: Any = None, fields: Any = None, *args: Any, **kw: Any) -> None:
        names = None if fields is None else list(fields)
        super().refresh_from_db(using, names, *args, **kw)
        self.mark_as_stored(names)
        self._is_as_read = names is None

    def as_read(self, attname: str) -> Any:
        """The column's value as it was read; None if the row was written since."""
        return dict(zip(*self._stored, strict=True)).get(attname) if self._is_as_read else None

    def mark_as_stored(self, names: Collection[str] | None = None) -> None:
        """Take what is in memory for what is in the database: these fields, or all."""
        attributes = self.__dict__
        stored = {} if names is None else dict(zip(*self._stored, strict=True))
        for field in self._meta.concrete_fields:
            is_meant = names is None or field.name in names or field.attname in names
            if is_meant and field.attname in attributes:
                stored[field.attname] = attributes[field.attname]
        self._stored = (tuple(stored), tuple(stored.values()))
        self._is_as_read = False

    def save(self, *args: Any, update_fields: Iterable[str] | None = None, **kwargs: Any) -> None:
        """Insert the row, or save what may be saved.

        Raises FieldError before anything is written if a change would be lost, or if
        ``update_fields`` names a column that only this package may write.
        """
        if self._state.adding:
            self._refuse_to_replace(kwargs.get("using"))
            self.complete()
        elif update_fields is None:
            self._refuse_lost_changes()
            update_fields = {
                name for name in self.free_columns if self._attname(name) in self.__dict__
            }
        else:
            update_fields = frozenset(update_fields)
            refuse_own_columns(type(self), update_fields)
        self.store(*args, update_fields=update_fields, **kwargs)

    def store(self, *args: Any, **kwargs: Any) -> None:
        """Save without these checks. For writers that have locked and checked the row."""
        super().save(*args, **kwargs)
        self.mark_as_stored()

    def put_off(
        self, reason: str, retry_after: float | None, *, first: float, longest: float
    ) -> None:
        """Count a failure, in memory, and set when the row is tried again: after ``first`` seconds.

        That doubles with each failure up to ``longest``. ``retry_after``: seconds to wait at least.
        """
        # Without the right key each run of a minute later has to meet the row, and to say so.
        tries = 1 if reason == UNREADABLE else self.attempts + 1
        self.attempts = max(self.attempts, tries)
        wait = backoff(tries, first=first, longest=longest) * jitter(0.5, 1)
        setattr(self, self.schedule, seconds_from_now(max(wait, retry_after or 0)))

    def complete(self) -> None:
        """Fill in what a new row needs. Raises FieldError if that is not possible."""
        raise NotImplementedError

    def _refuse_to_replace(self, using: str | None) -> None:
        """Raise FieldError if a row with this key is stored: Django would overwrite all of it.

        A record of a history tool makes such rows. They would bring back a revoked token.
        """
        using = using or router.db_for_write(type(self), instance=self)
        if (
            self.pk is not None
            and type(self)._base_manager.using(using).filter(pk=self.pk).exists()
        ):
            raise FieldError(
                f"{self._meta.object_name} {self.pk} is stored already, and a row that was not "
                "read from the database can't replace it. Load the row and change that."
            )

    def _refuse_lost_changes(self) -> None:
        free = {self._attname(name) for name in self.free_columns}
        names = [field.attname for field in self._meta.concrete_fields]
        attributes = {name: self.__dict__[name] for name in names if name in self.__dict__}
        stored = dict(zip(*self._stored, strict=True))
        # Deferred, and then set, or loaded together with those of other rows.
        unknown = attributes.keys() - stored.keys() - free
        if unknown:
            rows = type(self)._base_manager.using(self._state.db)
            stored |= rows.filter(pk=self.pk).values(*unknown).first() or {}
        changed = [
            name
            for name, value in attributes.items()
            if name not in free and name in stored and value != stored[name]
        ]
        refuse_own_columns(type(self), changed)
        if changed:
            raise FieldError(
                f"save() would lose the change of {', '.join(changed)}: name it in update_fields."
            )

    def _attname(self, name: str) -> str:
        attname: str = self._meta.get_field(name).attname  # type: ignore[union-attr]
        return attname
