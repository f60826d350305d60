"""The writer: which answers it writes, which wait, and what it counts."""

import time
from typing import Any, NoReturn

import pytest
from django.db import OperationalError

from django_leadexec.claims import Claim, Unwritten
from django_leadexec.models import ConnectionQuerySet, LeadExecConnection, PendingRevocation
from django_leadexec.outbox import OutboxQuerySet
from django_leadexec.provider.replies import Fresh, Refused, Revoked, Unavailable
from django_leadexec.refresh import Report, writer
from django_leadexec.refresh.jobs import Answer, RefreshJob, RevocationJob, Unreadable
from django_leadexec.refresh.recorded import Recorded
from django_leadexec.refresh.refusals import DOUBT_THRESHOLD, Refusals
from django_leadexec.refresh.writer import Writer
from django_leadexec.secret import Secret

from ..factories import make_due_connections

pytestmark = pytest.mark.django_db(transaction=True)


class Desk:
    """A writer, and the claims on rows to write answers to."""

    def __init__(self, rows: int = 3) -> None:
        make_due_connections(rows, "t")
        self.claims = LeadExecConnection.objects.order_by("pk").claim(rows, 60)
        self.report, self.refusals = Report(), Refusals(watching=False)
        self.recorded, self.written = Recorded(), list[int]()
        self.writer = Writer(
            "default", self.report, self.refusals, self.written.append, self.recorded
        )

    def answer(self, number: int, result: Any) -> None:
        self.writer.add(Answer(RefreshJob(self.claims[number]), result))

    def refuse(self, *numbers: int) -> None:
        for number in numbers:
            self.refusals.record_refusal()
            self.answer(number, Refused("no"))

    def fresh(self, number: int) -> None:
        self.refusals.record_success()
        self.answer(number, Fresh(Secret(f"access-{number}"), time.time() + 3600))

    def statuses(self) -> list[str]:
        return list(LeadExecConnection.objects.order_by("pk").values_list("status", flat=True))

    def counts(self) -> tuple[int, int, int, int]:
        return (
            self.report.refreshed,
            self.report.rejected,
            self.report.failed,
            self.report.skipped,
        )


def test_each_kind_of_answer_is_written_and_counted() -> None:
    desk = Desk(4)
    desk.fresh(0)
    desk.refuse(1)
    desk.answer(2, Unavailable("down"))
    desk.answer(3, Unreadable())
    assert len(desk.writer) == 4
    desk.writer.write()
    assert len(desk.writer) == 0
    assert desk.statuses() == ["active", "rejected", "active", "active"]
    assert desk.counts() == (1, 1, 2, 0)
    assert desk.report.unreadable == 1
    assert desk.written == [4]


def test_a_refusal_waits_for_a_success_and_is_then_written() -> None:
    desk = Desk()
    desk.refuse(0, 1)
    desk.writer.write()
    assert (desk.statuses(), desk.written) == (["active"] * 3, [])
    desk.fresh(2)
    desk.writer.write()
    assert desk.statuses() == ["rejected", "rejected", "active"]
    assert desk.counts() == (1, 2, 0, 0)


@pytest.mark.parametrize(("count", "status"), [(DOUBT_THRESHOLD, "active"), (2, "rejected")])
def test_at_the_end_few_refusals_are_believed_and_many_are_held_back(
    count: int, status: str
) -> None:
    desk = Desk(count)
    desk.refuse(*range(count))
    desk.writer.write()
    desk.writer.settle()
    assert desk.statuses() == [status] * count


def test_a_single_refusal_is_held_back_where_everybody_was_refused() -> None:
    desk = Desk()
    desk.refuse(0)
    desk.report.everybody_refused = True
    desk.writer.write()
    desk.writer.settle()
    assert desk.statuses() == ["active"] * 3
    assert desk.counts() == (0, 0, 1, 0)


def test_an_answer_whose_claim_is_lost_is_skipped() -> None:
    desk = Desk()
    LeadExecConnection.objects.filter(pk=desk.claims[0].row.pk).write(lease_id="another")
    desk.fresh(0)
    desk.fresh(1)
    desk.writer.write()
    assert desk.counts() == (1, 0, 0, 1)


def test_an_answer_whose_row_is_locked_waits_and_the_others_are_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk()
    write_claimed = ConnectionQuerySet.write_claimed

    def skip_the_second(
        rows: ConnectionQuerySet, claims: list[Claim[LeadExecConnection]]
    ) -> Unwritten[LeadExecConnection]:
        locked = [claim for claim in claims if claim is desk.claims[1]]
        write_claimed(rows, [claim for claim in claims if claim not in locked])
        return Unwritten(locked=locked)

    with monkeypatch.context() as patch:
        patch.setattr(ConnectionQuerySet, "write_claimed", skip_the_second)
        for number in range(3):
            desk.fresh(number)
        desk.writer.write()
    assert (desk.counts(), desk.written) == ((2, 0, 0, 0), [2])
    assert [claim for claim, _ in desk.recorded.connections] == [desk.claims[1]]
    desk.writer.write()
    assert (desk.counts(), desk.written) == ((3, 0, 0, 0), [2, 1])


def write_in_vain(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, kind: type, is_conflict: bool
) -> None:
    """Write once while the whole database fails, by a conflict or otherwise."""

    def fail(*arguments: object, **options: object) -> NoReturn:
        raise OperationalError("for the test")

    with monkeypatch.context() as patch:
        patch.setattr(kind, "write_claimed", fail)
        patch.setattr(writer, "is_conflict", lambda error, using: is_conflict)
        patch.setattr(writer, "is_database_down", lambda error, using: True)
        if is_conflict:
            desk.writer.write()
        else:
            with pytest.raises(OperationalError):
                desk.writer.write()


@pytest.mark.parametrize("is_conflict", [True, False])
def test_an_answer_outlasts_a_conflict_and_an_error(
    monkeypatch: pytest.MonkeyPatch, is_conflict: bool
) -> None:
    desk = Desk()
    desk.fresh(0)
    write_in_vain(desk, monkeypatch, ConnectionQuerySet, is_conflict)
    assert desk.counts() == (0, 0, 0, 0)
    desk.writer.write()
    assert desk.counts() == (1, 0, 0, 0)


@pytest.mark.parametrize("is_conflict", [True, False])
def test_a_confirmation_outlasts_a_conflict_and_an_error(
    monkeypatch: pytest.MonkeyPatch, is_conflict: bool
) -> None:
    desk = Desk()
    LeadExecConnection.objects.all().move_to_outbox()
    entries = PendingRevocation.objects.order_by("pk").claim(2, 60)
    desk.writer.add(Answer(RevocationJob(entries[0]), Revoked()))
    desk.writer.add(Answer(RevocationJob(entries[1]), Unavailable("down")))
    write_in_vain(desk, monkeypatch, OutboxQuerySet, is_conflict)
    assert PendingRevocation.objects.count() == 3
    desk.writer.write()
    assert (desk.report.revoked, desk.report.failed, desk.written) == (1, 1, [1, 1])
    assert PendingRevocation.objects.count() == 2


def test_what_could_not_be_written_counts_as_failed_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk()
    monkeypatch.setattr(
        ConnectionQuerySet, "write_claimed", lambda rows, claims: Unwritten(locked=claims)
    )
    desk.fresh(0)
    desk.fresh(1)
    desk.writer.write()
    desk.writer.give_up()
    assert desk.counts() == (0, 0, 2, 0)
    assert len(desk.recorded) == 0


def test_an_answer_is_kept_for_a_locked_row_until_its_lease_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk()
    monkeypatch.setattr(
        ConnectionQuerySet, "write_claimed", lambda rows, claims: Unwritten(locked=claims)
    )
    desk.claims[0].lease_until = int(time.time() * 1000) - 1
    desk.fresh(0)
    desk.fresh(1)
    desk.writer.write()
    assert desk.counts() == (0, 0, 1, 0)
    assert [claim for claim, _ in desk.recorded.connections] == [desk.claims[1]]


def test_an_answer_that_is_never_written_keeps_no_other_waiting_after_its_lease(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A disk may fail at one row and still look like a disk that fails at all."""
    desk = Desk()
    desk.fresh(0)
    write_in_vain(desk, monkeypatch, ConnectionQuerySet, is_conflict=False)
    desk.claims[0].lease_until = int(time.time() * 1000) - 1
    write_in_vain(desk, monkeypatch, ConnectionQuerySet, is_conflict=False)
    assert (len(desk.recorded), desk.counts()) == (0, (0, 0, 1, 0))
