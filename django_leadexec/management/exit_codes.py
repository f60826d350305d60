"""The exit code of a command that could not do its work."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import Error as DatabaseError
from django.utils.connection import ConnectionDoesNotExist

from ..refresh import UNREADABLE_MESSAGE


@contextmanager
def exit_2_on_failure() -> Iterator[None]:
    """Turn faulty settings and failures of the database into a CommandError with exit code 2."""
    try:
        yield
    except ImproperlyConfigured as error:
        raise CommandError(str(error), returncode=2) from error
    except ConnectionDoesNotExist as error:
        raise CommandError(f"There is no such database: {error}", returncode=2) from error
    except DatabaseError as error:
        raise CommandError(f"The database failed: {error}", returncode=2) from error


def exit_2_if_unreadable(count: int) -> None:
    """Raise CommandError if none of ENCRYPTION_KEYS opens this many rows: no retry helps."""
    if count:
        raise CommandError(UNREADABLE_MESSAGE.format(count=count), returncode=2)
