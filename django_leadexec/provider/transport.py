"""HTTP connections that show no token and keep a whole call's deadline.

They subclass http.client, urllib3 and requests at names that these do not promise to keep:
``internals`` lists each.
"""

import io
import logging
import socket
from collections.abc import Callable, Iterator
from http.client import HTTPResponse, parse_headers
from typing import Any

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.cookies import RequestsCookieJar
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection
from urllib3.util.connection import create_connection

from .call import current_call


class _DeadlineReader(io.RawIOBase):
    """Gives each read of a socket only the time that the call has left.

    A socket's own timeout starts again with each byte. A provider that sends its answer byte by
    byte could then take longer than the lease under which it was asked.
    """

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        super().__init__()
        self._raw = raw
        self._sock = sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        call = current_call()
        if call is not None:
            self._sock.settimeout(call.seconds_left())
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
        """The status line of the final answer. Of the interim ones http.client skips only 100."""
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 101 < status < 200:
                return version, status, reason
            parse_headers(self.fp)

    def begin(self) -> None:
        super().begin()
        if not 200 <= self.status < 500:
            # A gateway that gives up may pass on the answer later. The next call on this
            # connection would read it: another user's token.
            self.will_close = True


def _new_conn(connection: HTTPConnection) -> socket.socket:
    """Connect in the time the call has left. urllib3 gives each address of a host all of it."""
    call = current_call()
    if call is None:
        return HTTPConnection._new_conn(connection)
    failure = OSError("the host has no address")
    addresses = socket.getaddrinfo(connection._dns_host, connection.port, type=socket.SOCK_STREAM)
    for *_, address in addresses:
        # A slow name server, or the addresses before this one, may have used up the time.
        left = call.seconds_left()
        try:
            sock = create_connection(
                (str(address[0]), int(address[1])), left, socket_options=connection.socket_options
            )
        except OSError as error:
            failure = error
            continue
        try:
            # The TLS handshake and the sending of the request get what is left now.
            sock.settimeout(call.seconds_left())
        except TimeoutError:
            sock.close()
            raise
        return sock
    raise failure


def _encode_request(connection: HTTPConnection, request_line: str) -> bytes:
    """What http.client sends. It passes it to nothing else, so only here is the token put in."""
    call = current_call()
    return (request_line if call is None else call.unmask(request_line)).encode("ascii")


def _quiet(pool: type[HTTPConnectionPool]) -> type[HTTPConnectionPool]:
    """The same kind of pool, over connections that print nothing and keep deadlines."""
    base: Any = pool.ConnectionCls

    def connect(self: HTTPConnection) -> None:
        call = current_call()
        if call is not None:
            call.opened_connection = True
        base.connect(self)
        if call is not None:
            # To connect may have taken long after _new_conn(): a handshake, or a proxy.
            try:
                call.seconds_left()
            except TimeoutError:
                self.close()
                raise

    names: dict[str, Any] = {
        # Else http.client prints request lines and headers where a site has turned that on.
        "debuglevel": 0,
        "response_class": _Response,
        "connect": connect,
        "_encode_request": _encode_request,
    }
    if base._new_conn is HTTPConnection._new_conn:  # a connection to a SOCKS proxy has its own
        names["_new_conn"] = _new_conn
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


class ProviderAdapter(QuietAdapter):
    """For one host and one set of options. It keeps what requests would work out for each call.

    ``send`` is ``requests``' own, so that tools which replace it, as ``responses`` does, see the
    calls.
    """

    _pool: Any = None

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        if self._pool is None:
            self._pool = super().get_connection_with_tls_context(*args, **kwargs)
        return self._pool

    def request_url(self, request: Any, proxies: Any) -> str:
        """The URL that urllib3 is called with: error trackers and tracers note it."""
        url: str = super().request_url(request, proxies) if proxies else request.path_url
        call = current_call()
        return url if call is None else call.mask(url)

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        response = requests.Response()
        response.status_code, response.raw, response.request = resp.status, resp, req
        return response


class ProviderRequest(requests.PreparedRequest):
    """A GET whose ``url`` shows no token. ``real`` is the same with the true URL."""

    def __init__(self, url: str, headers: CaseInsensitiveDict[str]) -> None:
        super().__init__()
        self.real: requests.PreparedRequest = requests.PreparedRequest()
        for request in (self, self.real):
            request.method, request.url, request.headers = "GET", url, headers


class _Unmasking:
    """An adapter that is handed ``ProviderRequest``s, and sends the real ones by another."""

    def __init__(self, adapter: BaseAdapter) -> None:
        self._adapter = adapter

    def send(self, request: ProviderRequest, **options: Any) -> requests.Response:
        return self._adapter.send(request.real, **options)


class _NoCookies(RequestsCookieJar):
    def extract_cookies(self, *args: Any, **kwargs: Any) -> None:
        pass


FindAdapter = Callable[[str], BaseAdapter]


class ProviderSession(requests.Session):
    """Sends ``ProviderRequest``s. It follows no redirect, and keeps no cookie.

    They go through ``requests.Session.send``, which requests-mock replaces. Tracers replace it as
    well and note the URL, so the real one is known to adapters alone: ours, or a test's.
    """

    def __init__(self, pool_size: int) -> None:
        self._find_adapter: FindAdapter = super().get_adapter
        super().__init__()
        self.cookies: RequestsCookieJar = _NoCookies()
        for scheme in ("https://", "http://"):
            self.mount(scheme, ProviderAdapter(pool_maxsize=pool_size))

    @property
    def get_adapter(self) -> Callable[[str], Any]:
        return lambda url: _Unmasking(self._find_adapter(url))

    @get_adapter.setter
    def get_adapter(self, find_adapter: FindAdapter) -> None:
        # requests-mock sets it for the time of a request.
        self._find_adapter = find_adapter

    def resolve_redirects(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        return iter(())


def silence_request_lines() -> None:
    """Keep urllib3's records of our calls, which name the URL, out of every log."""
    for name in ("urllib3.connectionpool", "urllib3.util.retry", "urllib3.connection"):
        logging.getLogger(name).addFilter(_is_outside_a_call)


def _is_outside_a_call(record: logging.LogRecord) -> bool:
    return current_call() is None
