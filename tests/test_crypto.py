import hashlib
import re
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import settings as fuzz
from hypothesis import strategies as st
from pytest_django import Settings

from django_leadexec import crypto
from django_leadexec.conf import get_settings, new_key
from django_leadexec.exceptions import DecryptionFailed, LeadExecError
from django_leadexec.secret import Secret

OLD, NEW = new_key(), new_key()


def use(settings: Settings, *keys: str) -> None:
    settings.LEADEXEC = settings.LEADEXEC | {"ENCRYPTION_KEYS": list(keys)}


@fuzz(deadline=None, database=None, max_examples=50)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_encrypted_comes_back(text: str) -> None:
    assert crypto.decrypt(crypto.encrypt(text)).reveal() == text


def test_ciphertext_is_not_the_text_and_never_the_same() -> None:
    first, second = crypto.encrypt("token"), crypto.encrypt("token")
    assert "token" not in first
    assert first != second


def test_the_first_key_encrypts(settings: Settings) -> None:
    use(settings, NEW, OLD)
    ciphertext = crypto.encrypt("token").encode()
    assert Fernet(NEW).decrypt(ciphertext) == b"token"


def test_every_key_decrypts(settings: Settings) -> None:
    use(settings, OLD)
    ciphertext = crypto.encrypt("token")
    use(settings, NEW, OLD)
    assert crypto.decrypt(ciphertext).reveal() == "token"


@pytest.fixture
def foreign() -> str:
    return Fernet(new_key()).encrypt(b"token").decode()


@pytest.mark.parametrize("open_it", [crypto.decrypt, crypto.rotate])
@pytest.mark.parametrize("damage", ["foreign", "", "plain", "gAAAAA", "é", "\ud800", "cut", "bent"])
def test_what_no_key_opens_is_an_error_that_says_so(
    open_it: Callable[[str], str], damage: str, foreign: str
) -> None:
    good = crypto.encrypt("token")
    bent = good[:-10] + ("A" if good[-10] != "A" else "B") + good[-9:]
    ciphertext = {"foreign": foreign, "cut": good[:-4], "bent": bent}.get(damage, damage)
    with pytest.raises(DecryptionFailed, match="ENCRYPTION_KEYS") as caught:
        open_it(ciphertext)
    assert isinstance(caught.value, LeadExecError)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_text_that_is_no_text_is_an_error() -> None:
    keys = get_settings().encryption_keys
    ciphertext = Fernet(keys[0]).encrypt(b"\xff\xfe").decode()
    with pytest.raises(DecryptionFailed):
        crypto.decrypt(ciphertext)


def test_an_error_page_with_the_locals_of_each_frame_shows_no_key(foreign: str) -> None:
    with pytest.raises(DecryptionFailed) as caught:
        crypto.rotate(foreign)
    seen = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    frames = [frame for frame in seen.stack if frame.filename != __file__]
    assert frames
    [key] = get_settings().encryption_keys
    assert key not in str(caught.value) + repr([frame.locals for frame in frames])


def test_rotating_moves_the_text_under_the_first_key(settings: Settings) -> None:
    use(settings, OLD)
    before = crypto.encrypt("token")
    assert crypto.is_current(before)
    use(settings, NEW, OLD)
    assert not crypto.is_current(before)
    after = crypto.rotate(before)
    assert crypto.is_current(after)
    use(settings, NEW)
    assert crypto.decrypt(after).reveal() == "token"
    with pytest.raises(DecryptionFailed):
        crypto.decrypt(before)


@pytest.mark.parametrize("text", ["", "plain", "é", "\ud800"])
def test_what_can_not_be_opened_is_not_current(text: str) -> None:
    assert not crypto.is_current(text)


# Fingerprints


def test_equal_tokens_have_equal_fingerprints() -> None:
    assert crypto.fingerprint("token") == crypto.fingerprint("token")
    assert re.fullmatch(r"[0-9a-f]{64}", crypto.fingerprint("token"))


@pytest.mark.parametrize("other", ["Token", "token ", "tokem", ""])
def test_other_tokens_have_other_fingerprints(other: str) -> None:
    assert crypto.fingerprint(other) != crypto.fingerprint("token")


def test_a_fingerprint_can_not_be_made_without_the_key(settings: Settings) -> None:
    use(settings, OLD)
    under_old = crypto.fingerprint("token")
    assert under_old != hashlib.sha256(b"token").hexdigest()
    use(settings, NEW)
    assert crypto.fingerprint("token") != under_old


def test_a_token_is_looked_up_under_every_key(settings: Settings) -> None:
    use(settings, OLD)
    under_old = crypto.fingerprint("token")
    use(settings, NEW, OLD)
    assert crypto.fingerprints("token") == [crypto.fingerprint("token"), under_old]


def test_the_way_a_key_is_written_does_not_matter(settings: Settings) -> None:
    use(settings, OLD)
    before = crypto.fingerprint("token")
    use(settings, f"{OLD}\n")
    assert crypto.fingerprint("token") == before


# Identities


def test_an_identity_is_64_hex_digits() -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", crypto.identity("app", "account", "größe 🙂"))


def test_an_identity_never_changes_as_the_rows_on_file_have_it() -> None:
    of_account = "b99d90d130554c2c0bd56ac0fd1807f31654b8b41126f86cd905e3c1547549ce"
    of_user = "d826bc4312483110c46624e6c066ebcfea8244205bd94d5f7af0fb9b12b4ddd7"
    assert crypto.identity_of("app", "5", 7) == crypto.identity("app", "account", "5") == of_account
    assert crypto.identity_of("app", "", 5) == crypto.identity("app", "user", "5") == of_user


def test_an_identity_stands_for_one_account_of_one_application() -> None:
    cases = [
        ("app", "account", "5"),
        ("app", "user", "5"),
        ("other", "account", "5"),
        ("app", "account", "6"),
        ("App", "account", "5"),
        ("app", "account", "5 "),
        ("app", "account", "a"),
        ("app", "account", "A"),
        ("app", "account", "ä"),
        ('app", "account', "account", "5"),
        ("appaccount", "", "5"),
    ]
    assert len({crypto.identity(*case) for case in cases}) == len(cases)


def test_an_identity_does_not_depend_on_the_keys(settings: Settings) -> None:
    before = crypto.identity("app", "account", "5")
    use(settings, NEW)
    assert crypto.identity("app", "account", "5") == before


class Interrupted(Exception):
    """As Celery's SoftTimeLimitExceeded: raised by a signal, wherever the program is."""


def interrupt(*arguments: object) -> NoReturn:
    raise Interrupted


def shown_by(work: Callable[[], object]) -> str:
    """The locals of all frames but this module's, as error pages show them, of an interruption."""
    with pytest.raises(Interrupted) as caught:
        work()
    frames = [frame for frame, _line in traceback.walk_tb(caught.value.__traceback__)]
    theirs = [frame.f_locals for frame in frames if frame.f_code.co_filename != __file__]
    assert theirs
    return repr(theirs)


@pytest.mark.parametrize("digest", [crypto.fingerprint, crypto.fingerprints])
def test_an_interruption_shows_no_key(
    digest: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_leadexec.crypto.hmac.new", interrupt)
    [key] = settings.LEADEXEC["ENCRYPTION_KEYS"]
    assert key not in shown_by(lambda: digest(Secret("t")))


@pytest.mark.parametrize("work", [crypto.decrypt, crypto.rotate, crypto.is_current, crypto.opens])
def test_an_interruption_while_the_keys_are_prepared_shows_none(
    work: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(settings, NEW, OLD)
    ciphertext = crypto.encrypt("t")
    crypto._fernet.cache_clear()
    monkeypatch.setattr("django_leadexec.crypto.Fernet", interrupt)
    shown = shown_by(lambda: work(ciphertext))
    assert NEW not in shown
    assert OLD not in shown


def test_an_interruption_of_a_rotation_shows_no_token(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(settings, OLD)
    ciphertext = crypto.encrypt("canary")
    use(settings, NEW, OLD)
    monkeypatch.setattr(Fernet, "_encrypt_from_parts", interrupt)
    assert "canary" not in shown_by(lambda: crypto.rotate(ciphertext))
