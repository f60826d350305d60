import logging
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.servers.basehttp import WSGIRequestHandler
from django.test import Client
from pytest_django import Settings

from django_leadexec.sandbox.logs import LOGGERS

REFRESH = "/sandbox/authorize/refreshaccesstoken/"
DISCONNECT = "/sandbox/authorize/disconnectapplicationtoken/"


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def serve(line: str) -> None:
    handler: Any = WSGIRequestHandler.__new__(WSGIRequestHandler)
    handler.request = None
    handler.log_message('"%s" %s %s', line, "200", "17")


@pytest.fixture
def log() -> Iterator[Lines]:
    handler = Lines()
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    yield handler
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


@pytest.mark.parametrize(
    "line",
    [
        f"GET {REFRESH}SECRET?appid=app HTTP/1.1",
        f"GET {REFRESH}SECRET HTTP/1.0",
        f"GET {REFRESH}a%2FSECRET/SECRET?x=/SECRET HTTP/1.1",
        f"GET {DISCONNECT}SECRET?callback=done HTTP/1.1",
        f"GET {DISCONNECT.upper()}SECRET HTTP/1.1",
        f"GET {REFRESH}SECRET",
    ],
)
def test_the_development_server_logs_no_token(log: Lines, line: str) -> None:
    serve(line)
    [text] = log.lines
    assert "SECRET" not in text
    assert "/***" in text
    assert text.endswith(" 200 17")


def test_the_development_server_logs_other_paths_as_they_are(log: Lines) -> None:
    serve("GET /sandbox/?page=2 HTTP/1.1")
    assert log.lines == ['"GET /sandbox/?page=2 HTTP/1.1" 200 17']


@pytest.mark.parametrize("path", [REFRESH, DISCONNECT])
@pytest.mark.parametrize("token", ["SECRET", "a%2FSECRET", "a%3FSECRET", "a%20SECRET"])
def test_no_refused_request_logs_a_token(
    log: Lines, settings: Settings, path: str, token: str
) -> None:
    assert Client().post(path + token).status_code == 405
    assert Client(enforce_csrf_checks=True).post(path + token).status_code == 403
    settings.DEBUG = False
    assert Client().get(path + token).status_code == 404
    assert [text.split(" ")[0] for text in log.lines] == ["Method", "Forbidden", "Not"]
    assert not [text for text in log.lines if "SECRET" in text]
