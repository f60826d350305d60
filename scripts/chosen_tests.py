"""A pytest plugin for ``mutate.py``: notes how long tests take, and runs chosen ones in order."""

import faulthandler
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

# Where to write {test: seconds}, and where to read {test: most seconds} of the tests to run.
NOTE_AT = os.environ.get("LEADEXEC_NOTE_SECONDS")
CHOSEN = os.environ.get("LEADEXEC_CHOSEN_TESTS")

_chosen: dict[str, float] = json.loads(Path(CHOSEN).read_text("utf-8")) if CHOSEN else {}
_seconds: defaultdict[str, float] = defaultdict(float)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CHOSEN:
        order = {test: place for place, test in enumerate(_chosen)}
        items[:] = sorted(
            (item for item in items if item.nodeid in order), key=lambda item: order[item.nodeid]
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """End the process if the test does not end: a change may have made it wait for ever."""
    if not CHOSEN:
        return (yield)
    faulthandler.dump_traceback_later(_chosen[item.nodeid], exit=True)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _seconds[report.nodeid] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    if NOTE_AT and not hasattr(session.config, "workerinput"):
        Path(NOTE_AT).write_text(json.dumps(_seconds), "utf-8")
