"""Commands in processes of their own, on the test's database and provider."""

import asyncio
import inspect
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from django.db import connection

from .concurrency.threads import PATIENCE
from .provider import Provider


def start(provider: Provider, *arguments: str) -> "subprocess.Popen[str]":
    """``manage.py`` with these arguments, its output piped."""
    return start_module(provider, "django", *arguments)


def start_module(
    provider: Provider | None,
    *arguments: str,
    start_new_session: bool = False,
    **environment: str,
) -> "subprocess.Popen[str]":
    """``python -m`` with these arguments, in this environment."""
    command = (sys.executable, "-m", *arguments)
    return start_program(provider, *command, start_new_session=start_new_session, **environment)


def start_program(
    provider: Provider | None,
    *command: str,
    start_new_session: bool = False,
    **environment: str,
) -> "subprocess.Popen[str]":
    """A program with its arguments, in this environment."""
    return subprocess.Popen(
        command,
        env=os.environ
        | {
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "DATABASE_URL": database_url(),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        | ({"LEADEXEC_TEST_PROVIDER": provider.url} if provider else {})
        | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=start_new_session,
    )


# Seconds. Long enough for a visit with every stack recorded, beside other load.
SCENARIO_TIMEOUT = 600


def run_scenario(package: str, **environment: str) -> str:
    """What ``python -m PACKAGE.scenario`` prints: it visits a site with settings of its own."""
    environment |= {"DJANGO_SETTINGS_MODULE": f"{package}.settings"}
    process = start_module(None, f"{package}.scenario", start_new_session=False, **environment)
    try:
        out, errors = process.communicate(timeout=SCENARIO_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        out, errors = process.communicate(timeout=PATIENCE)
        raise AssertionError(
            f"{package}.scenario took over {SCENARIO_TIMEOUT} s. {errors}"
        ) from None
    assert process.returncode == 0, errors
    return out


def database_url() -> str:
    database: dict[str, Any] = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{database['NAME']}"
    scheme = {"postgresql": "postgres", "mysql": "mysql"}[connection.vendor]
    user, host, port = (database[key] for key in ("USER", "HOST", "PORT"))
    password = f":{database['PASSWORD']}" if database["PASSWORD"] else ""
    options = database.get("OPTIONS", {}).get("options")
    query = f"?options={quote(options)}" if options else ""
    return f"{scheme}://{user}{password}@{host}:{port}/{database['NAME']}{query}"


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait for something another thread or process does."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, waited_for(condition, seconds)
        time.sleep(0.02)


async def await_until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """The same within an event loop, which goes on meanwhile."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, waited_for(condition, seconds)
        await asyncio.sleep(0.005)


def waited_for(condition: Callable[[], object], seconds: float) -> str:
    """What to say of a wait in vain: a lambda by its source, any other condition by its name."""
    what = getattr(condition, "__qualname__", repr(condition))
    if what.endswith("<lambda>"):
        with suppress(OSError):  # there may be no source
            what = " ".join(inspect.getsource(condition).split())
    return f"waited {seconds:g} s for {what}"


def wait_until_handled(process: "subprocess.Popen[str]") -> None:
    """Wait until the command has taken its first signal: from then on, a SIGTERM would end it."""
    status = Path(f"/proc/{process.pid}/status")

    def catches_sigterm() -> int:
        caught = re.search(r"SigCgt:\s*(\w+)", status.read_text())
        assert caught
        return int(caught[1], 16) >> (signal.SIGTERM - 1) & 1

    if status.exists():  # on Linux
        wait_until(lambda: not catches_sigterm())
    time.sleep(0.2)
