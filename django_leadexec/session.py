"""A ``requests`` session for LeadExec's API: it brings the access token there and nowhere else."""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
from requests.auth import AuthBase

from .conf import get_settings, origin
from .exceptions import LeadExecError
from .provider.transport import QuietAdapter
from .secret import MaskedText, Secret, without_frames

TokenSource = Callable[[Secret | None], Secret]
SCHEME = "Bearer "

# How often a path is decoded before it is judged.
_DECODINGS = 5
# What may lead out of a folder, in a decoded path: a ".." (some servers cut off what follows it),
# bytes that a careless decoder reads as dots, and what is still encoded.
_WAY_UP = re.compile(
    r"(?:^|[/\\])[\x00-\x20]*\.\.[\x00-\x20]*(?:$|[/\\;?#\x00])|\ufffd|%[0-9A-Fa-f]{2}"
)
# The provider's own addresses have a refresh token behind these words.
_TOKEN_IN_PATH = re.compile(r"refreshaccesstoken|disconnectapplicationtoken", re.IGNORECASE)


class _FramelessAdapter(QuietAdapter):
    """Shows none of its frames in an error, not even a time limit's: they hold the header."""

    @without_frames
    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        return super().send(*args, **kwargs)


class LeadExecSession(requests.Session):
    """Sends the user's access token below ``account_api`` and ``data_api``, and nowhere else.

    On a 401 it refreshes once and tries once more. If the token is not a minute old, the 401 is the
    answer: an API that refuses all tokens must not make each request a refresh.
    It follows no redirect, because the token would be sent along. A request without a ``timeout``
    gets ``TIMEOUT`` to connect and for each read. A request may raise what ``get_access_token``
    raises, and LeadExecError for another address.
    """

    def __init__(self, get_token: TokenSource) -> None:
        super().__init__()
        self.auth: BearerAuth = BearerAuth(get_token)
        for scheme in ("https://", "http://"):
            self.mount(scheme, _FramelessAdapter())

    @property
    def account_api(self) -> str:
        """``ACCOUNT_API_URL`` without a slash at its end, as in ``f"{…}/v1/leadtypes"``."""
        return get_settings().account_api_url

    @property
    def data_api(self) -> str:
        """``DATA_API_URL``, without a slash at its end."""
        return get_settings().data_api_url

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        if str(request.headers.get("Authorization")).startswith(SCHEME):
            # Once more, because a prepared request can be given another URL after it was signed.
            _refuse_other_addresses(request)
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = get_settings().timeout
        try:
            return super().send(request, **kwargs)
        except requests.RequestException as error:
            bare = error
        # What it was made of has frames as well, which hold the header.
        bare.__cause__ = bare.__context__ = None
        if any(isinstance(arg, BaseException) for arg in bare.args):
            bare.args = (str(bare),)
        bare.request = bare.request or request
        try:
            raise bare.with_traceback(None)
        finally:
            # The exception knows this frame: each would keep the other from being freed.
            del bare

    def __repr__(self) -> str:
        return "<LeadExecSession>"


class BearerAuth(AuthBase):
    """Adds the bearer to one request at a time.

    ``get_token(refused)`` returns a token. ``refused`` is the one that the API has just turned
    down, or None. If that one comes back, there is no other.
    A session with an auth object does not let ``.netrc`` replace the header.
    """

    def __init__(self, get_token: TokenSource) -> None:
        self._get_token = get_token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        _refuse_other_addresses(request)
        self._sign(request, self._get_token(None))
        body_start = _position(request.body)

        def retry_once(response: requests.Response, **options: Any) -> requests.Response:
            return self._after_401(response, body_start, options)

        request.hooks["response"].append(retry_once)
        return request

    def _sign(self, request: requests.PreparedRequest, token: Secret) -> None:
        request.headers["Authorization"] = MaskedText(f"{SCHEME}{token.reveal()}")

    def _after_401(
        self, response: requests.Response, body_start: int | None, options: dict[str, Any]
    ) -> requests.Response:
        body: object = response.request.body
        replayable = body is None or isinstance(body, str | bytes) or body_start is not None
        if response.status_code != 401 or not replayable:
            return response
        try:
            refused = _token_of(response.request)
            token = self._get_token(refused)
            if token == refused:
                return response
            response.content  # noqa: B018 - reads it to the end, so the connection can be used again
        except BaseException:
            # Whoever holds the error would hold the connection as well.
            response.close()
            raise
        response.close()
        again = response.request.copy()
        self._sign(again, token)
        if body_start is not None and hasattr(body, "seek"):
            body.seek(body_start)
        retried: requests.Response = response.connection.send(again, **options)
        retried.history.append(response)
        retried.request = again
        return retried


def _refuse_other_addresses(request: requests.PreparedRequest) -> None:
    conf = get_settings()
    if not any(
        _is_below(request.url or "", api) for api in (conf.account_api_url, conf.data_api_url)
    ):
        raise LeadExecError(
            f"A LeadExec session sends the access token only below {conf.account_api_url} "
            f"(ACCOUNT_API_URL) and {conf.data_api_url} (DATA_API_URL), and not to "
            f"{_describe(request.url or '')}. Build the URL on session.account_api or "
            "session.data_api."
        )


def _is_below(url: str, api: str) -> bool:
    """Whether a prepared URL has the scheme, host and port of ``api``, and a path below its path.

    ``requests`` has resolved plain dot segments. Servers and proxies differ in what they decode
    before they resolve the others. So there may be no way up left in any reading of the path.
    """
    try:
        if origin(url) != origin(api):
            return False
        top, path = urlsplit(api).path, urlsplit(url).path
    except ValueError:
        return False
    if not top:
        return True
    return f"{path}/".startswith(f"{top}/") and not _WAY_UP.search(_decode(path))


def _decode(path: str) -> str:
    for _ in range(_DECODINGS):
        path = unquote(path)
    return path


def _describe(url: str) -> str:
    """The address for a message, without what may be secret: user, query, fragment, token."""
    try:
        address, path = origin(url), urlsplit(url).path
    except ValueError:
        return "an address that can not be read"
    if _TOKEN_IN_PATH.search(_decode(path)):
        path = "/***"
    return repr(f"{address}{path}"[:200])


def _token_of(request: requests.PreparedRequest) -> Secret:
    return Secret(request.headers["Authorization"].removeprefix(SCHEME))


def _position(body: object) -> int | None:
    try:
        return body.tell()  # type: ignore[attr-defined,no-any-return]
    except (AttributeError, OSError):
        return None
