"""A ``requests`` session for LeadExec's API: it brings the access token there and nowhere else."""

from collections.abc import Callable
from typing import Any

import requests
from requests.auth import AuthBase

from .client import QuietAdapter
from .conf import get_settings, origin
from .exceptions import LeadExecError
from .secret import Secret

TokenSource = Callable[[str | None], str]
SCHEME = "Bearer "


class LeadExecSession(requests.Session):
    """Sends the user's access token to the origins in ``API_URLS``, and to no other.

    On a 401 it refreshes once and tries once more. Redirects are not followed, as the token would
    go along. Requests without a ``timeout`` get ``TIMEOUT``, for the connection and each read.
    A request may raise what ``get_access_token`` raises, and LeadExecError for another origin.
    """

    def __init__(self, get_token: TokenSource) -> None:
        super().__init__()
        self.auth = BearerAuth(get_token)
        for scheme in ("https://", "http://"):
            self.mount(scheme, QuietAdapter())

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        if str(request.headers.get("Authorization")).startswith(SCHEME):
            # Again, as a prepared request may have got another URL since it was signed.
            _refuse_other_origins(request)
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = get_settings().timeout
        try:
            return super().send(request, **kwargs)
        except requests.RequestException as error:
            # The frames it comes from hold the header, and error pages show a frame's locals.
            bare = type(error)(
                str(error), request=error.request or request, response=error.response
            )
        raise bare

    def __repr__(self) -> str:
        return "<LeadExecSession>"


class BearerAuth(AuthBase):
    """Adds the bearer to one request at a time.

    ``get_token(refused)`` gives a token; ``refused`` is one the API has just turned down, or None.
    As the session's auth object it also keeps ``.netrc`` from replacing the header.
    """

    def __init__(self, get_token: TokenSource) -> None:
        self._get_token = get_token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        _refuse_other_origins(request)
        self._sign(request, self._get_token(None))
        body_start = _position(request.body)

        def retry_once(response: requests.Response, **options: Any) -> requests.Response:
            return self._after_401(response, body_start, options)

        request.hooks["response"].append(retry_once)
        return request

    def _sign(self, request: requests.PreparedRequest, token: str) -> None:
        request.headers["Authorization"] = Secret(f"{SCHEME}{token}")

    def _after_401(
        self, response: requests.Response, body_start: int | None, options: dict[str, Any]
    ) -> requests.Response:
        body: object = response.request.body
        replayable = body is None or isinstance(body, str | bytes) or body_start is not None
        if response.status_code != 401 or not replayable:
            return response
        response.content  # noqa: B018 - reads it to the end, so the connection can be used again
        response.close()
        again = response.request.copy()
        self._sign(again, self._get_token(_token_of(again)))
        if body_start is not None and hasattr(body, "seek"):
            body.seek(body_start)
        retried: requests.Response = response.connection.send(again, **options)
        retried.history.append(response)
        retried.request = again
        return retried


def _refuse_other_origins(request: requests.PreparedRequest) -> None:
    if origin(request.url or "") not in get_settings().api_urls:
        raise LeadExecError(
            "A LeadExec session sends the access token only to the origins in "
            "LEADEXEC['API_URLS']; this request is for another."
        )


def _token_of(request: requests.PreparedRequest) -> str:
    return Secret(request.headers["Authorization"].removeprefix(SCHEME))


def _position(body: object) -> int | None:
    try:
        return body.tell()  # type: ignore[attr-defined,no-any-return]
    except (AttributeError, OSError):
        return None
