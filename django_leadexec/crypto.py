"""Encryption at rest, and digests to find a token by without storing it.

All keys come from ``LEADEXEC["ENCRYPTION_KEYS"]``: the first encrypts, every one decrypts.
"""

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode
from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from .conf import get_settings
from .exceptions import DecryptionFailed
from .secret import Secret


def encrypt(text: str) -> str:
    """Encrypt under the first key."""
    return _fernet(get_settings().encryption_keys).encrypt(text.encode()).decode()


def decrypt(ciphertext: str) -> str:
    """Decrypt with whichever key fits. Raises DecryptionFailed if none does."""
    try:
        return Secret(_fernet(get_settings().encryption_keys).decrypt(ciphertext.encode()).decode())
    except (InvalidToken, ValueError):
        pass
    raise _decryption_failed()


def rotate(ciphertext: str) -> str:
    """The same text under the first key. Raises DecryptionFailed if no key fits."""
    try:
        return _fernet(get_settings().encryption_keys).rotate(ciphertext.encode()).decode()
    except (InvalidToken, ValueError):
        pass
    raise _decryption_failed()


def is_current(ciphertext: str) -> bool:
    """Whether the first key opens it."""
    return _opens(get_settings().encryption_keys[:1], ciphertext)


def opens(ciphertext: str) -> bool:
    """Whether any key opens it."""
    return _opens(get_settings().encryption_keys, ciphertext)


def _opens(keys: tuple[str, ...], ciphertext: str) -> bool:
    try:
        _fernet(keys).decrypt(ciphertext.encode())
    except (InvalidToken, ValueError):
        return False
    return True


def fingerprint(token: str) -> str:
    """Keyed digest of a token under the first key: 64 hex digits, equal for equal tokens."""
    return _fingerprint(get_settings().encryption_keys[0], token)


def fingerprints(token: str) -> list[str]:
    """The digests of a token under every key, to look up rows written before a key rotation."""
    return [_fingerprint(key, token) for key in get_settings().encryption_keys]


def identity(app_id: str, kind: str, value: str) -> str:
    """Digest that stands for one account of one application: 64 hex digits.

    A digest, because then it is unique on any database, whatever its collation makes of case.
    """
    return hashlib.sha256(json.dumps([app_id, kind, value]).encode()).hexdigest()


def _fingerprint(key: str, token: str) -> str:
    # Of the key's bytes, as a key can be written in more than one way.
    secret = hmac.digest(urlsafe_b64decode(key), b"django_leadexec.fingerprint", "sha256")
    return hmac.new(secret, token.encode(), "sha256").hexdigest()


@lru_cache(maxsize=8)
def _fernet(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])


def _decryption_failed() -> DecryptionFailed:
    return DecryptionFailed(
        "A stored token opens with none of LEADEXEC['ENCRYPTION_KEYS']. "
        "Put back the key it was written with."
    )
