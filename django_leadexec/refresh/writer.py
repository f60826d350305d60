"""The writer: takes answers, writes them to their rows in batches, counts, and sends signals."""

from collections import deque
from collections.abc import Callable

from django.db import OperationalError

from .. import lifecycle, revocation
from ..claims import Claim
from ..conflicts import is_conflict
from ..crypto import UNREADABLE
from ..echoes import believe
from ..models import LeadExecConnection
from ..provider.replies import Fresh, Refused, Revoked, Unavailable
from .jobs import Answer, RevocationJob, Unreadable
from .options import Report
from .recorded import Recorded
from .refusals import Refusals

Progress = Callable[[int], object]


class Writer:
    """Writes answers to the database ``using``, and adds them up in ``report``.

    A refusal that ``refusals`` does not find credible waits until it is believed or held back.
    An answer waits in ``recorded`` while somebody else has its row locked. An error of the database
    loses no answer: what was not written is written by the next call.
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

    def write(self) -> None:
        """Write all answers but the refusals that are not credible yet. Raises database errors."""
        while self._answers:
            # Removed afterwards, as an error may come between.
            self._sort_in(self._answers[0])
            self._answers.popleft()
        if self._refusals.are_credible():
            self.settle()
        else:
            self._write_recorded()

    def settle(self) -> None:
        """Write the refusals that have waited: as such if they are believed, else as failures.

        A refusal that is held back leaves the status as it was and puts the row off, so that the
        next run meets other rows.
        """
        held = Unavailable("refused, as all others were, so the refusal is not believed yet")
        is_held = self._report.everybody_refused or self._refusals.are_doubtful()
        doubted, self._doubted = self._doubted, []
        for claim, refused in doubted:
            self.recorded.add_connection(claim, held if is_held else refused)
        self._write_recorded()

    def give_up(self) -> None:
        """Count what is still not written as failed. The leases of these rows end by themselves."""
        self._report.failed += self.recorded.drop()

    def _sort_in(self, answer: Answer) -> None:
        job, result = answer.job, answer.result
        if isinstance(result, Unreadable):
            self._report.unreadable += 1
            result = Unavailable(UNREADABLE)
        if isinstance(job, RevocationJob):
            if isinstance(result, Revoked | Unavailable):
                self.recorded.add_revocation(job.claim, believe(result, self._using))
        elif isinstance(result, Fresh | Refused | Unavailable):
            believed = believe(result, self._using)
            if isinstance(believed, Refused) and not self._refusals.are_credible():
                self._doubted.append((job.claim, believed))
            else:
                self.recorded.add_connection(job.claim, believed)

    def _write_recorded(self) -> None:
        if self.recorded.connections:
            self._write_connections()
        if self.recorded.revocations:
            self._write_revocations()
        self._report.failed += self.recorded.drop_lapsed()

    def _write_connections(self) -> None:
        recorded = self.recorded.connections
        rows = LeadExecConnection.objects.using(self._using)
        try:
            unwritten = rows.write_claimed([claim for claim, _outcome in recorded])
        except OperationalError as error:
            if not is_conflict(error, self._using):
                raise
            return  # all of them are locked
        lost_keys = {claim.row.pk for claim in unwritten.lost}
        locked_keys = {claim.row.pk for claim in unwritten.locked}
        written = [it for it in recorded if it[0].row.pk not in locked_keys]
        recorded[:] = [it for it in recorded if it[0].row.pk in locked_keys]
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

    def _write_revocations(self) -> None:
        recorded = self.recorded.revocations
        for claim, outcome in list(recorded):
            try:
                is_written = revocation.write(claim, outcome, self._using)
            except OperationalError as error:
                if not is_conflict(error, self._using):
                    raise
                return  # all of them are locked
            if not is_written:
                continue
            # Removed afterwards, as an error may come between.
            recorded.remove((claim, outcome))
            if isinstance(outcome, Revoked):
                self._report.revoked += 1
            else:
                self._report.failed += 1
            self.progress(1)
