"""The two calls to the provider's server, over one pool of connections.

The URL of each call holds the refresh token, so the URL itself is a secret. No exception, log
record or repr that leaves this package shows it or is chained to one that does.
"""

import os
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

import requests
from requests.structures import CaseInsensitiveDict
from requests.utils import default_user_agent
from urllib3.exceptions import HTTPError, ProtocolError

from .. import __version__
from ..conf import Settings, get_settings
from ..secret import Secret, without_frames
from .call import MASK, ProviderCall
from .replies import (
    Fresh,
    RefreshOutcome,
    Refused,
    Reply,
    Revoked,
    RevokeOutcome,
    Unavailable,
    read_refresh_reply,
    read_retry_after,
    read_revoke_reply,
)
from .transport import ProviderRequest, ProviderSession

# Bytes of a body that are read at most. A longer answer says nothing.
MAX_BODY = 64 * 1024
# Connections that a client keeps open at most. A refresh run has at most this many workers.
POOL_SIZE = 256


class Client:
    """Calls the provider. Threads may share it, processes may not.

    ``timeout`` is in seconds and for a whole call. Proxies and CA bundles are read from the
    environment once, when the client is made, in the way of ``requests``.
    """

    def __init__(self, base_url: str, timeout: float) -> None:
        self.base_url = base_url
        self.timeout = timeout
        self._session = ProviderSession(POOL_SIZE)
        self._options: dict[str, Any] = dict(
            self._session.merge_environment_settings(base_url, {}, True, None, None),
            allow_redirects=False,
        )
        # "identity": what is compressed could unpack to far more than MAX_BODY.
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
        self, refresh_token: str | Secret, app_id: str, *, deadline: float | None = None
    ) -> RefreshOutcome:
        """Ask for an access token (docs/protocol.md, "A fresh access token").

        ``deadline`` is the number of seconds for the whole call if fewer than ``timeout`` are left.
        Trouble with the network is Unavailable, never an exception.
        """
        sent_at, refresh_token = time.time(), Secret.of(refresh_token)
        reply = self._get("refreshaccesstoken", refresh_token, {"appid": app_id}, deadline)
        if isinstance(reply, Unavailable):
            return reply
        return read_refresh_reply(reply, refresh_token, sent_at)

    @without_frames
    def revoke(
        self, refresh_token: str | Secret, app_id: str, *, deadline: float | None = None
    ) -> RevokeOutcome:
        """End the association (docs/protocol.md, "Ending the association").

        If the answer leaves it open whether the token still counts, a second call decides: a
        refresh. ``deadline`` is as for ``refresh``, and for each of the two calls.
        """
        refresh_token = Secret.of(refresh_token)
        reply = self._get("disconnectapplicationtoken", refresh_token, {}, deadline)
        if isinstance(reply, Unavailable):
            return reply
        confirmed = read_revoke_reply(reply, refresh_token)
        if isinstance(confirmed, Unavailable | Revoked):
            return confirmed
        outcome = self.refresh(refresh_token, app_id, deadline=deadline)
        if isinstance(outcome, Refused):
            return Revoked(outcome.echo)
        if isinstance(outcome, Fresh):
            return Unavailable("the provider still honours the token")
        return outcome

    def _get(
        self, action: str, refresh_token: Secret, query: Mapping[str, str], deadline: float | None
    ) -> Reply | Unavailable:
        end = f"?{urlencode(query)}" if query else ""
        request = ProviderRequest(f"{self.base_url}/authorize/{action}{MASK}{end}", self._headers)
        request.real.url = (
            f"{self.base_url}/authorize/{action}/{quote(refresh_token.reveal(), safe='')}{end}"
        )
        seconds = self.timeout if deadline is None else min(self.timeout, deadline)
        with ProviderCall(seconds) as call:
            try:
                response = self._send(request, call, seconds)
                try:
                    return _read(response)
                finally:
                    response.close()
            except (requests.RequestException, HTTPError, OSError, ValueError) as error:
                reason = _describe(error)
        return Unavailable(reason)

    def _send(
        self, request: ProviderRequest, call: ProviderCall, seconds: float
    ) -> requests.Response:
        """Send a request, and once more if the provider closed a kept connection at that moment.

        The provider may do so at any time, before it has seen the request.
        """
        options = {"timeout": (seconds, seconds), **self._options}
        try:
            response = self._session.send(request, **options)
        except requests.ConnectionError as error:
            if call.opened_connection or not _was_hung_up_on(error):
                raise
            response = self._session.send(request, **options)
        if call.is_masked:
            response.close()
            raise OSError("what was sent is not the token")
        return response


def get_client() -> Client:
    """This process's client for the settings in force."""
    return client_for(get_settings())


def client_for(conf: Settings) -> Client:
    """This process's client for these settings."""
    key = (os.getpid(), conf.base_url, conf.timeout)
    client = _clients.get(key)
    if client is None:
        # One step needs no lock. A lock that is held at a fork stays locked in the child for ever.
        client = _clients.setdefault(key, Client(conf.base_url, conf.timeout))
    return client


# Two processes on one socket would read each other's answers: another user's token. So the key has
# the process id. A fork hook would not do, because uWSGI forks in C, where Python runs no hooks. A
# child leaves its parent's clients alone. To close them it would need locks of urllib3, and another
# thread may have held these at the fork.
_clients: dict[tuple[int, str, float], Client] = {}


def _read(response: requests.Response) -> Reply | Unavailable:
    body = response.raw.read(MAX_BODY + 1, decode_content=False)
    if len(body) > MAX_BODY:
        return Unavailable(f"HTTP {response.status_code} with an oversized body")
    if response.raw.length_remaining:  # urllib3 raises nothing when a body ends too early
        return Unavailable(f"HTTP {response.status_code} with half a body")
    return Reply(
        response.status_code, body, read_retry_after(response.raw.headers.get("Retry-After"))
    )


def _describe(error: Exception) -> str:
    if isinstance(error, requests.exceptions.SSLError):
        return "TLS failed"
    if isinstance(error, requests.Timeout | TimeoutError) or "timed out" in str(error):
        return "timed out"
    return "connection failed"


def _was_hung_up_on(error: requests.ConnectionError) -> bool:
    # requests wraps urllib3's error, which wraps the socket's. Only ``args`` leads to them.
    wrapped = error.args[0] if error.args else None
    return isinstance(wrapped, ProtocolError) and isinstance(wrapped.args[-1], ConnectionError)
