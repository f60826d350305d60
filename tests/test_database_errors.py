"""What an error of a database is about."""

import pytest
from django.db import DatabaseError, DataError, OperationalError

from django_leadexec.database_errors import is_unstorable


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DataError("value too long"), True),
        (OperationalError(1366, "Incorrect string value"), True),
        (OperationalError(1267, "Illegal mix of collations"), True),
        (OperationalError(1270, "Illegal mix of collations"), True),
        (OperationalError(1271, "Illegal mix of collations"), True),
        (OperationalError(1205, "Lock wait timeout exceeded"), False),
        (OperationalError("the connection is gone"), False),
        (OperationalError(), False),
        (DatabaseError(), False),
    ],
)
def test_a_text_that_does_not_fit_is_told_from_other_trouble(
    error: DatabaseError, expected: bool
) -> None:
    assert is_unstorable(error) is expected
