"""Makes connections of rows: who they are for, what is on file, what LeadExec says, and storing."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from django.db import IntegrityError

from .. import crypto
from ..conf import get_settings
from ..echoes import believe
from ..exceptions import (
    ConnectionBusy,
    ConnectionConflict,
    RevocationPending,
    UnstorableAccount,
)
from ..linking import link, store
from ..models import LeadExecConnection
from ..provider.replies import RefreshOutcome, Refused, Unavailable
from ..user_names import UserNames
from .questions import End, Questions
from .rows import Complain, Row, TokenFile

# Rows that are read, looked up and stored together.
BATCH_SIZE = 200

# A row with its user.
Wanted = list[tuple[Row, Any]]


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """How to import. ``rate``: calls a second at most, None for no limit."""

    using: str
    user_field: str
    verify: bool = True
    workers: int = 8
    rate: float | None = None
    dry_run: bool = False


@dataclass
class Tally:
    """``known``: tokens that were on file already. ``skipped``: rows that could not be taken.

    ``next_line``: where to go on, if the import has ended early, and ``end``: why it has. Without
    an ``end`` an error has ended it.
    """

    imported: int = 0
    known: int = 0
    skipped: int = 0
    next_line: int | None = None
    end: End | None = None


class Importer:
    """Imports rows, and counts them in ``tally``.

    ``complain`` hears of each row that can not be taken, ``progress`` how many rows have been
    dealt with. ``stop`` ends the import after the calls that are under way.
    """

    def __init__(
        self,
        options: ImportOptions,
        complain: Complain,
        stop: threading.Event,
        progress: Callable[[int], object] = lambda count: None,
    ) -> None:
        self.tally: Tally = Tally()
        self.options = options
        self.stop = stop
        self._tell = complain
        self._progress = progress
        self._conf = get_settings()
        self._questions = Questions(self._conf, options.rate, stop)
        self._users = UserNames(options.using, options.user_field)

    def complain(self, line: int, reason: str) -> None:
        self.tally.skipped += 1
        self._tell(line, reason)

    def run(self, file: TokenFile) -> None:
        """Import all rows. Raises BadInput, ImproperlyConfigured, OSError and database errors."""
        rows, open_line = file.rows(), None
        with ThreadPoolExecutor(self.options.workers) as pool:
            while open_line is None and (batch := list(islice(rows, BATCH_SIZE))):
                self.tally.next_line = batch[0].line
                open_line = self._import(batch, pool)
                self._progress(len(batch))
        self._note_the_end(open_line, file)

    def _note_the_end(self, open_line: int | None, file: TokenFile) -> None:
        end = self._questions.end
        doubtful_since = self._questions.doubtful_since if end else None
        lines = (open_line, file.stopped_at, doubtful_since)
        self.tally.next_line = min((line for line in lines if line is not None), default=None)
        if self.tally.next_line is None:
            return
        if end or self.stop.is_set():
            self.tally.end = end or End.STOPPED
        elif file.is_unclosed:
            self.tally.end = End.UNCLOSED

    def _import(self, batch: list[Row], pool: ThreadPoolExecutor) -> int | None:
        """Import some rows. Returns the first line that is still open when the import ends."""
        # What could not be taken, by its digest: the same token is not asked about again.
        failed: dict[str, str] = {}
        while batch:
            wanted, batch = self._look_up(batch, failed)
            if self.options.dry_run:
                self.tally.imported += len(wanted)
                for row in batch:
                    self.complain(row.line, "a line before has its token, or its user")
                return None
            answers: Iterable[RefreshOutcome | None] = (
                list(pool.map(self._questions.ask, (row for row, _user in wanted)))
                if self.options.verify
                else [None] * len(wanted)
            )
            still_open = [row.line for row in batch if self._questions.is_over()]
            for (row, user), answer in zip(wanted, answers, strict=True):
                if self.options.verify and self._is_open(answer):
                    still_open.append(row.line)
                elif reason := self._store(row, user, answer):
                    self.complain(row.line, reason)
                    failed[crypto.fingerprint(row.token)] = reason
                else:
                    self.tally.imported += 1
            if still_open:
                return min(still_open)
        return None

    def _is_open(self, answer: RefreshOutcome | None) -> bool:
        """Whether a row has to be asked about again by the import that goes on here."""
        if self._questions.end == End.EVERYBODY_REFUSED and isinstance(answer, Refused):
            return True
        has_failed = isinstance(answer, Unavailable)
        return answer is None or (self._questions.end is not None and has_failed)

    def _look_up(self, batch: list[Row], failed: dict[str, str]) -> tuple[Wanted, list[Row]]:
        """The rows that can be asked about at once, and those that have to wait for one of them.

        Rows of one token, or for one account, come one after the other: what becomes of the first
        decides about the next.
        """
        by_name = self._users.find({row.user for row in batch})
        digests = {row.line: crypto.fingerprints(row.token) for row in batch}
        connections = LeadExecConnection.objects.using(self.options.using).live()
        all_digests = {digest for of_row in digests.values() for digest in of_row}
        # One of another application is stored again, for this application.
        on_file = connections.filter(fingerprint__in=all_digests, app_id=self._conf.app_id)
        holders = dict(on_file.values_list("fingerprint", "user_id"))
        identities = {
            row.line: self._identity(row, by_name[row.user][0])
            for row in batch
            if by_name[row.user]
        }
        of_accounts = connections.filter(identity__in=set(identities.values()))
        taken = set(of_accounts.values_list("identity", "user_id"))
        user_keys = {found[0].pk for found in by_name.values() if found}
        # Whatever their identity says, which may be that of a user who had the row before.
        of_users = connections.filter(user__in=user_keys, app_id=self._conf.app_id, account_id="")
        for key in of_users.values_list("user_id", flat=True):
            taken.add((crypto.identity_of(self._conf.app_id, "", key), key))
        wanted: Wanted = []
        later: list[Row] = []
        busy: set[str] = set()
        for row in batch:
            users, tokens = by_name[row.user], digests[row.line]
            holder = next((holders[digest] for digest in tokens if digest in holders), None)
            if len(users) != 1:
                count = len(users) or "no"
                self.complain(row.line, f"{count} users have its {self.options.user_field}")
            elif holder is not None and holder == users[0].pk:
                self.tally.known += 1
            elif holder is not None:
                self.complain(row.line, "its token is connected to another user")
            elif reason := failed.get(crypto.fingerprint(row.token)):
                self.complain(row.line, reason)
            elif (identities[row.line], users[0].pk) in taken:
                # A token is replaced only by its user, who authorizes again.
                self.complain(row.line, "its user is connected already, with another token")
            elif busy.intersection([*tokens, identities[row.line]]):
                later.append(row)
            else:
                busy.update([*tokens, identities[row.line]])
                wanted.append((row, users[0]))
        return wanted, later

    def _identity(self, row: Row, user: Any) -> str:
        return crypto.identity_of(self._conf.app_id, row.account_id, user.pk)

    def _store(self, row: Row, user: Any, answer: RefreshOutcome | None) -> str:
        """Store one row; returns why it can not be taken, or "" if it is stored."""
        if answer is not None:
            answer = believe(answer, self.options.using)
        if isinstance(answer, Refused):
            return f"LeadExec refuses its token: {answer.reason}"
        if isinstance(answer, Unavailable):
            return f"LeadExec could not be asked: {answer.reason}; import it again later"
        using = self.options.using
        try:
            store(
                using,
                lambda: link(
                    user,
                    self._conf.app_id,
                    row.token,
                    answer.access_token if answer else None,
                    answer.expires_at if answer else 0.0,
                    account_id=row.account_id,
                    using=using,
                ),
            )
        except RevocationPending:
            return "its token is being revoked"
        except ConnectionConflict:
            return "its account is another user's"
        except ConnectionBusy:
            return "another transaction keeps its connection locked; import it again later"
        except IntegrityError:
            return "its user is gone, or somebody else has just stored it; import it again"
        except UnstorableAccount:
            return "the database can not hold its account"
        return ""
