"""What the provider's answers mean. Pure: no HTTP, no ORM, no settings.

docs/protocol.md tells what is known about them. Where it says "unknown", a docstring here says
which reading is chosen.
"""

import json
import logging
import math
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from ..secret import Secret, without_frames

logger: logging.Logger = logging.getLogger(__name__)

# In seconds.
DAY = 86_400
# Seconds that an access token lives, as the provider documents it.
TOKEN_LIFETIME = 3_600
# Characters of a refresh token, and of an access token, that are accepted at most.
MAX_TOKEN = 2_048
MAX_ACCESS_TOKEN = 16 * 1024


# The outcomes of a call


@dataclass(frozen=True)
class Fresh:
    """The provider gave an access token. ``expires_at`` is in seconds since the epoch.

    ``echo``, in each outcome: the refresh token that the answer names, where it names another than
    the one that was asked about.
    """

    access_token: Secret
    expires_at: float
    echo: Secret | None = None


@dataclass(frozen=True)
class Refused:
    """The provider said no to the refresh token. ``reason`` holds no token and may be logged."""

    reason: str
    echo: Secret | None = None


@dataclass(frozen=True)
class Unavailable:
    """No usable answer: it says nothing about the token.

    ``retry_after`` is in seconds, or None if the provider did not say when to try again.
    """

    reason: str
    retry_after: float | None = None


@dataclass(frozen=True)
class Revoked:
    """The provider confirmed that it no longer accepts the refresh token."""

    echo: Secret | None = None


RefreshOutcome = Fresh | Refused | Unavailable
RevokeOutcome = Revoked | Unavailable


@without_frames
def is_token(value: object) -> bool:
    """Whether this can be a refresh token: 1 to 2,048 visible ASCII characters.

    ``.`` and ``..`` are none, as they would change the path of the URL.
    """
    text = value.reveal() if isinstance(value, Secret) else value
    return (
        isinstance(text, str)
        and 1 <= len(text) <= MAX_TOKEN
        and _is_visible_ascii(text)
        and text not in (".", "..")
    )


@dataclass(frozen=True)
class Reply:
    """An answer that came whole. ``retry_after`` is in seconds."""

    status: int
    body: bytes = field(repr=False)
    retry_after: float | None = None


def read_refresh_reply(reply: Reply, refresh_token: str | Secret, sent_at: float) -> RefreshOutcome:
    """What the provider says about ``refresh_token``, asked at ``sent_at`` (epoch seconds).

    docs/protocol.md, "A fresh access token": keys may differ in case, and ``valid`` may be a
    string. Only a well-formed reply whose ``valid`` is clearly false is a no. With the status 400,
    401 or 403 it needs another documented key too, because a gateway can send these as well.
    """
    refresh_token = Secret.of(refresh_token)
    unusable = Unavailable(f"HTTP {reply.status} with no usable reply", reply.retry_after)
    if reply.status not in (200, 400, 401, 403):
        return Unavailable(f"HTTP {reply.status}", reply.retry_after)
    data = _read_object(reply.body)
    if data is None:
        return unusable
    valid = _read_bool(data.get("valid"))
    access_token = data.get("authtoken")
    echo = _read_echo(data, refresh_token)
    if valid is None:
        return unusable
    if not valid:
        others = {"refreshtoken", "authtoken", "expiredate", "errormessage"} & data.keys()
        if reply.status != 200 and not others:
            return unusable
        secrets = [refresh_token]
        if isinstance(access_token, Secret):
            secrets.append(access_token)
        return Refused(_read_message(data.get("errormessage"), *secrets), echo)
    if (
        reply.status != 200
        or not isinstance(access_token, Secret)
        or not 1 <= len(access_token.reveal()) <= MAX_ACCESS_TOKEN
        or not _is_visible_ascii(access_token.reveal())
    ):
        return unusable
    return Fresh(access_token, read_expiry(data.get("expiredate"), sent_at), echo)


def _read_echo(data: dict[str, Any], refresh_token: Secret) -> Secret | None:
    """The token that a reply names, if it is another one. Case and blanks do not matter."""
    value = data.get("refreshtoken")
    if not isinstance(value, Secret):
        return None
    if value.reveal().strip().casefold() in ("", refresh_token.reveal().casefold()):
        return None
    logger.warning("The provider's reply names another refresh token than the one asked about.")
    return Secret(value.reveal().strip())


def read_revoke_reply(reply: Reply, refresh_token: str | Secret) -> Revoked | Refused | Unavailable:
    """What the provider says to a disconnect call. Refused means that a refresh call must decide.

    docs/protocol.md, "Ending the association": the reply is JSON or JSONP, and what it contains is
    unknown. An object that does not say no is taken as a yes.
    """
    data = _read_object(_strip_jsonp(reply.body))
    says_no = data is not None and any(
        _read_bool(data.get(key)) is False for key in ("valid", "success")
    )
    if 200 <= reply.status < 300:
        if data is None or says_no:
            return Refused("unclear")
        return Revoked(_read_echo(data, Secret.of(refresh_token)))
    if says_no and reply.status in (400, 401, 403):
        return Refused("no")
    return Unavailable(f"HTTP {reply.status}", reply.retry_after)


def read_expiry(value: object, sent_at: float) -> float:
    """When an access token expires, in epoch seconds. ``sent_at`` is when it was asked for.

    docs/protocol.md, "A fresh access token": the format is unknown. Three formats are read, and a
    date without a time zone is in UTC. A date in another format, or one that is not within 24 hours
    after ``sent_at``, does not count. The token then expires one hour after ``sent_at``.
    """
    text = value.reveal() if isinstance(value, Secret) else value
    expires_at = _read_date(text) if isinstance(text, str) else None
    if expires_at is None or not sent_at < expires_at <= sent_at + DAY:
        return sent_at + TOKEN_LIFETIME
    return expires_at


def _read_date(text: str) -> float | None:
    text = text.strip()
    if len(text) > 64:
        return None
    microsoft = re.fullmatch(r"/Date\((-?\d{1,15})(?:[+-]\d{4})?\)/", text)
    if microsoft:
        return int(microsoft[1]) / 1000
    for read in (
        datetime.fromisoformat,
        lambda text: datetime.strptime(text, "%m/%d/%Y %I:%M:%S %p").replace(tzinfo=UTC),
    ):
        try:
            date = read(text)
            return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            continue
    return None


def _read_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object in a body with its keys in lower case; None if there is no single one."""
    try:
        data = _DECODER.decode(body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _lower_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, value in pairs:
        if isinstance(value, str):
            # Error trackers can attach the locals of every frame to a warning that is logged. A
            # half of a surrogate pair, which JSON can hold, is replaced.
            value = Secret(value.encode(errors="surrogatepass").decode(errors="replace"))
        if data.setdefault(key.lower(), value) != value:
            raise ValueError("one key with two values")
    return data


_DECODER = json.JSONDecoder(object_pairs_hook=_lower_keys)


def _strip_jsonp(body: bytes) -> bytes:
    # Two neighbouring repeats never match the same bytes. If they did, 64 KiB of blanks would take
    # minutes.
    call = re.fullmatch(
        rb"(?:/\*\*/\s*)?[\w$.\[\]]{1,128}\s*\((.*)\)\s*;?", body.strip(), re.DOTALL
    )
    return call[1] if call else body


def _read_bool(value: object) -> bool | None:
    if isinstance(value, Secret):
        return {"true": True, "false": False}.get(value.reveal().strip().lower())
    return value if isinstance(value, bool) else None


# A word of a sentence with its punctuation. Codes, ids and URLs do not match, because any of them
# could be the token in some encoding.
_WORD = re.compile(r"""["'(]*[^\W\d_]{1,20}(?:['\u2019-][^\W\d_]{1,20})?[.,;:!?"')]*""")


def _read_message(value: object, *secrets: Secret) -> str:
    """The words of the provider's reason; none of them if they quote a secret."""
    text = value.reveal() if isinstance(value, Secret) else ""
    shown = " ".join(word if _WORD.fullmatch(word) else "…" for word in text.split())
    if not shown.strip("… "):
        return "the provider gave no reason"
    shown = re.sub(r"…( …)+", "…", shown)[:200]
    bare = "".join(filter(str.isprintable, text)).casefold()
    parts = re.findall(r"[^\W\d_]{8,}", shown.casefold())
    for secret in filter(None, secrets):
        folded = secret.reveal().casefold()
        # The provider may quote only the beginning of the secret, or only a part of it that looks
        # like a word.
        if folded[:8] in bare or any(part in folded for part in parts):
            return "the provider's reason is withheld, as it quotes the token"
    return shown


def read_retry_after(value: str | None) -> float | None:
    """How many seconds a Retry-After header asks to wait: from 0 to a day.

    The header is a number of seconds or an HTTP date. None means that it is absent or neither.
    """
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
            date = date if date.tzinfo else date.replace(tzinfo=UTC)
            seconds = date.timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0), DAY) if math.isfinite(seconds) else None


def _is_visible_ascii(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text
