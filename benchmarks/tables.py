"""Rows of the table that need no load: pages, and what grows (or doesn't) with the table."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from .databases import TITLES, database
from .measures import Size, both, cost, in_pairs, middle, ratios, speed
from .processes import Result, StandIn, Worker
from .report import Row

# Fewer than a batch, so that a claim of what is due now has to end without having found enough.
DUE = 100
DAY = 86_400


def _took(result: Result) -> float:
    """Seconds for one."""
    return float(result["seconds"] / result["count"])


def _peak(result: Result) -> float:
    return float(result["peak_mib"])


def pages(size: Size, vendor: str) -> Iterator[Row]:
    """What a page pays, in reads of one row by its key."""
    alias = f"{vendor}_work"
    subjects: dict[str, tuple[str, dict[str, Any]]] = {
        "leadexec_button, anonymous": ("button", {"connected": False}),
        "leadexec_button, connected": ("button", {"connected": True}),
        "get_access_token, stored": ("stored_token", {}),
    }
    with database(alias, DUE, 0), Worker("row", alias, times=size.times) as baseline:
        for what, (task, options) in subjects.items():
            with Worker(task, alias, times=size.times, **options) as subject:
                pairs = in_pairs(size, subject.run, baseline.run)
            yield Row.of(
                "pages",
                f"{what} ÷ reading one row",
                TITLES[vendor],
                ratios(pairs, _took),
                {
                    "µs": both(pairs, lambda result: _took(result) * 1e6),
                    "queries": [middle(pairs, 0, lambda result: float(result["queries"]))],
                },
                "0 queries" if "anonymous" in what else "1 query",
            )


@contextmanager
def tables(size: Size, vendor: str) -> Iterator[list[tuple[str, str]]]:
    """Three databases that differ in their number of rows, as (alias, number)."""
    names = ("small", "middle", "large")
    with ExitStack() as stack:
        made = []
        for name, rows in zip(names, size.rows, strict=True):
            stack.enter_context(database(f"{vendor}_{name}", rows, DUE))
            made.append((f"{vendor}_{name}", f"{rows:,}"))
        yield made


def claim(size: Size, vendor: str, made: Sequence[tuple[str, str]]) -> Iterator[Row]:
    """The time to claim a batch ÷ the same on the smallest table."""
    (smallest, least), *others = made
    cases = {"all of them due": DAY, f"{DUE} of them due": 0}
    for case, ahead in cases.items():
        options: dict[str, Any] = {"ahead": ahead, "times": size.claims}
        with Worker("claim", smallest, **options) as baseline:
            for alias, rows in others:
                with Worker("claim", alias, **options) as subject:
                    pairs = in_pairs(size, subject.run, baseline.run)
                yield Row.of(
                    "claim",
                    f"time to claim a batch, {rows} rows ÷ {least}",
                    f"{TITLES[vendor]}, {case}",
                    ratios(pairs, _took),
                    {
                        "ms": both(pairs, lambda result: _took(result) * 1000),
                        "rows claimed": both(pairs, lambda result: float(result["rows"])),
                    },
                    "<= 1.5" if (alias, rows) == others[-1] else "",
                )


def memory(size: Size, vendor: str, made: Sequence[tuple[str, str]]) -> Iterator[Row]:
    """Peak memory of a run on the largest table ÷ the same on the smallest.

    Both refresh as many: all rows are due (by ``--within``), and ``--limit`` ends the run.
    """
    tokens = min(size.rows[0], size.tokens(0, 16))
    (smallest, least), *_, (largest, most) = made
    with StandIn(0) as stand_in:

        def run(alias: str) -> Result:
            # A process only has one peak, so each run has a process.
            options: dict[str, Any] = {"tokens": tokens, "workers": 16, "within": DAY}
            with Worker("engine", alias, stand_in.url, **options) as worker:
                return worker.run()

        pairs = in_pairs(size, lambda: run(largest), lambda: run(smallest))
    yield Row.of(
        "memory",
        f"peak memory, {most} rows ÷ {least}",
        f"{TITLES[vendor]}, {tokens:,} tokens, 16 workers",
        ratios(pairs, _peak),
        {
            "peak MiB": both(pairs, _peak),
            "CPU s/1000": both(pairs, cost),
        },
        "<= 1.1",
    )


def imports(size: Size, vendor: str) -> Iterator[Row]:
    """Peak memory of an import of many rows ÷ the same of a tenth of them.

    One pair: the larger import takes minutes, and a peak of memory hardly varies.
    """
    alias, (few, many, _most) = f"{vendor}_work", size.rows

    def run(rows: int) -> Result:
        with Worker("imports", alias, stand_in.url, rows=rows) as worker:
            return worker.run()

    with database(alias, DUE, 0), StandIn(0) as stand_in:
        pairs = [(run(many), run(few))]
    yield Row.of(
        "imports",
        f"peak memory of an import, {many:,} rows ÷ {few:,}",
        f"{TITLES[vendor]}, 8 workers",
        ratios(pairs, _peak),
        {
            "peak MiB": both(pairs, _peak),
            "rows/s": both(pairs, speed),
            "CPU s/1000": both(pairs, cost),
        },
        "<= 1.1",
    )


def capacity(size: Size) -> Iterator[Row]:
    """What the stand-in can do ÷ what the bare pool asks of it."""
    calls = size.tokens(0, 16) * 5
    with (
        StandIn(0) as stand_in,
        Worker("load", provider=stand_in.url, calls=calls, sockets=64) as subject,
        Worker("pool", provider=stand_in.url, tokens=calls // 5, workers=16) as baseline,
    ):

        def run() -> Result:
            before = stand_in.stats()
            result = subject.run()
            after = stand_in.stats()
            return result | {"stand_in": after["cpu"] - before["cpu"]}

        pairs = in_pairs(size, run, baseline.run)
    yield Row.of(
        "capacity",
        "stand-in's calls/s ÷ the pool's",
        "0 ms, 64 sockets of a bare caller",
        ratios(pairs, speed),
        {
            "calls/s": both(pairs, speed),
            "stand-in's CPU µs a call": [
                middle(pairs, 0, lambda it: it["stand_in"] / it["count"] * 1e6)
            ],
        },
        ">= 10",
    )
