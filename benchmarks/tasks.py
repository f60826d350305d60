"""What is measured, each in a process of its own: ``python -m benchmarks.tasks TASK OPTIONS``.

A task is made ready (imports, connections, whatever comes before the work), then done once for
each line of input, and tells in a line of JSON what it took.
"""

import json
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import django
import requests
from django.conf import settings
from requests.adapters import HTTPAdapter

Result = dict[str, Any]
Task = Callable[[], Result]


def engine(*, tokens: int, workers: int, within: float | None = None) -> Task:
    """The command's engine."""
    from django_leadexec.refresh import Options, Refresher

    options = Options.for_all("default", workers=workers, limit=tokens, within=within)

    def run() -> Result:
        report = Refresher(options).run()
        if report.refreshed != tokens:
            raise RuntimeError(f"The engine did not refresh {tokens}: {report}")
        return {"count": tokens}

    return run


def pool(*, tokens: int, workers: int) -> Task:
    """A thread pool over one ``requests`` session, as one would write it; no database."""
    from .databases import TOKEN

    session = requests.Session()
    session.mount("http://", HTTPAdapter(pool_maxsize=workers))
    url = f"{settings.LEADEXEC['BASE_URL']}/authorize/refreshaccesstoken/"

    def ask(token: str) -> str:
        response = session.get(url + token, params={"appid": "bench"}, timeout=10)
        access_token: str = response.json()["authToken"]
        return access_token

    def run() -> Result:
        with ThreadPoolExecutor(workers) as threads:
            return {"count": sum(map(bool, threads.map(ask, [TOKEN] * tokens)))}

    return run


def peers(*, tokens: int) -> Task:
    """social-auth's ``refresh_token`` in a loop over the rows, as its users do it."""
    from django.contrib.auth import get_user_model
    from social_django.models import UserSocialAuth
    from social_django.utils import load_strategy

    from .databases import ACCESS_TOKEN, TOKEN

    user = get_user_model().objects.earliest("pk")
    data = {"refresh_token": TOKEN, "access_token": ACCESS_TOKEN, "expires": 3600}
    UserSocialAuth.objects.all().delete()
    UserSocialAuth.objects.bulk_create(
        UserSocialAuth(user=user, provider="stand-in", uid=str(number), extra_data=data)
        for number in range(tokens)
    )

    def run() -> Result:
        strategy = load_strategy()  # type: ignore[no-untyped-call]
        for row in UserSocialAuth.objects.filter(provider="stand-in"):
            row.refresh_token(strategy)
        return {"count": tokens}

    return run


def imports(*, rows: int) -> Task:
    """The import command's engine, on a file of new tokens. It writes the file first."""
    from django.contrib.auth import get_user_model
    from django.db import connection

    from django_leadexec.importing import Importer, ImportOptions, TokenFile

    names = list(get_user_model().objects.values_list("username", flat=True))
    options = ImportOptions(using="default", user_field="username")

    if connection.vendor == "sqlite":
        # Each row has a commit of its own, and how fast the disk is does not matter here.
        connection.cursor().execute("PRAGMA synchronous = OFF")

    def run() -> Result:
        stop = threading.Event()
        importer = Importer(options, _fail, stop)
        file.seek(0)
        importer.run(TokenFile(file, "csv", importer.complain, stop))
        if importer.tally.imported != rows:
            raise RuntimeError(f"The import did not take {rows}: {importer.tally}")
        return {"count": rows}

    file = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - until the process ends
    file.write("user,token,account\n")
    for number in range(rows):
        # An account of its own, so that a user can have several connections.
        name = f"{rows}-{number}"
        file.write(f"{names[number % len(names)]},token-{name},account-{name}\n")
    return run


def _fail(line: int, reason: str) -> None:
    raise RuntimeError(f"Line {line}: {reason}")


def claim(*, ahead: float, times: int) -> Task:
    """Claim a batch of what is due in ``ahead`` seconds, and give it back (outside the time)."""
    from django_leadexec.conf import get_settings
    from django_leadexec.models import LeadExecConnection
    from django_leadexec.refresh import Options
    from django_leadexec.refresh.due import due_connections

    options = Options.for_all("default")

    def run() -> Result:
        took = []
        for _ in range(times):
            due = due_connections(options, get_settings(), time.time() + ahead)
            begun = time.perf_counter()
            claims = due.claim(options.batch_size, 25)
            took.append(time.perf_counter() - begun)
            LeadExecConnection.objects.release(claims)
        return {"count": 1, "seconds": statistics.median(took), "rows": len(claims)}

    return run


def plans() -> Task:
    """The query plans of all statements of a run that refreshes one batch."""
    from .plans import of_a_run

    return lambda: {"count": 1, "plans": of_a_run()}


def profile(*, tokens: int) -> Task:
    """Where one refresh's time goes."""
    from .profiling import of_tokens

    return lambda: {"count": tokens, "profile": of_tokens(tokens)}


def watch(*, speed: float, seconds: float) -> Task:
    """``--watch``, sped up."""
    from . import day

    return lambda: day.watch(speed, seconds)


def row(*, times: int) -> Task:
    """One row read by its key: the unit for what a page costs."""
    from django_leadexec.models import LeadExecConnection

    pk = LeadExecConnection.objects.earliest("pk").pk
    return _repeated(lambda: LeadExecConnection.objects.get(pk=pk), times)


def stored_token(*, times: int) -> Task:
    """``get_access_token`` of a connection whose stored token lives."""
    from .pages import connected_user

    connection = connected_user().leadexec_connections.get()
    return _repeated(connection.get_access_token, times)


def button(*, connected: bool, times: int) -> Task:
    """The template tag, for a connected user or for an anonymous visitor."""
    from .pages import button_renderer

    return _repeated(button_renderer(connected=connected), times)


def load(*, calls: int, sockets: int) -> Task:
    """As many calls as this process can make: what the stand-in can do."""
    from .load import of_calls

    return lambda: {"count": of_calls(str(settings.LEADEXEC["BASE_URL"]), calls, sockets)}


def _repeated(act: Callable[[], object], times: int) -> Task:
    from django.db import connection as database
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(database) as queries:
        act()

    def run() -> Result:
        for _ in range(times):
            act()
        return {"count": times, "queries": len(queries)}

    return run


TASKS = (
    engine,
    pool,
    peers,
    imports,
    claim,
    plans,
    profile,
    watch,
    row,
    stored_token,
    button,
    load,
)


def peak_memory() -> float:
    """The most memory this process has held, in MiB."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return kilobytes / (2**20 if sys.platform == "darwin" else 2**10)
    # Not ru_maxrss, which on Linux begins with what the parent process held.
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


def measure(run: Task) -> Result:
    cpu, begun = time.process_time(), time.perf_counter()
    result = run()
    took = {
        "seconds": time.perf_counter() - begun,
        "cpu": time.process_time() - cpu,
        "peak_mib": peak_memory(),
    }
    return took | result


def main(task: str, options: str) -> None:
    django.setup()
    from django.db import connection as database
    from django.db.backends.base.base import BaseDatabaseWrapper

    # DEBUG is on only for the http of the stand-in; that it also keeps all queries isn't meant.
    BaseDatabaseWrapper.queries_logged = property(lambda self: self.force_debug_cursor)  # type: ignore[assignment]
    if "LEADEXEC_BENCH_DATABASE" in os.environ:
        database.ensure_connection()
    run = {task.__name__: task for task in TASKS}[task](**json.loads(options))
    _say({"ready": task})
    for _ in sys.stdin:
        _say(measure(run))


def _say(message: Result) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
