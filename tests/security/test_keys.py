"""ENCRYPTION_KEYS in the hands of an operator, and a dump of the database in those of a thief."""

import hashlib
import hmac
import io
import itertools
import json
import re
import threading
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings as django_settings
from django.contrib.sessions.models import Session
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from pytest_django import Settings

from django_leadexec import crypto, rotation
from django_leadexec.conf import get_settings, new_key
from django_leadexec.exceptions import DecryptionFailed
from django_leadexec.models import LeadExecConnection, PendingRevocation

from ..concurrency.threads import repeat_beside
from ..factories import make_connection, make_due_connections, make_user, plain
from ..provider import Provider
from ..test_rotation import rotate, use_keys
from ..visitor import link_shown, post

pytestmark = pytest.mark.django_db(transaction=True)

OLD, NEW = new_key(), new_key()
# As the documentation has it: a process that runs meets others of the stage before or after.
STAGES = [(OLD,), (OLD, NEW), (NEW, OLD), (NEW,)]
NEIGHBOURS = [*itertools.pairwise(STAGES), *itertools.pairwise(STAGES[::-1])]

rows = LeadExecConnection.objects


def ciphertexts() -> list[Any]:
    columns = ("refresh_token", "access_token", "fingerprint")
    return [
        *rows.order_by("pk").values_list(*columns),
        *PendingRevocation.objects.order_by("pk").values_list("refresh_token", "fingerprint"),
    ]


@pytest.mark.parametrize(("writes", "reads"), NEIGHBOURS)
def test_neighbouring_stages_of_a_change_of_keys_read_and_find_what_the_other_wrote(
    settings: Settings, client: Client, provider: Provider,
    writes: tuple[str, ...], reads: tuple[str, ...],
) -> None:  # fmt: skip
    use_keys(settings, *writes)
    row = make_connection("kept", expires_in=60)
    make_connection("revoked").delete()
    post(client, "waits")
    if reads == (NEW,):
        rotate()  # which comes before the old key is dropped
    use_keys(settings, *reads)
    row.refresh_from_db()
    assert (plain(row.refresh_token), plain(row.access_token)) == ("kept", "stored-access-for-kept")
    assert rows.holding("kept").get() == row
    entry = PendingRevocation.objects.get(fingerprint__in=crypto.fingerprints("revoked"))
    assert plain(entry.refresh_token) == "revoked"
    client.force_login(make_user(), "django.contrib.auth.backends.ModelBackend")
    assert link_shown(client)


def test_a_key_put_first_too_early_is_told_of_and_spoils_nothing(
    settings: Settings, provider: Provider
) -> None:
    """Processes that don't know it yet can't read what is written under it."""
    use_keys(settings, NEW, OLD)
    row = make_connection("t", expires_in=-1)
    written = ciphertexts()
    use_keys(settings, OLD)
    with pytest.raises(DecryptionFailed, match="Put back the key"):
        row.get_access_token()
    out = io.StringIO()
    with pytest.raises(CommandError):
        call_command("refresh_leadexec_tokens", json=True, stdout=out, stderr=io.StringIO())
    assert json.loads(out.getvalue())["failed"] == 1
    with pytest.raises(CommandError, match="Put back the key"):
        rotate()
    assert ciphertexts() == written
    assert not provider.calls
    use_keys(settings, NEW, OLD)
    call_command("refresh_leadexec_tokens", "--all", stdout=io.StringIO())
    row.refresh_from_db()
    assert plain(row.access_token) == "access-1-for-t"


def test_a_rotation_that_is_stopped_half_way_goes_on_where_it_was(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_keys(settings, OLD)
    made = make_due_connections(7)
    monkeypatch.setattr(rotation, "BATCH", 3)
    use_keys(settings, NEW, OLD)
    for _ in rotation.rotate_keys("default"):
        break
    moved = [crypto.is_current(row.refresh_token) for row in rows.order_by("pk")]
    assert moved == [True] * 3 + [False] * 4
    for row in made:
        assert rows.holding(f"token-{made.index(row)}").get() == row
    assert rotate() == {"rotated": 4, "current": 3, "unreadable": 0, "busy": 0}
    use_keys(settings, NEW)
    assert [plain(row.refresh_token) for row in rows.order_by("pk")] == [
        f"token-{n}" for n in range(7)
    ]


def test_no_read_fails_while_keys_are_changed_and_tokens_refreshed(
    settings: Settings, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_keys(settings, OLD)
    count = 12
    made = [make_connection(f"t{n}", expires_in=-1) for n in range(count)]
    use_keys(settings, OLD, NEW)
    conf = get_settings()
    orders = [replace(conf, encryption_keys=keys) for keys in ((OLD, NEW), (NEW, OLD))]
    of_thread = threading.local()
    # Each thread is a process of its own stage.
    monkeypatch.setattr(crypto, "get_settings", lambda: getattr(of_thread, "conf", conf))
    numbers, rotated = itertools.count(), itertools.count()

    def in_order(number: int, work: Callable[[], object]) -> Callable[[], object]:
        def run() -> object:
            of_thread.conf = orders[number % 2]
            return work()

        return run

    def read() -> None:
        number = next(numbers) % count
        row = rows.holding(f"t{number}").get()
        assert row == made[number]
        assert plain(row.refresh_token) == f"t{number}"
        assert row.get_access_token().endswith(f"for-t{number}")

    def refresh() -> None:
        number = next(numbers) % count
        rows.filter(pk=made[number].pk).update(expires_at=None)
        assert made[number].get_access_token().endswith(f"for-t{number}")

    def turn() -> None:
        of_thread.conf = orders[next(rotated) % 2]
        for _ in rotation.rotate_keys("default"):
            pass

    works = [in_order(number, work) for number in range(2) for work in (read, refresh)]
    assert repeat_beside(4, turn, *works) == []
    of_thread.conf = orders[1]
    for tally in rotation.rotate_keys("default"):
        assert not tally.unreadable
    monkeypatch.undo()
    use_keys(settings, NEW)
    assert [plain(row.refresh_token) for row in rows.order_by("pk")] == [
        f"t{n}" for n in range(count)
    ]
    for number in range(count):
        assert rows.holding(f"t{number}").get() == made[number]
    assert not provider.overlaps


# A stolen dump


@pytest.fixture
def dump(settings: Settings) -> str:
    """All that the database holds, with tokens that are among few: four digits."""
    make_connection("4711", account_id="acme")
    make_connection("0815").delete()
    post(Client(), "1234")
    found = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")  # noqa: S608
            found.append(repr(cursor.fetchall()))
    sessions = [session.get_decoded() for session in Session.objects.all()]
    return "\n".join([*found, repr(sessions)])


def guess(dump: str, *keys: bytes) -> set[str]:
    """Four digits of which a digest, bare or keyed with one of these, stands in the dump."""
    keys += tuple(hashlib.sha256(key).digest() for key in keys)
    keys += tuple(hmac.digest(key, b"django_leadexec.fingerprint", "sha256") for key in keys)
    there = set(re.findall(r"\b[0-9a-f]{64}\b", dump))
    return {
        token
        for token in map("{:04}".format, range(10_000))
        for key in keys
        if {
            hashlib.sha256(key + token.encode()).hexdigest(),
            hmac.digest(key, token.encode(), "sha256").hex(),
        }
        & there
    }


def test_a_dump_alone_lets_nobody_guess_even_a_token_of_four_digits(dump: str) -> None:
    known = [b"", b"test-app", b"test-button", b"acme", django_settings.SECRET_KEY.encode()]
    assert guess(dump, *known) == set()
    # With the key it is child's play: what is looked for is there.
    key = urlsafe_b64decode(get_settings().encryption_keys[0])
    assert guess(dump, key) == {"4711", "0815"}


def test_a_dump_alone_opens_no_ciphertext(dump: str) -> None:
    ciphertexts = set(re.findall(r"gAAAA[\w=-]{60,}", dump))
    assert len(ciphertexts) == 4  # two of the connection, the outbox's and the session's
    key = get_settings().encryption_keys[0]
    assert key not in dump
    of_secret_key = urlsafe_b64encode(hashlib.sha256(django_settings.SECRET_KEY.encode()).digest())
    # Whatever could be a key, in any column.
    for candidate in [of_secret_key.decode(), *re.findall(r"(?=([\w-]{43}=))", dump)]:
        for ciphertext in ciphertexts:
            with pytest.raises(InvalidToken):
                Fernet(candidate).decrypt(ciphertext)
    opened = {Fernet(key).decrypt(ciphertext).decode() for ciphertext in ciphertexts}
    assert opened == {"4711", "stored-access-for-4711", "0815", "1234"}
