"""A text column that holds ciphertext, and whose attribute yields ciphertext."""

from typing import TYPE_CHECKING, Any, NoReturn

from django.core.exceptions import FieldError
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.expressions import Expression
from django.db.models.query_utils import DeferredAttribute

from . import crypto
from .secret import Secret


def storable(text: str) -> str:
    """Text of the provider's, fit for any column of 255 characters, whatever the character set.

    A MySQL table may hold latin1 or utf8mb3, and PostgreSQL refuses the NUL character. The
    provider's words must never make a write fail.
    """
    ascii_text = text.encode("ascii", "replace").decode()
    return "".join(char if char.isprintable() else "?" for char in ascii_text)[:255]


class Ciphertext(str):
    """Text that is encrypted already."""

    __slots__ = ()

    def decrypt(self) -> Secret:
        """The plain text, in an object that shows it only by ``reveal()``.

        Raises DecryptionFailed if no key fits. The empty text is its own ciphertext.
        """
        return crypto.decrypt(self) if self else Secret("")


if TYPE_CHECKING:
    # Of Field's parameters all stubs of Django know two.
    _TextField = models.Field[str | Secret, Ciphertext]
else:
    _TextField = models.TextField


class _EncryptingAttribute(DeferredAttribute):
    """Encrypts what is assigned, so that no plain text ever lies on an instance."""

    def __set__(self, instance: models.Model, value: Any) -> None:
        field: EncryptedTextField = self.field  # type: ignore[assignment]
        instance.__dict__[field.attname] = field.to_ciphertext(value)


class EncryptedTextField(_TextField):
    """Text that is encrypted at rest and in memory.

    Reading the attribute gives a ``Ciphertext``, a ``str`` with ``.decrypt()``. So whatever reads
    all fields of a row (an export, an audit trail, a serializer, a debugger) gets ciphertext.
    Assigning text or a ``Secret`` encrypts it at once. Text that is a ciphertext under one of the
    keys stays as it is, so what a tool has exported can be imported again.
    Rows can not be found by it, and no expression can be stored in it.
    """

    descriptor_class = _EncryptingAttribute

    def to_ciphertext(self, value: Any) -> Any:
        """The ciphertext of text or of a Secret. Anything but text is returned as it is."""
        if isinstance(value, Secret):
            return Ciphertext(crypto.encrypt(value) if value else "")
        if isinstance(value, Ciphertext) or not isinstance(value, str):
            return value
        if not value or (crypto.looks_encrypted(value) and crypto.opens(value)):
            return Ciphertext(value)
        return Ciphertext(crypto.encrypt(value))

    def get_default(self) -> Ciphertext:
        return Ciphertext("")

    def from_db_value(
        self, value: str | None, expression: Expression, connection: BaseDatabaseWrapper
    ) -> Ciphertext | None:
        return None if value is None else Ciphertext(value)

    def to_python(self, value: Any) -> Any:
        # Called for fixtures, which hold ciphertext. Its key may not be among ours.
        if isinstance(value, str) and crypto.looks_encrypted(value):
            return Ciphertext(value)
        return self.to_ciphertext(value)

    def get_prep_value(self, value: Any) -> Any:
        # The last gate before the column: whatever is not ciphertext yet becomes it here.
        prepared = self.to_ciphertext(value)
        is_expression = hasattr(prepared, "resolve_expression")
        if prepared is None or isinstance(prepared, Ciphertext) or is_expression:
            return prepared
        # A database would store the text of a number, of bytes or of a UUID as it is.
        kind = type(value).__name__
        del value, prepared
        raise TypeError(f"{self.name} takes a str or a Secret, not {kind}.")

    def get_db_prep_save(self, value: Any, connection: BaseDatabaseWrapper) -> Any:
        self._refuse_expression(value)
        return super().get_db_prep_save(value, connection)

    # Django asks the one from 6.1 on, the other before.

    def get_placeholder_sql(
        self, value: Any, compiler: Any, connection: BaseDatabaseWrapper
    ) -> tuple[str, tuple[Any, ...]]:
        self._refuse_expression(value)
        return "%s", (value,)

    def get_placeholder(self, value: Any, compiler: Any, connection: BaseDatabaseWrapper) -> str:
        self._refuse_expression(value)
        return "%s"

    def get_lookup(self, lookup_name: str) -> NoReturn:
        raise FieldError(
            f"Rows can't be found by {self.name}: equal tokens have unequal ciphertexts. "
            "Use fingerprint__in=crypto.fingerprints(token)."
        )

    def get_transform(self, lookup_name: str) -> NoReturn:
        self.get_lookup(lookup_name)

    def _refuse_expression(self, value: Any) -> None:
        if hasattr(value, "resolve_expression"):
            raise FieldError(
                f"No expression can be stored in {self.name}: the database would compute it, and "
                "can not encrypt. Assign the text itself."
            )
