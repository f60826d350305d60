"""Work that is put off until a transaction is committed."""

import pytest
from django.db import transaction

from django_leadexec.commits import after_commit

pytestmark = pytest.mark.django_db(transaction=True)


def test_work_that_fails_after_a_commit_stops_neither_the_caller_nor_other_work(
    caplog: pytest.LogCaptureFixture,
) -> None:
    done: list[str] = []

    def fail() -> None:
        raise ValueError

    with transaction.atomic():
        after_commit(fail, "default")
        after_commit(lambda: done.append("other"), "default")
        assert done == []
    assert done == ["other"]
    assert "Error calling" in caplog.text


def test_work_of_a_transaction_that_is_undone_is_never_done() -> None:
    done: list[str] = []
    with transaction.atomic():
        after_commit(lambda: done.append("work"), "default")
        transaction.set_rollback(True)
    assert done == []
