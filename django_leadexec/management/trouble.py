"""What keeps a command from doing its work."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import Error as DatabaseTrouble
from django.utils.connection import ConnectionDoesNotExist


@contextmanager
def told() -> Iterator[None]:
    """Turn faulty settings and a database in trouble into a CommandError with exit code 2."""
    try:
        yield
    except ImproperlyConfigured as error:
        raise CommandError(str(error), returncode=2) from error
    except ConnectionDoesNotExist as error:
        raise CommandError(f"There is no such database: {error}", returncode=2) from error
    except DatabaseTrouble as error:
        raise CommandError(f"The database failed: {error}", returncode=2) from error
