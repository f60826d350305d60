"""Finds the site's users by what files and command lines call them."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser
from django.core.exceptions import FieldDoesNotExist, FieldError, ValidationError
from django.db import DatabaseError
from django.db.models import Field, ForeignKey

from .database_errors import is_unstorable


class UnknownField(ValueError):
    """The user model has no such column, or can't be searched by it."""


class UserNames:
    """Looks users up by one field of the user model: ``field_name``, else its USERNAME_FIELD.

    Users whom the model's own manager hides are found as well.
    Raises UnknownField.
    """

    def __init__(self, using: str, field_name: str | None = None) -> None:
        model = get_user_model()
        name = field_name or model.USERNAME_FIELD
        self._users = model._base_manager.using(using)
        field: Any = None
        try:
            field = model._meta.get_field(name)
            # Some fields, such as encrypted ones, refuse to be searched.
            is_searchable = self._users.filter(**{f"{name}__in": []}) is not None
        except (FieldDoesNotExist, FieldError):
            is_searchable = False
        if not is_searchable or not isinstance(field, Field) or not field.column:
            raise UnknownField(
                f"Users can't be found by {name!r}: name a column of the user model."
            )
        self._field = field
        # What gives a related key its type.
        self._target = field.target_field if isinstance(field, ForeignKey) else field

    def find(self, names: Iterable[str]) -> dict[str, list[AbstractBaseUser]]:
        """The users of each name, in one query: none, one, or more where names aren't unique.

        Only their keys are loaded. If the column's character set lacks one of these names, it is
        a query for each.
        """
        values = {name: self._value_of(name) for name in names}
        wanted = {value for value in values.values() if value is not None}
        found: dict[Any, list[AbstractBaseUser]] = defaultdict(list)
        for user in self._having(wanted):
            found[getattr(user, self._field.attname)].append(user)
        return {name: found.get(value, []) for name, value in values.items()}

    def _having(self, wanted: Collection[Any]) -> list[AbstractBaseUser]:
        condition = {f"{self._field.name}__in": wanted}
        try:
            return list(self._users.filter(**condition).only(self._field.attname))
        except DatabaseError as error:
            if not is_unstorable(error):
                raise
        # What the column can't hold is in no row.
        if len(wanted) == 1:
            return []
        return [user for value in wanted for user in self._having([value])]

    def _value_of(self, name: str) -> Any:
        """What the column holds for that name; None if it can't hold it."""
        try:
            value = self._target.to_python(name)
            if not isinstance(value, str):
                # Not all databases take a number that is too big for the column.
                self._target.run_validators(value)
        except ValidationError:
            return None
        return value
