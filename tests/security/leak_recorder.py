"""Collects all that a run leaves behind where others may read it."""

import contextlib
import functools
import http.client
import io
import logging
import pprint
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import django
from django.core import mail, serializers
from django.core.cache import cache
from django.core.management import call_command
from django.core.signals import got_request_exception
from django.db import connection as database
from django.http import HttpResponse, HttpResponseServerError
from django.template.defaultfilters import pprint as safe_pprint
from django.test import RequestFactory, override_settings
from django.utils.log import AdminEmailHandler
from django.views import debug
from django.views.debug import ExceptionReporter

from django_leadexec import signals

from . import canaries

TESTS = str(Path(__file__).parent.parent)
PACKAGE = str(Path(signals.__file__).parent)
# Django 5.2 takes pairs alone; 6.0 warns of them.
ADMIN = "admin@example.org"
ADMINS = [ADMIN] if django.VERSION >= (6, 0) else [("Admin", ADMIN)]
SIGNALS = ("authorized", "refreshed", "rejected", "revoked")


@dataclass
class LeakRecorder:
    """``seen`` maps each line that was found somewhere to the place."""

    secrets: tuple[str, ...]
    seen: dict[str, str] = field(default_factory=dict)
    examining: bool = False

    def add(self, place: str, *things: object) -> None:
        for thing in things:
            text = str(thing) if isinstance(thing, str) else repr(thing)
            for line in text.splitlines():
                self.seen.setdefault(line, place)

    def show(self, *things: object) -> None:
        """Objects, as a log, a debugger's page and a dict of their attributes would show them."""
        for thing in things:
            self.add(f"repr of {type(thing).__name__}", repr(thing), str(thing), f"{thing}")
            self.add(f"pprint of {type(thing).__name__}", pprint.pformat(thing))

    def examine(self, error: BaseException, request: Any = None) -> None:
        """An exception that has left the package, as every kind of report would show it."""
        if self.examining:
            return
        for link in _chain(error):
            self.show(link, link.args, vars(link))
        way = (*_way(error), getattr(request, "path", None), self.secrets)
        if way in _examined:
            return
        _examined.add(way)
        self.examining = True  # the pages made here have templates that log, too
        try:
            self._examine(error, request)
        finally:
            self.examining = False

    def _examine(self, error: BaseException, request: Any) -> None:
        _drop_frames_of_tests(error)
        for link in _chain(error):
            report = traceback.TracebackException.from_exception(link, capture_locals=True)
            self.add("traceback with locals", "".join(report.format()))
            for frame, _ in traceback.walk_tb(link.__traceback__):
                self.add("locals", *map(safe_pprint, frame.f_locals.values()))
        request = request or RequestFactory().get("/")
        with override_settings(DEBUG=True), _compiling_each_page_once():  # it cleans nothing then
            reporter = ExceptionReporter(request, type(error), error, error.__traceback__)
            self.add("error page", reporter.get_traceback_html(), reporter.get_traceback_text())

    def examine_response(self, response: Any) -> None:
        body = b"".join(response) if response.streaming else response.content
        cookies = response.cookies.output()
        self.add("answer", body.decode(), repr(response), repr(dict(response.items())), cookies)

    def examine_storage(self) -> None:
        """What is at rest: each column of each table, sessions, cache, fixtures."""
        with database.cursor() as cursor:
            for table in database.introspection.table_names(cursor):
                cursor.execute(f"SELECT * FROM {database.ops.quote_name(table)}")  # noqa: S608
                self.add(f"table {table}", *map(repr, cursor.fetchall()))
        from django.contrib.sessions.models import Session

        self.add("session", *(session.get_decoded() for session in Session.objects.all()))
        self.add("cache", repr(getattr(cache, "_cache", {})))
        for kind in ("json", "xml"):
            out = io.StringIO()
            call_command("dumpdata", format=kind, stdout=out)
            self.add(f"{kind} fixture", out.getvalue())
        self.add("python fixture", serializers.serialize("python", _rows()))

    def leaks(self, *secrets: str) -> dict[str, list[str]]:
        """Where one of the secrets was seen, and the lines with it."""
        secrets = secrets or self.secrets
        if not canaries.find("\n".join(self.seen), *secrets):
            return {}
        found: dict[str, list[str]] = {}
        for line, place in self.seen.items():
            if canaries.find(line, *secrets):
                found.setdefault(place, []).append(line[:300])
        return found or {"several lines": []}


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


# By which lines of code each exception came that has been examined, in all tests of this process.
# Whatever had failed there, the same lines have the same kinds of values in their locals.
_examined: set[tuple[object, ...]] = set()


def _way(error: BaseException) -> Iterator[object]:
    for link in _chain(error):
        for frame, line in traceback.walk_tb(link.__traceback__):
            yield frame.f_code, line


def _drop_frames_of_tests(error: BaseException) -> None:
    """Down to the first frame that isn't ours: a test's own locals hold the secrets."""
    trace = error.__traceback__
    while trace and trace.tb_frame.f_code.co_filename.startswith(TESTS):
        trace = trace.tb_next
    error.__traceback__ = trace


# Django compiles the templates of its error page for each error, which takes as long as the rest.
_compile = functools.cache(debug.DEBUG_ENGINE.from_string)


def _compiling_each_page_once() -> contextlib.AbstractContextManager[Any]:
    return mock.patch.object(debug.DEBUG_ENGINE, "from_string", _compile)


def _rows() -> list[Any]:
    from django_leadexec.models import LeadExecConnection, PendingRevocation

    return [*LeadExecConnection.objects.all(), *PendingRevocation.objects.all()]


class _Recorder(logging.Handler):
    def __init__(self, recorder: LeakRecorder) -> None:
        super().__init__(logging.DEBUG)
        self.recorder = recorder

    def emit(self, record: logging.LogRecord) -> None:
        if self.recorder.examining:
            return
        self.recorder.add(f"log {record.name}", record.getMessage(), repr(vars(record)))
        if record.levelno > logging.INFO:
            # As an error tracker that sends the stack of whatever is logged.
            for frame, _ in traceback.walk_stack(sys._getframe()):
                if frame.f_code.co_filename.startswith(PACKAGE):
                    self.recorder.add(
                        f"stack of log {record.name}", *map(repr, frame.f_locals.values())
                    )
        if record.exc_info and record.exc_info[1]:
            self.recorder.add(
                f"log {record.name}", "".join(traceback.format_exception(record.exc_info[1]))
            )
            if record.levelno > logging.DEBUG:
                self.recorder.examine(record.exc_info[1], getattr(record, "request", None))


@contextlib.contextmanager
def recording_leaks(*secrets: str, mails: bool = False) -> Iterator[LeakRecorder]:
    """Every logger at DEBUG, SQL and http.client's prints included; signals; warnings.

    ``mails``: errors are mailed to the site's admins as well. That is slow, and each mail holds the
    page that ``examine`` makes of the error anyway.
    """
    recorder = LeakRecorder(secrets)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.enter_context(_all_loggers(_Recorder(recorder), mails))
        stack.enter_context(_set(http.client.HTTPConnection, "debuglevel", 1))
        stack.enter_context(_set(database, "force_debug_cursor", True))
        caught = stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        stack.enter_context(override_settings(ADMINS=ADMINS))
        stack.enter_context(_receivers(recorder))
        stack.enter_context(mock.patch.object(debug, "technical_500_response", _short_page))
        yield recorder
    recorder.add("output", out.getvalue(), err.getvalue())
    recorder.add("warning", *(str(warning.message) for warning in caught))
    for message in getattr(mail, "outbox", []):
        recorder.add("mail", message.body, message.subject)
        recorder.add("mail", *(str(part.content) for part in message.alternatives))


def _short_page(*details: object, **more: object) -> HttpResponse:
    """In place of the page with the traceback, which ``examine`` has made of the error already."""
    return HttpResponseServerError("Server error")


@contextlib.contextmanager
def _set(owner: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def _all_loggers(recorder: logging.Handler, mails: bool) -> Iterator[None]:
    """Everything goes to the recorder, and with ``mails`` the errors to the site's admins."""
    mailer = AdminEmailHandler(include_html=True)
    mailer.setLevel(logging.ERROR)
    handlers = [recorder, mailer] if mails else [recorder]
    loggers: list[logging.Logger] = [logging.root]
    loggers += [
        logger
        for logger in logging.root.manager.loggerDict.values()
        if isinstance(logger, logging.Logger)
    ]
    before = [
        (logger, logger.level, logger.propagate, logger.disabled, list(logger.handlers))
        for logger in loggers
    ]
    for logger in loggers:
        logger.setLevel(logging.DEBUG if logger is logging.root else logging.NOTSET)
        logger.propagate, logger.disabled = True, False
        logger.handlers = handlers if logger is logging.root else []
    try:
        yield
    finally:
        for logger, level, propagate, disabled, its_handlers in before:
            logger.setLevel(level)
            logger.propagate, logger.disabled, logger.handlers = propagate, disabled, its_handlers


@contextlib.contextmanager
def _receivers(recorder: LeakRecorder) -> Iterator[None]:
    def receive(**arguments: Any) -> None:
        recorder.show(arguments)
        recorder.add("signal's row", pprint.pformat(vars(arguments["connection"])))

    def on_request_exception(request: Any, **arguments: Any) -> None:
        error = sys.exc_info()[1]
        if error is not None:
            recorder.examine(error, request)

    connected: list[Any] = [getattr(signals, f"connection_{name}") for name in SIGNALS]
    for signal in connected:
        signal.connect(receive)
    got_request_exception.connect(on_request_exception)
    try:
        yield
    finally:
        got_request_exception.disconnect(on_request_exception)
        for signal in connected:
            signal.disconnect(receive)


class Saboteur:
    """Makes the nth statement fail, with an error that quotes it as talkative drivers do."""

    def __init__(self, nth: int, kind: type[Exception]) -> None:
        self.left = nth
        self.kind = kind

    @property
    def has_struck(self) -> bool:
        return self.left <= 0

    def __call__(
        self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any
    ) -> Any:
        self.left -= 1
        if self.left == 0:
            raise self.kind(f"{sql} failed for {params!r}")
        return execute(sql, params, many, context)
