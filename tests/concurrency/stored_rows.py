"""What is on file, as the model of the state machine sees it."""

from dataclasses import dataclass

from django.db import connection as database

from django_leadexec import crypto
from django_leadexec.fields import Ciphertext
from django_leadexec.models import LeadExecConnection

from ..factories import plain


@dataclass(frozen=True)
class Row:
    """A row as it is stored, its tokens opened."""

    pk: int
    user_id: int
    status: str
    refresh_token: str
    access_token: str
    fingerprint: str | None
    account_id: str
    version: int

    @property
    def is_live(self) -> bool:
        return self.status in LeadExecConnection.LIVE

    @property
    def number(self) -> int:
        """Which of the provider's answers about this token the row holds."""
        word = self.access_token.split("-")[1]
        return int(word) if word.isdigit() else 0


# In one statement, so that it is of one moment.
SNAPSHOT = """
    SELECT id, user_id, status, refresh_token, access_token, fingerprint, account_id, version
    FROM django_leadexec_leadexecconnection
    UNION ALL
    SELECT id, 0, 'outbox', refresh_token, '', fingerprint, '', 0
    FROM django_leadexec_pendingrevocation
"""


def snapshot() -> tuple[dict[int, Row], set[str]]:
    """All connections by key, and the tokens in the outbox."""
    with database.cursor() as cursor:
        cursor.execute(SNAPSHOT)
        stored = cursor.fetchall()
    found: dict[int, Row] = {}
    outbox = set()
    for pk, user_id, status, *ciphertexts, fingerprint, account_id, version in stored:
        token, access_token = (plain(Ciphertext(text)) for text in ciphertexts)
        row = Row(pk, user_id, status, token, access_token, fingerprint, account_id, version)
        if token:
            assert fingerprint in crypto.fingerprints(token)
        if status == "outbox":
            outbox.add(token)
        else:
            found[pk] = row
    return found, outbox
