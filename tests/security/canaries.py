"""Secrets that are known again in any disguise."""

import base64
import hashlib
import html
import re
import secrets
from collections.abc import Callable
from functools import cache
from urllib.parse import unquote

_ESCAPE = re.compile(r"\\+(?:u00|x)([0-9a-fA-F]{2})")


def make_canary(kind: str) -> str:
    """A token with whatever a URL, a page or a log could encode; neither end is a common word."""
    return f"{secrets.token_hex(8)}{kind}/%2B+=&?#\"'<>{secrets.token_hex(8)}"


@cache
def disguises(secret: str) -> frozenset[str]:
    """What would give the secret away, in lower case: itself, its ends, its encodings, digests."""
    raw = secret.encode()
    shapes = {secret, secret[::-1], secret[:10], secret[-10:], secret[:10][::-1]}
    for data in (raw[:10], raw[-10:], raw[:10][::-1]):
        shapes |= {data.hex(), data.hex(" "), data.hex(":"), ", ".join(map(str, data))}
    for data in (raw, raw[::-1]):
        shapes |= {_inner(base64.b64encode, data, offset, 3, 4) for offset in range(3)}
        shapes |= {_inner(base64.urlsafe_b64encode, data, offset, 3, 4) for offset in range(3)}
        shapes |= {_inner(base64.b32encode, data, offset, 5, 8) for offset in range(5)}
        for name in ("md5", "sha1", "sha256", "sha512"):
            digest = hashlib.new(name, data, usedforsecurity=False).digest()
            # The first half is as good as the whole.
            shapes |= {digest.hex()[:16], base64.b64encode(digest).decode()[:16]}
    return frozenset(shape.lower() for shape in shapes)


def _inner(
    encode: Callable[[bytes], bytes], data: bytes, offset: int, group: int, width: int
) -> str:
    """What is sure to stand in the encoding of any text with ``data`` at that offset in a group."""
    text = encode(b"\0" * offset + data).decode()
    start = -(-offset * width // group)
    return text[start : (offset + len(data)) // group * width][:24]


def readings(text: str) -> tuple[str, ...]:
    """The text as it is, with what may hide a secret in it undone, and without any gaps; in lower
    case."""
    undone = text
    for _ in range(2):
        undone = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), undone)
        undone = unquote(html.unescape(undone))
    # Gaps: the NULs of UTF-16, line ends, strings in several pieces.
    return text.lower(), undone.lower(), re.sub(r"[\0\s\\]|\"\s*\"|'\s*'", "", undone).lower()


def find(text: str, *canaries: str) -> list[str]:
    """The disguises of the canaries that are in the text."""
    texts = readings(text)
    shapes = frozenset[str]().union(*map(disguises, canaries))
    return sorted(shape for shape in shapes if any(shape in reading for reading in texts))
