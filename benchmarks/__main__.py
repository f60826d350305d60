"""``python -m benchmarks``: runs what was asked for and prints one table."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"
django.setup()

from django.conf import settings  # noqa: E402
from django.core.exceptions import ImproperlyConfigured  # noqa: E402
from django.db import DatabaseError  # noqa: E402

from . import databases, day, measures, report, tables  # noqa: E402
from .processes import StandIn, Worker  # noqa: E402
from .report import Row  # noqa: E402

ON_EACH = {
    "engine": measures.engine,
    "peers": measures.peers,
    "processes": measures.processes,
    "pages": tables.pages,
}
# In this order: the claims give back what they take, the runs do not.
ON_TABLES = {"claim": tables.claim, "memory": tables.memory}
NAMES = ("capacity", "imports", *ON_EACH, *ON_TABLES)


def main(arguments: Sequence[str]) -> None:
    flags = _flags(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    size = measures.SIZES[flags.size]
    result: dict[str, Any] = {"machine": report.machine(), "size": asdict(size), "skipped": []}
    vendors = []
    for vendor in flags.database or databases.TITLES:
        try:
            result["machine"]["packages"][vendor] = databases.version(vendor)
            vendors.append(vendor)
        except (ImproperlyConfigured, DatabaseError) as error:
            reason = " ".join(str(error).split())[:200]
            result["skipped"].append(f"{databases.TITLES[vendor]}: {reason}")
    if flags.profile:
        result["profiles"] = {vendor: _profile(size, vendor) for vendor in vendors}
    elif flags.day:
        result["days"] = {vendor: day.play(day.DAYS[flags.size], vendor) for vendor in vendors}
    elif flags.plans:
        result["plans"] = {vendor: _plans(size, vendor) for vendor in vendors}
    else:
        names = flags.only or NAMES
        if "peers" in names and "social_django" not in settings.INSTALLED_APPS:
            result["skipped"].append("peers: social-auth-app-django is not installed")
            names = [name for name in names if name != "peers"]
        rows = []
        for row in _rows(size, names, vendors):
            sys.stderr.write(f"{row.what}; {row.case}: {row.ratio:g}\n")
            rows.append(row)
        result["rows"] = [asdict(row) for row in rows]
        if not flags.json:
            sys.stdout.write(report.table(rows) + "\n\n")
    if flags.json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        sys.stdout.write(report.rest(result))


def _flags(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=NAMES, help="only these rows (may be repeated)"
    )
    parser.add_argument(
        "--database",
        action="append",
        choices=list(databases.TITLES),
        help="only on these databases (may be repeated)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--size", choices=list(measures.SIZES), default="full")
    parser.add_argument(
        "--quick", action="store_const", dest="size", const="quick", help="--size quick"
    )
    parser.add_argument(
        "--plans", action="store_true", help="query plans of a run on the largest table instead"
    )
    parser.add_argument(
        "--profile", action="store_true", help="where one refresh's time goes instead"
    )
    parser.add_argument(
        "--day", action="store_true", help="a day of --watch, sped up, outages included, instead"
    )
    return parser.parse_args(arguments)


def _rows(size: measures.Size, names: Sequence[str], vendors: Sequence[str]) -> Iterator[Row]:
    if "capacity" in names:
        yield from tables.capacity(size)
    if "imports" in names:
        # On one alone: what it is about lies in the process, not in the database.
        for vendor in vendors[:1]:
            yield from tables.imports(size, vendor)
    for name, measure in ON_EACH.items():
        for vendor in vendors if name in names else ():
            yield from measure(size, vendor)
    on_tables = [measure for name, measure in ON_TABLES.items() if name in names]
    for vendor in vendors if on_tables else ():
        with tables.tables(size, vendor) as made:
            for measure_tables in on_tables:
                yield from measure_tables(size, vendor, made)


def _plans(size: measures.Size, vendor: str) -> Any:
    alias = f"{vendor}_large"
    with (
        databases.database(alias, size.rows[-1], 1_000),
        StandIn(0) as stand_in,
        Worker("plans", alias, stand_in.url) as worker,
    ):
        return worker.run()["plans"]


def _profile(size: measures.Size, vendor: str) -> Any:
    alias, tokens = f"{vendor}_work", size.tokens(0, 16) // 4
    with (
        databases.database(alias, 4 * tokens, 4 * tokens),
        StandIn(0) as stand_in,
        Worker("profile", alias, stand_in.url, tokens=tokens) as worker,
    ):
        return worker.run()["profile"]


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
