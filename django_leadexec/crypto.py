"""Encryption at rest, and digests to find a token by without storing it.

All keys come from ``LEADEXEC["ENCRYPTION_KEYS"]``: the first encrypts, every one decrypts. Each
function judges its arguments before it reads the keys, so that no error shows a frame with a key.
Where a frame has to hold one, ``without_frames`` hides it: a time limit can end any of them.
"""

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode
from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from .conf import get_settings
from .exceptions import DecryptionFailed
from .secret import Secret, without_frames

# What ``last_error`` of a row says whose token can't be decrypted. ``status`` counts them by it.
UNREADABLE = "the stored token can be decrypted with none of ENCRYPTION_KEYS"


@without_frames
def encrypt(text: str | Secret) -> str:
    """Encrypt under the first key."""
    secret = Secret.of(text)
    del text
    return _fernet(get_settings().encryption_keys).encrypt(secret.reveal().encode()).decode()


@without_frames
def decrypt(ciphertext: str) -> Secret:
    """Decrypt with whichever key fits. Raises DecryptionFailed if none does."""
    data = _bytes_of(ciphertext)
    try:
        return Secret(_fernet(get_settings().encryption_keys).decrypt(data).decode())
    except (InvalidToken, ValueError):
        pass
    raise _decryption_failed()


@without_frames
def rotate(ciphertext: str) -> str:
    """The same text under the first key. Raises DecryptionFailed if no key fits."""
    data = _bytes_of(ciphertext)
    try:
        return _fernet(get_settings().encryption_keys).rotate(data).decode()
    except (InvalidToken, ValueError):
        pass
    raise _decryption_failed()


@without_frames
def is_current(ciphertext: str) -> bool:
    """Whether the first key decrypts it."""
    data = _bytes_of(ciphertext)
    return _decrypts(_fernet(get_settings().encryption_keys[:1]), data)


@without_frames
def opens(ciphertext: str) -> bool:
    """Whether any key decrypts it."""
    data = _bytes_of(ciphertext)
    return _decrypts(_fernet(get_settings().encryption_keys), data)


def looks_encrypted(text: str) -> bool:
    """Whether this is a Fernet token, whatever its key. Reads no key."""
    return len(text) >= 100 and text.startswith("gAAAA") and text.isascii()


@without_frames
def fingerprint(token: str | Secret) -> str:
    """Keyed digest of a token under the first key: 64 hex digits, equal for equal tokens."""
    secret = Secret.of(token)
    del token
    return _fingerprint(get_settings().encryption_keys[0], secret)


@without_frames
def fingerprints(token: str | Secret) -> list[str]:
    """The digests of a token under every key, to look up rows written before a key rotation."""
    secret = Secret.of(token)
    del token
    return [_fingerprint(key, secret) for key in get_settings().encryption_keys]


def identity(app_id: str, kind: str, value: str) -> str:
    """Digest that stands for one account of one application: 64 hex digits.

    A digest is unique on every database, whatever its collation makes of case.
    """
    return hashlib.sha256(json.dumps([app_id, kind, value]).encode()).hexdigest()


def identity_of(app_id: str, account_id: str, user_key: object) -> str:
    """The identity of a connection: of its account where that is known, else of its user."""
    if account_id:
        return identity(app_id, "account", account_id)
    return identity(app_id, "user", str(user_key))


def _bytes_of(ciphertext: str) -> bytes:
    if not isinstance(ciphertext, str):
        raise TypeError(f"A ciphertext must be a str, not {type(ciphertext).__name__}.")
    # What is no Unicode is no ciphertext either, and decrypts with no key.
    return ciphertext.encode(errors="replace")


def _decrypts(fernet: MultiFernet, data: bytes) -> bool:
    try:
        fernet.decrypt(data)
    except (InvalidToken, ValueError):
        return False
    return True


def _fingerprint(key: str, token: Secret) -> str:
    # Of the key's bytes, as a key can be written in more than one way.
    secret = hmac.digest(urlsafe_b64decode(key), b"django_leadexec.fingerprint", "sha256")
    return hmac.new(secret, token.reveal().encode(), "sha256").hexdigest()


@lru_cache(maxsize=8)
def _fernet(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])


def _decryption_failed() -> DecryptionFailed:
    return DecryptionFailed(
        "A stored token can be decrypted with none of LEADEXEC['ENCRYPTION_KEYS']. "
        "Put back the key it was written with."
    )
