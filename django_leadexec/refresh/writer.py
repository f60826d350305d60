"""The writer: takes answers, writes them to their rows in batches, counts, and sends signals."""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from django.core.exceptions import ObjectDoesNotExist
from django.db import DatabaseError

from .. import lifecycle, revocation
from ..claims import Claim
from ..conflicts import is_conflict
from ..crypto import UNREADABLE
from ..database_errors import is_database_down
from ..echoes import believe
from ..models import LeadExecConnection, PendingRevocation
from ..provider.replies import (
    Fresh,
    RefreshOutcome,
    Refused,
    Revoked,
    RevokeOutcome,
    Unavailable,
)
from .jobs import Answer, NotAsked, Result, RevocationJob, Unreadable
from .options import Report
from .recorded import Recorded
from .refusals import Refusals

logger: logging.Logger = logging.getLogger(__name__)

Progress = Callable[[int], object]
Recording = TypeVar("Recording", bound=tuple[Claim[Any], Any])

# So many rows that take no answer, and no other that does, are a fault of the whole database.
MOST_UNTAKEN = 3
# What is noted on a row whose true answer the database does not take, as a trigger may forbid it.
NOT_TAKEN = Unavailable("the database does not take the answer")


class Writer:
    """Writes answers to the database ``using``, and adds them up in ``report``.

    A refusal that ``refusals`` does not find credible waits until it is believed or held back.
    An answer waits in ``recorded`` while somebody else has its row locked, or the whole database
    fails: it is written by a later call. A row that does not take its answer is put off.
    ``progress`` is told how many rows have been dealt with.
    """

    def __init__(
        self,
        using: str,
        report: Report,
        refusals: Refusals,
        progress: Progress,
        recorded: Recorded,
    ) -> None:
        self.progress = progress
        self.recorded = recorded
        self._using = using
        self._report = report
        self._refusals = refusals
        self._answers: deque[Answer] = deque()
        self._doubted: list[tuple[Claim[LeadExecConnection], Refused]] = []

    def __len__(self) -> int:
        return len(self._answers)

    def add(self, answer: Answer) -> None:
        """Take an answer; it is written later."""
        self._answers.append(answer)

    def judge_last(self) -> Result:
        """What the answer that was added last is worth. One about another token is a failure."""
        self._answers[-1] = judged = self._judge(self._answers[-1])
        return judged.result

    def write(self) -> None:
        """Write all answers but the refusals that are not credible yet. Raises database errors."""
        self._sort_all()
        if self._refusals.are_credible():
            self.settle()
        else:
            self._write_recorded()

    def settle(self) -> None:
        """Write all, with the refusals that have waited: as such if believed, else as failures.

        A refusal that is held back leaves the status as it was and puts the row off, so that the
        next run meets other rows.
        """
        self._sort_all()
        held = Unavailable("refused, as all others were, so the refusal is not believed yet")
        is_held = self._report.everybody_refused or self._refusals.are_doubtful()
        doubted, self._doubted = self._doubted, []
        for claim, refused in doubted:
            self.recorded.add_connection(claim, held if is_held else refused)
        self._write_recorded()

    def give_up(self) -> None:
        """Count what is still not written as failed. The leases of these rows end by themselves."""
        self._report.failed += self.recorded.drop()

    def _sort_all(self) -> None:
        while self._answers:
            # Removed afterwards, as an error may come between.
            self._sort_in(self._answers[0])
            self._answers.popleft()

    def _judge(self, answer: Answer) -> Answer:
        if answer.is_judged or isinstance(answer.result, Unreadable | NotAsked):
            return answer
        return replace(answer, result=believe(answer.result, self._using), is_judged=True)

    def _sort_in(self, answer: Answer) -> None:
        job, result = answer.job, self._judge(answer).result
        if isinstance(result, Unreadable):
            self._report.unreadable += 1
            result = Unavailable(UNREADABLE)
        if isinstance(job, RevocationJob):
            if isinstance(result, Revoked | Unavailable):
                self.recorded.add_revocation(job.claim, result)
        elif isinstance(result, Refused) and not self._refusals.are_credible():
            self._doubted.append((job.claim, result))
        elif isinstance(result, Fresh | Refused | Unavailable):
            self.recorded.add_connection(job.claim, result)

    def _write_recorded(self) -> None:
        try:
            self._write_connections()
            self._write_each(self.recorded.revocations, self._write_revocation)
        finally:
            # After an error too: no answer may keep those after it waiting for ever.
            self._report.failed += self.recorded.drop_lapsed()

    def _write_connections(self) -> None:
        """Write all in one transaction, or one by one if the database does not take them all."""
        recorded = self.recorded.connections
        if not recorded:
            return
        try:
            self._write_batch(recorded.copy())
        except DatabaseError as error:
            if not self._is_locked(error):
                self._write_each(recorded, lambda answer: self._write_batch([answer]))

    def _write_batch(self, batch: list[tuple[Claim[LeadExecConnection], RefreshOutcome]]) -> None:
        rows = LeadExecConnection.objects.using(self._using)
        unwritten = rows.write_claimed([claim for claim, _outcome in batch])
        lost_keys = {claim.row.pk for claim in unwritten.lost}
        locked_keys = {claim.row.pk for claim in unwritten.locked}
        written = [it for it in batch if it[0].row.pk not in locked_keys]
        written_keys = {claim.row.pk for claim, _outcome in written}
        recorded = self.recorded.connections
        recorded[:] = [it for it in recorded if it[0].row.pk not in written_keys]
        for claim, outcome in written:
            if claim.row.pk in lost_keys:
                self._report.skipped += 1
                continue
            if isinstance(outcome, Fresh):
                self._report.refreshed += 1
            elif isinstance(outcome, Refused):
                self._report.rejected += 1
            else:
                self._report.failed += 1
            lifecycle.announce(claim, outcome)
        self.progress(len(written))

    def _write_revocation(self, answer: tuple[Claim[PendingRevocation], RevokeOutcome]) -> None:
        if not revocation.write(*answer, self._using):
            return
        # Removed afterwards, as an error may come between.
        self.recorded.revocations.remove(answer)
        if isinstance(answer[1], Revoked):
            self._report.revoked += 1
        else:
            self._report.failed += 1
        self.progress(1)

    def _write_each(self, recorded: list[Recording], write: Callable[[Recording], None]) -> None:
        """Write one answer after the other. A row that does not take its answer costs no other.

        It is put off. If it does not take that either, it comes free at the end of its lease.
        Raises the error if the first few rows take nothing.
        """
        given_up: list[Recording] = []
        is_any_stored = False
        for answer in recorded.copy():
            try:
                write(answer)
                is_any_stored = True
            except DatabaseError as error:
                if self._is_locked(error):
                    break
                given_up.append(answer)
                is_any_stored = self._put_off(answer[0], error) or is_any_stored
                if len(given_up) == MOST_UNTAKEN and not is_any_stored:
                    raise
        for answer in given_up:
            recorded.remove(answer)
            self._report.failed += 1
            self.progress(1)

    def _is_locked(self, error: DatabaseError) -> bool:
        """Whether others have locked what was to be written, perhaps all of it.

        Raises the error if the database as a whole has failed.
        """
        if is_conflict(error, self._using):
            return True
        if is_database_down(error, self._using):
            raise error
        return False

    def _put_off(self, claim: Claim[Any], error: DatabaseError) -> bool:
        """Note on a row that the database does not take its answer; whether it takes that."""
        logger.error(
            "The database does not take LeadExec's answer about the %s: %s.",
            claim.row,
            type(error).__name__,
        )
        try:
            stored = type(claim.row)._base_manager.using(self._using).get(pk=claim.row.pk)
            again = replace(claim, row=stored, ends_connection=False)
            if isinstance(stored, LeadExecConnection):
                lifecycle.record(again, NOT_TAKEN)
                LeadExecConnection.objects.using(self._using).write_claimed([again])
            else:
                revocation.record(again, NOT_TAKEN)
                revocation.write(again, NOT_TAKEN, self._using)
        except (DatabaseError, ObjectDoesNotExist):
            return False
        return True
