"""How long the tests of each folder took, printed at the end of a run."""

from collections import Counter, defaultdict
from pathlib import PurePosixPath

import pytest

_seconds: dict[str, float] = defaultdict(float)
_tests: Counter[str] = Counter()


def record(report: pytest.TestReport) -> None:
    """Add the time of a test's set-up, call or tear-down to its folder."""
    folder = str(PurePosixPath(report.nodeid.partition("::")[0]).parent)
    _seconds[folder] += report.duration
    _tests[folder] += report.when == "call"


def lines() -> list[str]:
    """A line a folder, the longest first. The times of parallel workers are added up."""
    return [
        f"{seconds:8.1f} s  {_tests[folder]:5} tests  {folder}"
        for folder, seconds in sorted(_seconds.items(), key=lambda item: -item[1])
    ]
