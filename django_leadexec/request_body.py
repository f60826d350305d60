"""Takes the posted JSON out of a request, so that nothing that reports the request shows a token.

Error trackers send a request's body along with an error, and the values in each frame. So the
token becomes a ``Secret`` while the body is parsed, and the request forgets the body.
"""

import json
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from django.http import HttpRequest, QueryDict
from django.utils.datastructures import MultiValueDict

from .exceptions import LeadExecError
from .secret import Secret, without_frames

# In bytes. A token has at most 2,048 characters, and an address hardly more.
MAX_BODY = 16 * 1024

# The key of the refresh token. Error trackers know it as the name of a secret, and hide its value
# if an error happens before this package gets to see the request.
TOKEN = "token"  # noqa: S105 # nosec B105 # a key, not a token


class MalformedBody(LeadExecError):
    """The body is not JSON, or not an object with values of the right types."""


class BodyTooLarge(LeadExecError):
    """The body has more than ``MAX_BODY`` bytes."""


# Whatever is raised here comes without its frames, which hold the plain body.
@without_frames
def take_json(request: HttpRequest, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The posted values of ``fields``, which maps each key to its type. Other keys are dropped.

    A missing key has the value None, which its type must allow. The token is a ``Secret``. The
    request's body is empty afterwards, whatever happens. Raises MalformedBody, BodyTooLarge.
    """
    try:
        # Not request.body, which reads all there is: Content-Length need not be true.
        body = request.read(MAX_BODY + 1)
    except (OSError, ValueError):
        body = b""
    finally:
        forget_body(request)
    if request.content_type != "application/json":
        raise MalformedBody("The page sent something that is not JSON.")
    if len(body) > MAX_BODY:
        raise BodyTooLarge(f"The page sent more than {MAX_BODY} bytes.")
    try:
        data = json.loads(body, object_pairs_hook=_hide_token)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise MalformedBody("The page sent something that is not a JSON object.")
    for key, kind in fields.items():
        if not isinstance(data.get(key), kind):
            raise MalformedBody(f"The page sent a {key!r} of a wrong type.")
    return {key: data.get(key) for key in fields}


def forget_body(request: HttpRequest) -> None:
    """Empty all that a Django request keeps of its body. The attributes are Django's own.

    ``body`` and ``POST`` are empty afterwards, also for a middleware that reads them later.
    """
    stream, request._stream = request._stream, BytesIO()
    request._body = b""
    request.POST = QueryDict()
    if not hasattr(request, "_files"):
        request._files = MultiValueDict()  # type: ignore[attr-defined]
    stream.close()


def _hide_token(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {
        key: Secret(value) if key == TOKEN and isinstance(value, str) else value
        for key, value in pairs
    }
