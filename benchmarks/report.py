"""What came out: rows of the table, the table itself, and the machine it was made on."""

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = [
    *("django", "requests", "urllib3", "cryptography", "psycopg", "mysqlclient"),
    "social-auth-app-django",
]


@dataclass
class Row:
    """One line of the table.

    ``ratio`` is the median of what the pairs gave, ``lowest`` and ``highest`` their extremes.
    ``wanted`` is a bound, like ">= 1.0". ``values`` holds, by unit, the medians of what is measured
    and of what it is measured against (or one number, of the first alone).
    """

    name: str
    what: str
    case: str
    ratio: float
    lowest: float
    highest: float
    pairs: int
    wanted: str = ""
    values: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        name: str,
        what: str,
        case: str,
        ratios: Sequence[float],
        values: Mapping[str, Sequence[float]],
        wanted: str = "",
    ) -> "Row":
        return cls(
            name=name,
            what=what,
            case=case,
            ratio=_rounded(statistics.median(ratios)),
            lowest=_rounded(min(ratios)),
            highest=_rounded(max(ratios)),
            pairs=len(ratios),
            wanted=wanted,
            values={key: list(map(_rounded, medians)) for key, medians in values.items()},
        )


def _rounded(value: float) -> float:
    return float(f"{value:.3g}") if abs(value) < 1000 else float(round(value))


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown that is also fit to be read as it is."""
    lines = [("measured", "case", "ratio", "lowest to highest", "wanted", "medians")]
    lines += [
        (
            row.what,
            row.case,
            f"{row.ratio:g}",
            f"{row.lowest:g} to {row.highest:g} ({row.pairs})",
            row.wanted,
            "; ".join(
                f"{key} {' : '.join(f'{value:g}' for value in medians)}"
                for key, medians in row.values.items()
            ),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))  # type: ignore[arg-type]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )


def rest(result: dict[str, Any]) -> str:
    """What there is beside the table, in plain lines."""
    lines = []
    for vendor, plans in result.get("plans", {}).items():
        for plan in plans:
            lines += [f"-- {vendor}: {plan['statement']}", *plan["plan"], ""]
    for vendor, profile in result.get("profiles", {}).items():
        lines.append(f"{vendor}, CPU µs for one token")
        lines += [f"{value:8.1f}  {step}" for step, value in profile["steps"].items()]
        lines += ["", "the same under cProfile, which is slower: each function's own µs"]
        lines += [
            f"{line['us']:8.1f}  {line['function']} ({line['calls']:g} calls)"
            for line in profile["functions"]
        ]
        lines.append("")
    for vendor, day in result.get("days", {}).items():
        lines += [vendor, *(f"  {key}: {value}" for key, value in day.items()), ""]
    lines += [f"skipped: {reason}" for reason in result["skipped"]]
    described = result["machine"]
    lines.append("packages: " + " ".join(f"{k} {v}" for k, v in described["packages"].items()))
    lines += [f"{key}: {value}" for key, value in described.items() if key != "packages"]
    return "\n".join(lines) + "\n"


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": _memory(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
