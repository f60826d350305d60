"""The provider's two server calls, over one pooled HTTP session. Knows no ORM.

The URL of each call holds the refresh token, so the URL itself is a secret: no exception, log
record or repr that leaves this module has one, and none chains to one that does.
Where the protocol is silent (PROTOCOL: "unknown"), the reading chosen stands beside its code.
"""

import io
import json
import logging
import math
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPResponse, parse_headers
from typing import Any
from urllib.parse import quote, urlencode

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import default_user_agent
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError, ProtocolError
from urllib3.util.connection import create_connection

from . import __version__
from .conf import DAY, Settings, get_settings
from .secret import Secret, without_frames

logger = logging.getLogger(__name__)

TOKEN_LIFETIME = 3_600
MAX_BODY = 64 * 1024
MAX_TOKEN = 2_048
MAX_ACCESS_TOKEN = 16 * 1024
POOL_SIZE = 256


# What a call can come to


@dataclass(frozen=True)
class Fresh:
    """The provider gave an access token. ``expires_at`` is in seconds since the epoch."""

    access_token: str = field(repr=False)
    expires_at: float


@dataclass(frozen=True)
class Refused:
    """The provider's explicit no to the refresh token. ``reason`` is fit for a log."""

    reason: str


@dataclass(frozen=True)
class Unavailable:
    """No usable answer. ``retry_after``: seconds the provider asked to wait, if it did."""

    reason: str
    retry_after: float | None = None


@dataclass(frozen=True)
class Revoked:
    """The provider confirmed that the refresh token is no longer good."""


RefreshOutcome = Fresh | Refused | Unavailable
RevokeOutcome = Revoked | Unavailable


class Client:
    """Talks to the provider; safe to share between threads, not between processes.

    Proxies and CA bundles are taken from the environment as ``requests`` takes them, once.
    """

    def __init__(self, base_url: str, timeout: float) -> None:
        self.base_url = base_url
        self.timeout = timeout
        session = requests.Session()
        self._options: dict[str, Any] = dict(
            session.merge_environment_settings(base_url, {}, True, None, None)
        )
        self._adapter = _ProviderAdapter(pool_maxsize=POOL_SIZE)
        # No Accept-Encoding: a body that isn't compressed can't unpack to more than was read.
        self._headers = CaseInsensitiveDict(
            {
                "User-Agent": f"django-leadexec/{__version__} {default_user_agent()}",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "Connection": "keep-alive",
            }
        )

    @without_frames
    def refresh(
        self, refresh_token: str, app_id: str, *, deadline: float | None = None
    ) -> RefreshOutcome:
        """Ask for an access token (PROTOCOL, "A fresh access token").

        ``deadline``: seconds for the whole call, where less than TIMEOUT is left for it.
        """
        sent_at = time.time()
        reply = self._get("refreshaccesstoken", refresh_token, {"appid": app_id}, deadline)
        if isinstance(reply, Unavailable):
            return reply
        return read_refresh_reply(reply, refresh_token, sent_at)

    @without_frames
    def revoke(
        self, refresh_token: str, app_id: str, *, deadline: float | None = None
    ) -> RevokeOutcome:
        """End the association (PROTOCOL, "End the association").

        Makes a second call, a refresh, where the first one's answer leaves it open.
        ``deadline`` as for ``refresh``, for each of the two.
        """
        reply = self._get("disconnectapplicationtoken", refresh_token, {}, deadline)
        if isinstance(reply, Unavailable):
            return reply
        confirmed = read_revoke_reply(reply)
        if isinstance(confirmed, Unavailable | Revoked):
            return confirmed
        outcome = self.refresh(refresh_token, app_id, deadline=deadline)
        if isinstance(outcome, Refused):
            return Revoked()
        if isinstance(outcome, Fresh):
            return Unavailable("the provider still honours the token")
        return outcome

    def _get(
        self, action: str, refresh_token: str, query: Mapping[str, str], deadline: float | None
    ) -> "Reply | Unavailable":
        request = requests.PreparedRequest()
        request.method = "GET"
        request.url = f"{self.base_url}/authorize/{action}/{quote(refresh_token, safe='')}"
        if query:
            request.url += f"?{urlencode(query)}"
        request.headers = self._headers
        seconds = self.timeout if deadline is None else min(self.timeout, deadline)
        with _deadline(seconds):
            # Straight to the adapter: a redirect is never followed, nor is .netrc asked.
            try:
                response = self._send(request, seconds)
                try:
                    return _read(response)
                finally:
                    response.close()
            except (requests.RequestException, HTTPError, OSError, ValueError) as error:
                reason = _describe(error)
        return Unavailable(reason)

    def _send(self, request: requests.PreparedRequest, seconds: float) -> requests.Response:
        """Send a request; once more if the provider had closed a kept connection by then.

        It may do so at any time, even in this moment, and has not seen the request.
        """
        options = {"timeout": (seconds, seconds), **self._options}
        _call.is_new = False
        try:
            response = self._adapter.send(request, **options)
        except requests.ConnectionError as error:
            if _call.is_new or not _was_hung_up_on(error):
                raise
            response = self._adapter.send(request, **options)
        if _call.masked is not None:
            response.close()
            raise OSError("what was sent is not the token")
        return response


def get_client() -> Client:
    """The process's client for the settings in force; a forked child makes its own."""
    return client_for(get_settings())


def client_for(conf: Settings) -> Client:
    key = (conf.base_url, conf.timeout)
    with _clients_lock:
        if key not in _clients:
            _clients[key] = Client(*key)
        return _clients[key]


_clients: dict[tuple[str, float], Client] = {}
_clients_lock = threading.Lock()


def _forget_clients() -> None:
    # Two processes on one socket would read each other's answers: another user's token.
    global _clients_lock
    _clients_lock = threading.Lock()
    _clients.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_clients)


def is_token(value: object) -> bool:
    """Whether this can be a refresh token: 1 to 2,048 visible ASCII characters, no path dots."""
    return (
        isinstance(value, str)
        and 1 <= len(value) <= MAX_TOKEN
        and _is_visible_ascii(value)
        and value not in (".", "..")
    )


# Reading replies


@dataclass(frozen=True)
class Reply:
    """Status and body of an answer that came whole."""

    status: int
    body: bytes = field(repr=False)
    retry_after: float | None = None


def read_refresh_reply(reply: Reply, refresh_token: str, sent_at: float) -> RefreshOutcome:
    """What the provider said of ``refresh_token``, asked at ``sent_at`` (epoch seconds).

    PROTOCOL: keys may differ in case, ``valid`` may be a string. Only a well-formed, unambiguous
    ``valid`` false is a no; with 400, 401 or 403 (which a gateway may send, too) only beside
    another documented key.
    """
    unusable = Unavailable(f"HTTP {reply.status} with no usable reply", reply.retry_after)
    if reply.status not in (200, 400, 401, 403):
        return Unavailable(f"HTTP {reply.status}", reply.retry_after)
    data = _read_object(reply.body)
    if data is None:
        return unusable
    valid = _read_bool(data.get("valid"))
    access_token = data.get("authtoken")
    if valid is None:
        return unusable
    if not valid:
        others = {"refreshtoken", "authtoken", "expiredate", "errormessage"} & data.keys()
        if reply.status != 200 and not others:
            return unusable
        secrets = (refresh_token, access_token if isinstance(access_token, str) else "")
        return Refused(_read_message(data.get("errormessage"), *secrets))
    if (
        reply.status != 200
        or not isinstance(access_token, str)
        or not 1 <= len(access_token) <= MAX_ACCESS_TOKEN
        or not _is_visible_ascii(access_token)
    ):
        return unusable
    echo = data.get("refreshtoken")
    if isinstance(echo, str) and echo.strip().casefold() not in ("", refresh_token.casefold()):
        logger.warning("The provider's reply names another refresh token than the one asked about.")
    return Fresh(access_token, read_expiry(data.get("expiredate"), sent_at))


def read_revoke_reply(reply: Reply) -> Revoked | Refused | Unavailable:
    """What the provider said to a disconnect call; Refused where only a refresh call can tell.

    PROTOCOL: JSON or JSONP, its content unknown; an object that doesn't say no is a yes.
    """
    data = _read_object(_strip_jsonp(reply.body))
    says_no = data is not None and any(
        _read_bool(data.get(key)) is False for key in ("valid", "success")
    )
    if 200 <= reply.status < 300:
        return Refused("unclear") if data is None or says_no else Revoked()
    if says_no and reply.status in (400, 401, 403):
        return Refused("no")
    return Unavailable(f"HTTP {reply.status}", reply.retry_after)


def read_expiry(value: object, sent_at: float) -> float:
    """When an access token ends, in epoch seconds.

    PROTOCOL: the format is unknown; three are accepted, all in UTC. Anything else, or a moment
    outside (now, now + 24 h], is taken to be the documented hour from the request.
    """
    moment = _read_date(value) if isinstance(value, str) else None
    if moment is None or not sent_at < moment <= sent_at + DAY:
        return sent_at + TOKEN_LIFETIME
    return moment


def _read_date(text: str) -> float | None:
    text = text.strip()
    if len(text) > 64:
        return None
    microsoft = re.fullmatch(r"/Date\((-?\d{1,15})(?:[+-]\d{4})?\)/", text)
    if microsoft:
        return int(microsoft[1]) / 1000
    # Some writers give seven digits of a second's fraction, one more than Python reads.
    iso = re.sub(r"(\.\d{6})\d+", r"\1", text)
    for read in (
        datetime.fromisoformat,
        lambda text: datetime.strptime(text, "%m/%d/%Y %I:%M:%S %p").replace(tzinfo=UTC),
    ):
        try:
            moment = read(iso)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
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
            # An error tracker may send each frame's locals along with a warning of ours.
            value = Secret(value)
        if data.setdefault(key.lower(), value) != value:
            raise ValueError("one key with two values")
    return data


_DECODER = json.JSONDecoder(object_pairs_hook=_lower_keys)


def _strip_jsonp(body: bytes) -> bytes:
    # No two repeats in it can match the same bytes: else 64 KiB of blanks would take minutes.
    call = re.fullmatch(
        rb"(?:/\*\*/\s*)?[\w$.\[\]]{1,128}\s*\((.*)\)\s*;?", body.strip(), re.DOTALL
    )
    return call[1] if call else body


def _read_bool(value: object) -> bool | None:
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    return value if isinstance(value, bool) else None


# A word, with what stands around it in a sentence. Codes, ids and URLs are none: a token in some
# encoding could be among them.
_WORD = re.compile(r"""["'(]*[^\W\d_]{1,20}(?:['\u2019-][^\W\d_]{1,20})?[.,;:!?"')]*""")


def _read_message(value: object, *secrets: str) -> str:
    """The words of the provider's reason, without the rest; nothing of it if they tell a secret."""
    text = value if isinstance(value, str) else ""
    shown = " ".join(word if _WORD.fullmatch(word) else "…" for word in text.split())
    if not shown.strip("… "):
        return "the provider gave no reason"
    shown = re.sub(r"…( …)+", "…", shown)[:200]
    bare = "".join(filter(str.isprintable, text)).casefold()
    parts = re.findall(r"[^\W\d_]{8,}", shown.casefold())
    for secret in filter(None, secrets):
        folded = secret.casefold()
        # Its first characters are enough, as the provider may have cut it short, and so is a part
        # that looks like a word.
        if folded[:8] in bare or any(part in folded for part in parts):
            return "the provider's reason is withheld, as it quotes the token"
    return shown


def _read_retry_after(value: str | None) -> float | None:
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            seconds = moment.timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0), DAY) if math.isfinite(seconds) else None


def _is_visible_ascii(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


def _read(response: requests.Response) -> Reply | Unavailable:
    body = response.raw.read(MAX_BODY + 1, decode_content=False)
    if len(body) > MAX_BODY:
        return Unavailable(f"HTTP {response.status_code} with an oversized body")
    if response.raw.length_remaining:  # urllib3 lets a body pass that ends too early
        return Unavailable(f"HTTP {response.status_code} with half a body")
    return Reply(
        response.status_code, body, _read_retry_after(response.raw.headers.get("Retry-After"))
    )


def _describe(error: Exception) -> str:
    if isinstance(error, requests.exceptions.SSLError):
        return "TLS failed"
    if isinstance(error, requests.Timeout | TimeoutError) or "timed out" in str(error):
        return "timed out"
    return "connection failed"


def _was_hung_up_on(error: requests.ConnectionError) -> bool:
    # requests wraps what urllib3 wraps, and gives an attribute to neither.
    wrapped = error.args[0] if error.args else None
    return isinstance(wrapped, ProtocolError) and isinstance(wrapped.args[-1], ConnectionError)


# HTTP plumbing

_call = threading.local()


MASK = "/***"


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    _call.ends_at = time.monotonic() + seconds
    # The token, percent-encoded, from when a mask takes its place until it is sent.
    _call.masked = None
    try:
        yield
    finally:
        del _call.ends_at
        _call.masked = None


class _DeadlineReader(io.RawIOBase):
    """Gives each read of a socket only the time its call has left.

    A plain socket timeout starts anew with every byte, so a provider that trickles its answer
    could outlast the lease under which it was asked.
    """

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        super().__init__()
        self._raw = raw
        self._sock = sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        ends_at = getattr(_call, "ends_at", None)
        if ends_at is not None:
            left = ends_at - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        raw = self.fp.detach()
        self.fp = io.BufferedReader(_DeadlineReader(raw, sock))

    def _read_status(self) -> tuple[str, int, str]:
        """The status line of the answer itself: http.client skips only one interim status, 100."""
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 101 < status < 200:
                return version, status, reason
            parse_headers(self.fp)

    def begin(self) -> None:
        super().begin()
        if not 200 <= self.status < 500:
            # A gateway that gives up may still pass on the answer it was waiting for. The next
            # call on this connection would read it: another user's token.
            self.will_close = True


def _connect(connection: HTTPConnection) -> socket.socket:
    """Connect in the time the call has left; urllib3 gives each of a host's addresses all of it."""
    ends_at = getattr(_call, "ends_at", None)
    if ends_at is None:
        return HTTPConnection._new_conn(connection)
    failure = OSError("the host has no address")
    addresses = socket.getaddrinfo(connection._dns_host, connection.port, type=socket.SOCK_STREAM)
    for *_, address in addresses:
        # Looking up the host can take longer than the whole call may.
        left = ends_at - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        try:
            sock = create_connection(
                (str(address[0]), int(address[1])), left, socket_options=connection.socket_options
            )
        except OSError as error:
            failure = error
        else:
            # What is left is for the TLS handshake, and for sending the request.
            sock.settimeout(max(ends_at - time.monotonic(), 0.001))
            return sock
    raise failure


def _unmask(connection: HTTPConnection, request: str) -> bytes:
    """The request line as it is sent; http.client asks for it when nothing else is to see it."""
    masked = getattr(_call, "masked", None)
    if masked is not None:
        before, _, after = request.rpartition(MASK)
        request, _call.masked = f"{before}/{masked}{after}", None
    return request.encode("ascii")


def _quiet(pool: type[HTTPConnectionPool]) -> type[HTTPConnectionPool]:
    """The same kind of pool, over connections that print nothing and keep deadlines."""
    base: Any = pool.ConnectionCls

    def connect(self: HTTPConnection) -> None:
        _call.is_new = True
        base.connect(self)

    # Else http.client prints request lines and headers where a site has turned that on.
    names: dict[str, Any] = {"debuglevel": 0, "response_class": _Response, "connect": connect}
    names["_encode_request"] = _unmask
    if base._new_conn is HTTPConnection._new_conn:  # it isn't where there is a SOCKS proxy
        names["_new_conn"] = _connect
    connection = type(f"Quiet{base.__name__}", (base,), names)
    return type(f"Quiet{pool.__name__}", (pool,), {"ConnectionCls": connection})


_POOLS = {"http": _quiet(HTTPConnectionPool), "https": _quiet(HTTPSConnectionPool)}


class QuietAdapter(HTTPAdapter):
    """``requests``' own adapter over connections that print nothing and keep deadlines."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        is_new = proxy not in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **kwargs)
        if is_new:
            pools = manager.pool_classes_by_scheme
            manager.pool_classes_by_scheme = {
                scheme: _quiet(pool) for scheme, pool in pools.items()
            }
        return manager


class _ProviderAdapter(QuietAdapter):
    """For one host and one set of options: what requests works out anew for each call is kept.

    ``send`` stays ``requests``' own, so what intercepts it (the responses library) works here, too.
    """

    _pool: Any = None

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        if self._pool is None:
            self._pool = super().get_connection_with_tls_context(*args, **kwargs)
        return self._pool

    def request_url(self, request: Any, proxies: Any) -> str:
        url: str = super().request_url(request, proxies) if proxies else request.path_url
        # Error trackers and tracers note the URLs that urllib3 and http.client are called with.
        path, _, last = url.rpartition("/")
        _call.masked, mark, query = last.partition("?")
        return f"{path}{MASK}{mark}{query}"

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        response = requests.Response()
        response.status_code, response.raw, response.request = resp.status, resp, req
        return response


def silence_request_lines() -> None:
    """Keep urllib3's records of our calls, which name the URL, out of every log."""
    for name in ("urllib3.connectionpool", "urllib3.util.retry", "urllib3.connection"):
        logging.getLogger(name).addFilter(_outside_a_call)


def _outside_a_call(record: logging.LogRecord) -> bool:
    return not hasattr(_call, "ends_at")
