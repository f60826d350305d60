"""Processes that are killed or cut off at work: forks of one that has loaded Django already.

That one (``python -m tests.crash.forked_workers``) has a single thread and no database connection,
so a fork of it is as good as a process of its own, and starts in a few milliseconds. It reads
orders from its input, a line of JSON each, and prints how the fork that carried one out ended.
"""

import io
import json
import os
import resource
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partialmethod
from http.client import HTTPConnection
from importlib import import_module
from typing import Any
from unittest.mock import patch

import django
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ObjectDoesNotExist
from django.core.management import CommandError, call_command
from django.db import DEFAULT_DB_ALIAS, close_old_connections, connections
from django.db import Error as DatabaseTrouble
from django.db import connection as database
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.test import Client
from django.test.client import MULTIPART_CONTENT
from django.test.utils import override_settings, setup_test_environment
from django.urls import get_resolver

from django_leadexec.exceptions import LeadExecError

from .. import processes


@dataclass(frozen=True)
class Fate:
    """What became of one: ``killed`` before it was done, or its ``answer``, or its ``trouble``.

    ``steps``: how many effects it had on the world, unless it was killed; ``seconds``: its life;
    ``trouble``: the name of an exception that a caller of the package has to expect.
    """

    killed: bool
    seconds: float
    steps: int = 0
    answer: Any = None
    trouble: str = ""


class ForkedWorkers:
    """Starts them, one at a time; several of this class have as many at once."""

    def __enter__(self) -> "ForkedWorkers":
        self._process = processes.start_module(None, __name__)
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate(timeout=60)

    def start(
        self,
        work: str,
        *arguments: Any,
        at_step: int | None = None,
        harm: str = "kill",
        after: float | None = None,
        room: tuple[str, int] | None = None,
        leadexec: dict[str, Any] | None = None,
    ) -> None:
        """Let one do ``work``, a name in ``WORKS``, under the settings of this moment.

        ``at_step``: the effect right after which the ``harm`` is done to it: a "kill", or a "cut"
        of its database connection (0: at its start). ``after``: the seconds after which it is
        killed. ``room``: how much the database may grow, in pages: by SQLite's own limit ("pages"),
        or that of the file system ("file").
        """
        order = {
            "work": work,
            "arguments": arguments,
            "at_step": at_step,
            "harm": harm,
            "after": after,
            "room": room,
            "leadexec": leadexec or settings.LEADEXEC,
        }
        assert self._process.stdin
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def fate(self) -> Fate:
        """What became of the one that was started last. Waits for its end."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, self._process.communicate(timeout=60)[1]
        told = json.loads(line)
        assert not told.get("error"), told["error"]
        return Fate(**{key: told[key] for key in told if key != "error"})

    def run(self, work: str, *arguments: Any, **more: Any) -> Fate:
        self.start(work, *arguments, **more)
        return self.fate()


# In the process that is forked


def main() -> None:
    django.setup()
    setup_test_environment()
    get_resolver().url_patterns  # noqa: B018 - imports the views
    for command in ("refresh_leadexec_tokens", "rotate_leadexec_keys"):
        import_module(f"django_leadexec.management.commands.{command}")
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_oversee(json.loads(line))) + "\n")
        sys.stdout.flush()


def _oversee(order: dict[str, Any]) -> dict[str, Any]:
    began = time.monotonic()
    reader, writer = os.pipe()
    worker = os.fork()
    if worker == 0:
        os.close(reader)
        try:
            _live(order, writer)
        finally:
            os._exit(0)
    os.close(writer)
    if order["after"] is not None:
        select.select([reader], [], [], order["after"])  # readable once it is done
        os.kill(worker, signal.SIGKILL)
    with open(reader, encoding="utf-8") as pipe:
        said = pipe.read()
    _, status = os.waitpid(worker, 0)
    seconds = time.monotonic() - began
    if said:
        return {"killed": False, "seconds": seconds, **json.loads(said)}
    is_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return {
        "killed": is_killed,
        "seconds": seconds,
        "error": None if is_killed else f"ended by itself, with {status}",
    }


# In the fork


def _live(order: dict[str, Any], writer: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    told: dict[str, Any] = {}
    if order["room"]:
        _limit_room(*order["room"])
    steps = _Steps(order["at_step"], order["harm"])
    try:
        with override_settings(LEADEXEC=order["leadexec"], DEBUG=True), steps.counted():
            told["answer"] = WORKS[order["work"]](*order["arguments"])
    except (LeadExecError, ObjectDoesNotExist, DatabaseTrouble) as error:
        told["trouble"] = type(error).__name__
    except BaseException:
        told["error"] = traceback.format_exc()
    told["steps"] = steps.count
    if not told.get("error") and not order["room"]:
        told["error"] = _serve_the_next()
    with open(writer, "w", encoding="utf-8") as pipe:
        pipe.write(json.dumps(told))


def _serve_the_next() -> str:
    """See whether the worker is fit for the next request; the error if it is not."""
    close_old_connections()  # as Django does between requests
    try:
        get_user_model().objects.exists()
    except BaseException:
        return traceback.format_exc()
    return ""


class _Steps:
    """Counts what the world sees of this process: statements, commits, requests and answers.

    Between two of them, one moment for harm is like another.
    """

    def __init__(self, last: int | None, harm: str) -> None:
        self.count = 0
        self._last = last
        self._harm = harm
        self._lock = threading.Lock()
        # The one of the thread that works on the database.
        self._database = connections[DEFAULT_DB_ALIAS]
        self._server_side = 0
        if last == 0 and harm == "cut":
            self._database.ensure_connection()
            self._server_side = _server_side_of(self._database)
        if last == 0:
            self._do_harm()

    @contextmanager
    def counted(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self._database.execute_wrapper(self._statement))
            for owner, name, counting in (
                (BaseDatabaseWrapper, "_commit", self._statement),
                (HTTPConnection, "endheaders", self._message),
                (HTTPConnection, "getresponse", self._message),
            ):
                # A partialmethod is told the instance before its own arguments.
                counted = partialmethod(_call, counting, getattr(owner, name))
                stack.enter_context(patch.object(owner, name, counted))
            yield

    def _statement(self, do: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = do(*args, **kwargs)
        if self._harm == "cut":
            # Noted here, for a thread that calls the provider may not touch the connection.
            self._server_side = _server_side_of(self._database)
        if self._take():
            # Its answer is lost, too.
            with self._database.wrap_database_errors:
                self._database.connection.cursor().execute("SELECT 1")
        return result

    def _message(self, do: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = do(*args, **kwargs)
        self._take()
        return result

    def _take(self) -> bool:
        """Whether harm has been done."""
        with self._lock:
            self.count += 1
            is_time = self.count == self._last
        if is_time:
            self._do_harm()
        return is_time

    def _do_harm(self) -> None:
        if self._harm == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        _cut(self._database, self._server_side)


def _call(
    instance: object,
    through: Callable[..., Any],
    do: Callable[..., Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    return through(do, instance, *args, **kwargs)


def _server_side_of(database: BaseDatabaseWrapper) -> int:
    """What the server calls its end of this connection."""
    driver: Any = database.connection
    number: int = driver.info.backend_pid if database.vendor == "postgresql" else driver.thread_id()
    return number


def _cut(database: BaseDatabaseWrapper, server_side: int) -> None:
    """Have the server end this connection."""
    other = database.copy()
    with other.cursor() as cursor:
        if database.vendor == "postgresql":
            cursor.execute("SELECT pg_terminate_backend(%s, 10000)", [server_side])
        else:
            cursor.execute("KILL %s", [server_side])
    other.close()


def _limit_room(whose: str, pages: int) -> None:
    with database.cursor() as cursor:
        cursor.execute("PRAGMA page_count")
        most = cursor.fetchone()[0] + pages
        cursor.execute("PRAGMA page_size")
        size = most * cursor.fetchone()[0]
    if whose == "file":
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return

    def limit_pages(**kwargs: Any) -> None:
        with database.cursor() as cursor:
            cursor.execute(f"PRAGMA max_page_count = {most}")

    limit_pages()
    # SQLite keeps it for one connection, and a run opens another after an error.
    connection_created.connect(limit_pages, weak=False)


def _command(*arguments: str) -> dict[str, Any]:
    """A management command; its exit code, and the error it ended with."""
    try:
        call_command(*arguments, stdout=io.StringIO(), stderr=io.StringIO())
    except CommandError as error:
        return {"code": error.returncode, "error": str(error)}
    return {"code": 0, "error": ""}


def _post(cookies: dict[str, str], path: str, data: Any, content_type: str = "") -> int:
    """A web worker that is sent this; the status it answers with. Raises what the view raises."""
    client = Client()
    client.cookies.load(cookies)
    return client.post(path, data, content_type=content_type or MULTIPART_CONTENT).status_code


def _on_connection(pk: int, method: str) -> Any:
    """A method of a connection: ``revoke``, ``get_access_token``, ``delete``."""
    from django_leadexec.models import LeadExecConnection

    return str(getattr(LeadExecConnection.objects.get(pk=pk), method)())


def _delete_user(pk: int) -> None:
    get_user_model().objects.get(pk=pk).delete()


WORKS: dict[str, Callable[..., Any]] = {
    "command": _command,
    "post": _post,
    "on connection": _on_connection,
    "delete user": _delete_user,
}


if __name__ == "__main__":
    main()
