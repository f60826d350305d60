from datetime import UTC, datetime, timedelta, timezone

import pytest

from django_leadexec.sandbox.wire import expire_date

TOKYO = timezone(timedelta(hours=9))


@pytest.mark.parametrize(
    ("moment", "style", "text"),
    [
        (datetime(2025, 1, 1, tzinfo=UTC), "iso", "2025-01-01T00:00:00Z"),
        (datetime(2025, 1, 1, 9, tzinfo=TOKYO), "iso", "2025-01-01T00:00:00Z"),
        (datetime(2025, 1, 1, tzinfo=UTC), "microsoft", "/Date(1735689600000)/"),
        (datetime(2025, 1, 1, tzinfo=UTC), "us", "1/1/2025 12:00:00 AM"),
        (datetime(2025, 1, 2, 22, 5, 9, tzinfo=TOKYO), "us", "1/2/2025 1:05:09 PM"),
    ],
)
def test_moments_are_written_in_universal_time(moment: datetime, style: str, text: str) -> None:
    assert expire_date(moment, style) == text
