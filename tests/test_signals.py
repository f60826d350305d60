import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import transaction
from django.dispatch import Signal

from django_leadexec import signals
from django_leadexec.models import LeadExecConnection
from django_leadexec.signals import send_after_commit

SIGNALS = {
    name: getattr(signals, f"connection_{name}")
    for name in ("authorized", "refreshed", "rejected", "revoked")
}


@contextmanager
def listening(signal: Signal, sender: Any = None) -> Iterator[list[dict[str, Any]]]:
    heard: list[dict[str, Any]] = []

    def hear(**arguments: Any) -> None:
        heard.append(arguments)

    signal.connect(hear, sender=sender)
    try:
        yield heard
    finally:
        signal.disconnect(hear, sender=sender)


@pytest.fixture
def row() -> LeadExecConnection:
    return LeadExecConnection(pk=1)


@pytest.mark.parametrize("signal", SIGNALS.values(), ids=SIGNALS)
@pytest.mark.django_db(transaction=True)
def test_a_signal_brings_the_row_and_its_class(signal: Signal, row: LeadExecConnection) -> None:
    with listening(signal) as heard:
        send_after_commit(signal, row)
    assert heard == [{"signal": signal, "sender": LeadExecConnection, "connection": row}]


@pytest.mark.django_db(transaction=True)
def test_a_signal_waits_for_the_commit(row: LeadExecConnection) -> None:
    with listening(signals.connection_revoked) as heard:
        with transaction.atomic():
            with transaction.atomic():
                send_after_commit(signals.connection_revoked, row)
            assert heard == []
        assert len(heard) == 1


@pytest.mark.django_db(transaction=True)
def test_a_signal_is_not_sent_for_what_is_rolled_back(row: LeadExecConnection) -> None:
    def fail() -> None:
        with transaction.atomic():
            send_after_commit(signals.connection_revoked, row)
            raise RuntimeError

    with listening(signals.connection_revoked) as heard:
        with pytest.raises(RuntimeError):
            fail()
        with transaction.atomic():
            pass
        assert heard == []


@pytest.mark.django_db(transaction=True)
def test_a_receiver_that_fails_harms_nobody(
    row: LeadExecConnection, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(**arguments: Any) -> None:
        raise RuntimeError

    with listening(signals.connection_refreshed) as before:
        signals.connection_refreshed.connect(fail)
        try:
            with listening(signals.connection_refreshed) as after, transaction.atomic():
                send_after_commit(signals.connection_refreshed, row)
        finally:
            signals.connection_refreshed.disconnect(fail)
        # The second listener was gone at the commit; the first is called whatever the other does.
        assert (len(before), len(after)) == (1, 1)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.django_db(transaction=True)
def test_only_what_is_listened_to_is_prepared(row: LeadExecConnection) -> None:
    with transaction.atomic():
        send_after_commit(signals.connection_refreshed, row)
        assert transaction.get_connection().run_on_commit == []
        with listening(signals.connection_refreshed):
            send_after_commit(signals.connection_refreshed, row)
            assert len(transaction.get_connection().run_on_commit) == 1


@pytest.mark.django_db(transaction=True)
def test_a_receiver_may_listen_to_one_class_only(row: LeadExecConnection) -> None:
    with (
        listening(signals.connection_refreshed, LeadExecConnection) as rows,
        listening(signals.connection_refreshed, Signal) as others,
    ):
        send_after_commit(signals.connection_refreshed, row)
    assert (len(rows), len(others)) == (1, 0)
