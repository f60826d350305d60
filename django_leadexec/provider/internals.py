"""Names of other packages that this one uses although nobody promises to keep them.

They are private, or public without being documented, or documented as not to be called. After an
update, tests/provider/test_internals.py says which of them is gone or takes other parameters. They
are the reason for the upper bounds of requests and urllib3 in setup.cfg.
"""

from typing import NamedTuple


class Internal(NamedTuple):
    """One such name.

    ``owner`` is the dotted path of the class or module that has it. ``parameters`` are those of a
    function; None stands for an attribute. ``purpose`` says what it is used for.
    """

    owner: str
    name: str
    parameters: str | None
    purpose: str

    def __str__(self) -> str:
        return f"{self.owner}.{self.name}"


_RESPONSE = "http.client.HTTPResponse"
_PLAIN_CONNECTION = "http.client.HTTPConnection"
_CONNECTION = "urllib3.connection.HTTPConnection"
_ADAPTER = "requests.adapters.HTTPAdapter"

INTERNALS = (
    # http.client
    Internal(_RESPONSE, "__init__", "self, sock, debuglevel, method, url", "reads with a deadline"),
    Internal(_RESPONSE, "fp", None, "reads with a deadline"),
    Internal(_RESPONSE, "_read_status", "self", "skips every interim answer"),
    Internal(_RESPONSE, "begin", "self", "gives up a connection after a server's error"),
    Internal(_RESPONSE, "will_close", None, "gives up a connection after a server's error"),
    Internal(_PLAIN_CONNECTION, "_encode_request", "self, request", "puts the token in its place"),
    Internal(_PLAIN_CONNECTION, "response_class", None, "reads with a deadline"),
    Internal(_PLAIN_CONNECTION, "debuglevel", None, "prints nothing"),
    # urllib3
    Internal(_CONNECTION, "connect", "self", "notes that a call opened a connection"),
    Internal(_CONNECTION, "_new_conn", "self", "connects with a deadline"),
    Internal(_CONNECTION, "_dns_host", None, "connects with a deadline"),
    Internal(_CONNECTION, "socket_options", None, "connects with a deadline"),
    Internal(
        "urllib3.util.connection",
        "create_connection",
        "address, timeout, source_address, socket_options",
        "connects with a deadline",
    ),
    Internal("urllib3.HTTPConnectionPool", "ConnectionCls", None, "makes our connections"),
    Internal("urllib3.PoolManager", "pool_classes_by_scheme", None, "makes our connections"),
    Internal("urllib3.HTTPResponse", "length_remaining", None, "sees that a body ended too early"),
    Internal("urllib3.connection", "log", None, "keeps URLs out of logs"),
    Internal("urllib3.connectionpool", "log", None, "keeps URLs out of logs"),
    Internal("urllib3.util.retry", "log", None, "keeps URLs out of logs"),
    # requests
    Internal(
        _ADAPTER,
        "init_poolmanager",
        "self, connections, maxsize, block, **pool_kwargs",
        "makes our connections",
    ),
    Internal(_ADAPTER, "poolmanager", None, "makes our connections"),
    Internal(_ADAPTER, "proxy_manager_for", "self, proxy, **proxy_kwargs", "makes our connections"),
    Internal(_ADAPTER, "proxy_manager", None, "makes our connections"),
    Internal(
        _ADAPTER,
        "get_connection_with_tls_context",
        "self, request, verify, proxies, cert",
        "keeps the pool, which requests would look up for each call",
    ),
    Internal(_ADAPTER, "request_url", "self, request, proxies", "leaves the token out of the URL"),
    Internal(_ADAPTER, "build_response", "self, req, resp", "leaves out what no call needs"),
    Internal("requests.PreparedRequest", "path_url", None, "leaves the token out of the URL"),
    Internal("requests.Response", "connection", None, "sends an API call again after a 401"),
    Internal("requests.Session", "get_redirect_target", "self, resp", "follows no redirect"),
    Internal(
        "requests.Session",
        "resolve_redirects",
        "self, resp, req, stream, timeout, verify, cert, proxies, yield_requests, **adapter_kwargs",
        "follows no redirect",
    ),
    Internal("requests.Session", "get_adapter", "self, url", "shows no token to a tracer"),
    Internal(
        "requests.Session",
        "merge_environment_settings",
        "self, url, proxies, stream, verify, cert",
        "takes proxies and certificates from the environment",
    ),
    Internal(
        "requests.cookies.RequestsCookieJar",
        "extract_cookies",
        "self, response, request",
        "keeps no cookie",
    ),
    Internal("requests.utils", "default_user_agent", "name", "names requests to the provider"),
)
