"""Where one refresh's time goes: the engine's steps one after the other, in one thread."""

import cProfile
import pstats
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from django_leadexec import lifecycle
from django_leadexec.conf import get_settings
from django_leadexec.models import LeadExecConnection
from django_leadexec.provider.client import get_client
from django_leadexec.refresh import Options, Refresher
from django_leadexec.refresh.due import due_connections

SHOWN = 40


def of_tokens(tokens: int) -> dict[str, Any]:
    """CPU microseconds for a token: by step, in the engine as it is, and by function."""
    steps = _steps(tokens)
    steps["all of these, one after the other"] = sum(steps.values())
    for workers in (1, 16):
        begun = time.process_time()
        report = Refresher(Options.for_all("default", workers=workers, limit=tokens)).run()
        spent = time.process_time() - begun
        steps[f"the engine, {workers} workers"] = spent / report.refreshed * 1e6
    profiler = cProfile.Profile()
    profiler.runcall(_steps, tokens)
    stats: dict[Any, Any] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    own = sorted(((data[2], data[0], where) for where, data in stats.items()), reverse=True)
    functions = [
        {
            "us": round(seconds / tokens * 1e6, 1),
            "calls": round(calls / tokens, 2),
            "function": f"{'/'.join(Path(file).parts[-2:])}:{line} {name}",
        }
        for seconds, calls, (file, line, name) in own[:SHOWN]
    ]
    return {"steps": {name: round(us, 1) for name, us in steps.items()}, "functions": functions}


def _steps(tokens: int) -> dict[str, float]:
    conf, client = get_settings(), get_client()
    options = Options.for_all("default")
    manager = LeadExecConnection.objects.using("default")
    spent: dict[str, float] = defaultdict(float)
    done = 0
    mark = time.thread_time()

    def ends(step: str) -> None:
        nonlocal mark
        now = time.thread_time()
        spent[step] += now - mark
        mark = now

    while done < tokens:
        due = due_connections(options, conf, time.time())
        claims = due.claim(min(options.batch_size, tokens - done), 85)
        ends("claim")
        refresh_tokens = [claim.row.refresh_token.decrypt().reveal() for claim in claims]
        ends("decrypt")
        outcomes = [client.refresh(token, conf.app_id) for token in refresh_tokens]
        ends("call, and read the reply")
        for claim, outcome in zip(claims, outcomes, strict=True):
            lifecycle.record(claim, outcome)
        ends("put the answer on the row, encrypted")
        if manager.all().write_claimed(claims).lost:
            raise RuntimeError("Somebody else is at these rows.")
        ends("write")
        for claim, outcome in zip(claims, outcomes, strict=True):
            lifecycle.announce(claim, outcome)
        ends("signals")
        done += len(claims)
    return {step: seconds / done * 1e6 for step, seconds in spent.items()}
