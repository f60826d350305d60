"""The rows of the table: what is measured against what."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from .databases import TITLES, database, make_due
from .processes import Child, Result, StandIn, Worker
from .report import Row

RATE = 3_000  # tokens/s at most that one process is expected to reach, to size its runs
LATENCIES = (0.0, 0.02, 0.1)
TABLES = ("small", "middle", "large")


@dataclass(frozen=True)
class Size:
    """How much is measured. ``seconds``: about how long one run takes."""

    pairs: int
    seconds: float
    rows: tuple[int, int, int]
    times: int
    claims: int

    def tokens(self, latency: float, workers: int) -> int:
        """As many as whole rounds of all workers: a last, half-empty one would distort."""
        rate = min(RATE, workers / latency) if latency else RATE
        return workers * max(round(rate * self.seconds / workers), 1)


SIZES = {
    "full": Size(5, 4.0, (10_000, 100_000, 1_000_000), 1_000, 50),
    "quick": Size(3, 1.0, (1_000, 10_000, 100_000), 200, 20),
    "tiny": Size(1, 0.02, (500, 1_000, 2_000), 5, 2),
}

Pairs = list[tuple[Result, Result]]


def in_pairs(size: Size, subject: Callable[[], Result], baseline: Callable[[], Result]) -> Pairs:
    """Run both in turn, the first of a pair changing, after one pair that doesn't count."""
    pairs = []
    for number in range(-1, size.pairs):
        if number % 2:
            second, first = baseline(), subject()
        else:
            first, second = subject(), baseline()
        if number >= 0:
            pairs.append((first, second))
    return pairs


def speed(result: Result) -> float:
    """Tokens a second."""
    return float(result["count"] / result["seconds"])


def cost(result: Result) -> float:
    """CPU seconds for 1,000 tokens, which are milliseconds for one."""
    return float(result["cpu"] / result["count"] * 1000)


def middle(pairs: Pairs, side: int, of: Callable[[Result], float]) -> float:
    return statistics.median(of(pair[side]) for pair in pairs)


def both(pairs: Pairs, of: Callable[[Result], float]) -> list[float]:
    """The medians of either side."""
    return [middle(pairs, side, of) for side in (0, 1)]


def ratios(pairs: Pairs, of: Callable[[Result], float]) -> list[float]:
    return [of(subject) / of(baseline) for subject, baseline in pairs]


def _workers(latency: float) -> int:
    return 64 if latency == LATENCIES[-1] else 16


def _case(vendor: str, latency: float, workers: int) -> str:
    return f"{TITLES[vendor]}, {latency * 1000:g} ms, {workers} workers"


def _against(
    size: Size, stand_in: StandIn, engine: Worker, other: Worker, due: Callable[[], None]
) -> tuple[Pairs, dict[str, list[float]]]:
    """The engine in pairs with another, and the values that their row shows."""

    def run() -> Result:
        due()
        before = stand_in.stats()
        result = engine.run()
        after = stand_in.stats()
        calls = after["calls"] - before["calls"]
        if calls != result["count"]:
            raise RuntimeError(f"The stand-in saw {calls} calls for {result['count']} tokens.")
        return result | {"stand_in": after["cpu"] - before["cpu"]}

    pairs = in_pairs(size, run, other.run)
    return pairs, {
        "tokens/s": both(pairs, speed),
        "CPU s/1000": both(pairs, cost),
        "peak MiB": both(pairs, lambda result: float(result["peak_mib"])),
        "stand-in's CPU share": [middle(pairs, 0, lambda it: it["stand_in"] / it["seconds"])],
    }


def engine(size: Size, vendor: str) -> Iterator[Row]:
    """The command's engine ÷ a bare thread pool over one ``requests`` session."""
    alias = f"{vendor}_work"
    most = max(size.tokens(latency, _workers(latency)) for latency in LATENCIES)
    with database(alias, most, most):
        for latency in LATENCIES:
            workers = _workers(latency)
            sizes = {"tokens": size.tokens(latency, workers), "workers": workers}
            with (
                StandIn(latency) as stand_in,
                Worker("engine", alias, stand_in.url, **sizes) as subject,
                Worker("pool", alias, stand_in.url, **sizes) as baseline,
            ):
                pairs, values = _against(size, stand_in, subject, baseline, lambda: make_due(alias))
            wanted = ""
            if vendor != "mariadb":
                wanted = {0.0: ">= 1.0", 0.1: ">= 0.98"}.get(latency, "")
            yield Row.of(
                "engine",
                "tokens/s ÷ bare requests pool",
                _case(vendor, latency, workers),
                ratios(pairs, speed),
                values,
                wanted,
            )


def peers(size: Size, vendor: str) -> Iterator[Row]:
    """The command's engine ÷ social-auth's ``refresh_token`` in a loop."""
    alias = f"{vendor}_work"
    latencies = (LATENCIES[0], LATENCIES[-1])
    most = max(size.tokens(latency, _workers(latency)) for latency in latencies)
    with database(alias, most, most):
        for latency in latencies:
            workers = _workers(latency)
            tokens = size.tokens(latency, workers)
            # About what it does in the same time: one call after another, each on a new socket.
            of_peers = max(round(size.seconds / (latency + 0.004)), 1)
            with (
                StandIn(latency) as stand_in,
                Worker("engine", alias, stand_in.url, tokens=tokens, workers=workers) as subject,
                Worker("peers", alias, stand_in.url, tokens=of_peers) as baseline,
            ):
                pairs, values = _against(size, stand_in, subject, baseline, lambda: make_due(alias))
            yield Row.of(
                "peers",
                "tokens/s ÷ social-auth's loop",
                _case(vendor, latency, workers),
                ratios(pairs, speed),
                values,
                ">= 60" if latency else "",
            )


def processes(size: Size, vendor: str) -> Iterator[Row]:
    """Two and four processes ÷ one, each with its share of the rows."""
    alias, latency, workers = f"{vendor}_work", 0.02, 16
    tokens = size.tokens(latency, workers)
    # Enough that the last to claim finds a whole batch unclaimed.
    rows = 4 * tokens + 4 * 200
    with database(alias, rows, rows), StandIn(latency) as stand_in, ExitStack() as stack:
        children = [
            stack.enter_context(
                Worker("engine", alias, stand_in.url, tokens=tokens, workers=workers)
            )
            for _ in range(4)
        ]

        def run(count: int) -> Result:
            make_due(alias)
            before = stand_in.stats()
            results = _together(children[:count])
            after = stand_in.stats()
            calls = after["calls"] - before["calls"]
            if calls != count * tokens:
                raise RuntimeError(f"The stand-in saw {calls} calls for {count * tokens} tokens.")
            return {
                "count": count * tokens,
                "seconds": max(result["seconds"] for result in results),
                "cpu": sum(result["cpu"] for result in results),
                "stand_in": after["cpu"] - before["cpu"],
            }

        for count in (2, 4):
            pairs = in_pairs(size, lambda count=count: run(count), lambda: run(1))  # type: ignore[misc]
            yield Row.of(
                "processes",
                f"tokens/s, {count} processes ÷ one",
                f"{TITLES[vendor]}, 20 ms, {workers} workers each",
                ratios(pairs, speed),
                {
                    "tokens/s": both(pairs, speed),
                    "CPU s/1000": both(pairs, cost),
                    "cores busy, without the database": both(
                        pairs, lambda it: (it["cpu"] + it["stand_in"]) / it["seconds"]
                    ),
                },
                ">= 1.9" if (vendor, count) == ("postgresql", 2) else "",
            )


def _together(children: Sequence[Child]) -> list[Result]:
    for child in children:
        child.start()
    return [child.finish() for child in children]
