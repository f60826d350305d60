"""Plays LeadExec's two APIs: answers what a test has prepared, and keeps what was asked."""

import io
import json as json_module
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import responses as reasons
from typing import Any
from unittest import mock
from urllib.parse import parse_qsl, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse

from ..conf import get_settings
from ..provider.transport import QuietAdapter
from ..session import SCHEME

# In place of a JSON value: there is none. None itself is one, null.
NO_JSON: Any = object()


class UnansweredCall(BaseException):
    """The site has called an API, and the test has prepared no answer.

    It is no ``Exception``, because the site's code may catch these to survive an API in trouble.
    The test would then pass without its answer.
    """


@dataclass(frozen=True)
class Call:
    """One call to LeadExec's APIs, as they would have got it.

    ``path`` is the part behind ``ACCOUNT_API_URL`` or ``DATA_API_URL``. ``query`` has the last
    value of each key. ``json`` is the parsed body, or None if the body is no JSON.
    """

    method: str
    url: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str] = field(repr=False)
    body: bytes
    json: Any
    access_token: str = field(repr=False)

    @classmethod
    def of(cls, request: requests.PreparedRequest) -> "Call":
        """The call that ``requests`` is about to send."""
        url, body = request.url or "", _read_body(request.body)
        try:
            json = json_module.loads(body)
        except ValueError:
            json = None
        headers = {key: value for key, value in request.headers.items() if key != "Authorization"}
        return cls(
            method=request.method or "",
            url=url,
            path=path_of(url).partition("?")[0],
            query=dict(parse_qsl(urlsplit(url).query, keep_blank_values=True)),
            headers=headers,
            body=body,
            json=json,
            access_token=str(request.headers.get("Authorization", "")).removeprefix(SCHEME),
        )

    def __str__(self) -> str:
        shown = self.body.decode("utf-8", "replace")
        return " ".join(filter(None, (self.method, self.path, shown[:200])))


@dataclass
class Answer:
    """What a test has prepared for one kind of call.

    ``left``: for how many calls; None for any number.
    """

    method: str
    path: str
    json: Any
    body: bytes
    status: int
    headers: Mapping[str, str]
    error: Exception | None
    left: int | None

    def fits(self, call: Call) -> bool:
        path, mark, query = self.path.partition("?")
        return (
            self.left != 0
            and self.method == call.method
            and path == call.path
            and (not mark or dict(parse_qsl(query, keep_blank_values=True)) == call.query)
        )

    def give(self, call: Call, adapter: HTTPAdapter, request: Any) -> requests.Response:
        """The answer as ``requests`` would have read it. Raises ``error``, if there is one."""
        if self.left is not None:
            self.left -= 1
        if self.error is not None:
            raise self.error
        headers, body = dict(self.headers), self.body
        if self.json is not NO_JSON:
            json = self.json(call) if callable(self.json) else self.json
            body = json_module.dumps(json).encode()
            headers.setdefault("Content-Type", "application/json; charset=utf-8")
        raw = HTTPResponse(
            io.BytesIO(body),
            headers,
            self.status,
            reason=reasons.get(self.status),
            preload_content=False,
        )
        return adapter.build_response(request, raw)


@dataclass
class FakeApis:
    """Both APIs. ``calls`` are all that were made, in order."""

    calls: list[Call] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)

    def prepare(
        self,
        method: str,
        path: str,
        json: Any,
        *,
        status: int,
        headers: Mapping[str, str] | None,
        body: str | bytes,
        error: Exception | None,
        times: int | None,
    ) -> None:
        content = body.encode() if isinstance(body, str) else body
        answer = Answer(
            method.upper(), path_of(path), json, content, status, headers or {}, error, times
        )
        self.answers.insert(0, answer)

    def send(self, adapter: HTTPAdapter, request: Any, **options: Any) -> requests.Response:
        """In place of ``QuietAdapter.send``."""
        call = Call.of(request)
        answer = next((answer for answer in self.answers if answer.fits(call)), None)
        self.calls.append(call)
        if answer is None and _responses_is_active():
            return HTTPAdapter.send(adapter, request, **options)
        if answer is None:
            raise UnansweredCall(self._describe_lack(call))
        return answer.give(call, adapter, request)

    def _describe_lack(self, call: Call) -> str:
        text = (
            f"No answer for {call}. Add one before the call: "
            f'leadexec.answer("{call.method}", "{call.path}", ...).'
        )
        prepared = [
            f"{answer.method} {answer.path}" + (" (used up)" if answer.left == 0 else "")
            for answer in self.answers
        ]
        return f"{text} There are answers for: {', '.join(prepared)}." if prepared else text

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Have these answer what sessions send."""

        def send(adapter: HTTPAdapter, request: Any, **options: Any) -> requests.Response:
            return self.send(adapter, request, **options)

        with mock.patch.object(QuietAdapter, "send", send):
            yield


def path_of(url: str) -> str:
    """The part of a URL behind one of the two APIs, with its query.

    Raises ValueError for what is neither a path nor below the APIs.
    """
    if url.startswith("/"):
        return url
    conf = get_settings()
    for api in (conf.account_api_url, conf.data_api_url):
        if url.startswith(f"{api}/"):
            return url.removeprefix(api)
    raise ValueError(
        f"{url!r} is neither a path, like '/v1/leadtypes', nor a URL below "
        f"{conf.account_api_url} or {conf.data_api_url}."
    )


def _responses_is_active() -> bool:
    # It replaces this very function, and answers or refuses whatever reaches it.
    return HTTPAdapter.send.__module__.partition(".")[0] == "responses"


def _read_body(body: Any) -> bytes:
    """What is sent, without using it up. Of a stream that can not be read again: nothing."""
    if hasattr(body, "seek"):
        start = body.tell()
        content = body.read()
        body.seek(start)
        body = content
    if isinstance(body, str):
        return body.encode()
    return body if isinstance(body, bytes) else b""
