"""A text column that is plain text nowhere but in the hands of who reads the attribute."""

from typing import TYPE_CHECKING, Any

from django.core.exceptions import FieldError
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.expressions import Expression

from . import crypto

if TYPE_CHECKING:
    _TextField = models.TextField[str, str]
else:
    _TextField = models.TextField


class Ciphertext(str):
    """Text that is encrypted already."""


class EncryptedTextField(_TextField):
    """Text encrypted at rest.

    As a foreign key keeps its column's value under ``user_id``, this field keeps the ciphertext
    under ``<name>_ciphertext``: loading, refreshing, pickling and serializing a row touch only
    that. ``<name>`` decrypts when read (raises DecryptionFailed) and encrypts when set.
    The empty text stays empty. Rows can't be found by it.
    """

    def get_attname(self) -> str:
        return f"{self.name}_ciphertext"

    def get_attname_column(self) -> tuple[str, str]:
        return self.get_attname(), self.db_column or self.name

    def contribute_to_class(
        self, cls: type[models.Model], name: str, private_only: bool = False
    ) -> None:
        super().contribute_to_class(cls, name, private_only)
        setattr(cls, self.name, property(self._read, self._write))

    def _read(self, instance: models.Model) -> str:
        ciphertext = getattr(instance, self.attname)
        return crypto.decrypt(ciphertext) if ciphertext else ""

    def _write(self, instance: models.Model, value: str) -> None:
        setattr(instance, self.attname, self.get_prep_value(value))

    def get_default(self) -> Ciphertext:
        return Ciphertext("")

    def from_db_value(
        self, value: str | None, expression: Expression, connection: BaseDatabaseWrapper
    ) -> Ciphertext | None:
        return None if value is None else Ciphertext(value)

    def to_python(self, value: Any) -> Any:
        # Called for fixtures, which hold ciphertext; plain text comes through the attribute.
        return value if value is None else Ciphertext(value)

    def get_prep_value(self, value: Any) -> Any:
        # The last gate before the column: whatever is not ciphertext yet becomes it here.
        if isinstance(value, Ciphertext) or not isinstance(value, str):
            return value
        return Ciphertext(crypto.encrypt(value) if value else "")

    def get_lookup(self, lookup_name: str) -> Any:
        raise FieldError(
            f"Rows can't be found by {self.name}: equal tokens have unequal ciphertexts. "
            "Use fingerprint__in=crypto.fingerprints(token)."
        )

    get_transform = get_lookup
