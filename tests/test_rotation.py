"""Key rotation."""

import io
import json
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from pytest_django import Settings

from django_leadexec import crypto
from django_leadexec.exceptions import DecryptionFailed
from django_leadexec.models import LeadExecConnection, PendingRevocation

from .factories import is_leased, make_connection, plain

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def new_key(settings: Settings) -> str:
    """Puts a new key first once it is called for; the rows made before have the old one."""
    return Fernet.generate_key().decode()


def use_keys(settings: Settings, *keys: str) -> None:
    settings.LEADEXEC = settings.LEADEXEC | {"ENCRYPTION_KEYS": list(keys)}


def rotate(**flags: Any) -> dict[str, int]:
    out = io.StringIO()
    call_command("rotate_leadexec_keys", json=True, stdout=out, stderr=io.StringIO(), **flags)
    counts: dict[str, int] = json.loads(out.getvalue())
    return counts


def test_after_a_rotation_the_old_key_can_go(settings: Settings, new_key: str) -> None:
    (old_key,) = settings.LEADEXEC["ENCRYPTION_KEYS"]
    make_connection("kept")
    make_connection("revoked")
    LeadExecConnection.objects.holding("revoked").move_to_outbox()
    use_keys(settings, new_key, old_key)
    assert rotate() == {"rotated": 2, "current": 0, "unreadable": 0, "busy": 0}
    use_keys(settings, new_key)
    row = LeadExecConnection.objects.active().get()
    assert (plain(row.refresh_token), plain(row.access_token)) == ("kept", "stored-access-for-kept")
    assert LeadExecConnection.objects.holding("kept").get() == row
    entry = PendingRevocation.objects.get()
    assert plain(entry.refresh_token) == "revoked"
    assert entry.fingerprint == crypto.fingerprint("revoked")


def test_a_second_run_has_nothing_to_do(settings: Settings, new_key: str) -> None:
    make_connection("t")
    use_keys(settings, new_key, *settings.LEADEXEC["ENCRYPTION_KEYS"])
    rotate()
    columns = ("refresh_token", "access_token", "fingerprint", "version")
    before = LeadExecConnection.objects.values(*columns).get()
    assert rotate()["current"] == 1
    assert LeadExecConnection.objects.values(*columns).get() == before


def test_a_row_is_found_under_either_key_before_the_rotation(
    settings: Settings, new_key: str
) -> None:
    row = make_connection("t")
    use_keys(settings, new_key, *settings.LEADEXEC["ENCRYPTION_KEYS"])
    assert LeadExecConnection.objects.holding("t").get() == row
    assert plain(row.refresh_token) == "t"


def test_a_row_that_opens_with_no_key_is_counted_and_left_alone(
    settings: Settings, new_key: str
) -> None:
    make_connection("lost")
    use_keys(settings, new_key)
    make_connection("found")
    before = LeadExecConnection.objects.order_by("pk").values_list("refresh_token", flat=True)[0]
    with pytest.raises(CommandError, match=r"none of LEADEXEC\['ENCRYPTION_KEYS'\]: 1") as caught:
        rotate()
    assert caught.value.returncode == 2
    lost = LeadExecConnection.objects.order_by("pk")[0]
    assert lost.refresh_token == before
    assert not is_leased(lost)
    with pytest.raises(DecryptionFailed):
        _ = plain(lost.refresh_token)


def test_a_row_in_use_is_waited_for(
    settings: Settings, new_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = make_connection("t")
    (claimed,) = LeadExecConnection.objects.order_by("pk").claim(1, 60)
    slept: list[float] = []

    def let_go(seconds: float) -> None:
        slept.append(seconds)
        LeadExecConnection.objects.all().release([claimed])

    monkeypatch.setattr("django_leadexec.rotation.time.sleep", let_go)
    old_keys = settings.LEADEXEC["ENCRYPTION_KEYS"]
    use_keys(settings, new_key, *old_keys)
    assert rotate()["rotated"] == 1
    assert len(slept) == 1
    use_keys(settings, new_key)
    row.refresh_from_db()
    assert plain(row.refresh_token) == "t"


def test_a_row_that_stays_in_use_needs_another_run(
    settings: Settings, new_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_connection("t")
    LeadExecConnection.objects.order_by("pk").claim(1, 60)
    monkeypatch.setattr("django_leadexec.rotation.PATIENCE", 0)
    use_keys(settings, new_key, *settings.LEADEXEC["ENCRYPTION_KEYS"])
    with pytest.raises(CommandError, match="Keep the old keys") as caught:
        rotate()
    assert caught.value.returncode == 1


def test_a_late_answer_to_a_call_from_before_the_rotation_brings_no_old_key_back(
    settings: Settings, new_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_connection("t")
    (claimed,) = LeadExecConnection.objects.order_by("pk").claim(1, -10)  # lapsed at once
    old_keys = settings.LEADEXEC["ENCRYPTION_KEYS"]
    use_keys(settings, new_key, *old_keys)
    rotate()
    claimed.row.record_failure("timed out")
    assert LeadExecConnection.objects.all().write_claimed([claimed]).lost == [claimed]
    use_keys(settings, new_key)
    assert plain(LeadExecConnection.objects.get().access_token) == "stored-access-for-t"


def test_nothing_is_plain_in_the_table(settings: Settings) -> None:
    make_connection("canary-refresh")
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM django_leadexec_leadexecconnection")
        assert "canary" not in str(cursor.fetchall())


def test_progress_is_shown_with_more_verbosity(settings: Settings, new_key: str) -> None:
    make_connection("t")
    err = io.StringIO()
    call_command("rotate_leadexec_keys", verbosity=2, stdout=io.StringIO(), stderr=err)
    assert "1 rows done" in err.getvalue()


def test_a_database_that_does_not_exist_is_named(settings: Settings) -> None:
    with pytest.raises(CommandError, match="no such database") as caught:
        rotate(database="nowhere")
    assert caught.value.returncode == 2


def test_a_database_that_fails_is_reported(settings: Settings) -> None:
    def fail(*args: Any) -> None:
        raise OperationalError("the disk is full")

    with (
        pytest.raises(CommandError, match="The database failed: the disk is full") as caught,
        connection.execute_wrapper(fail),
    ):
        rotate()
    assert caught.value.returncode == 2
