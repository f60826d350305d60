"""Waits end in a test that has stopped the clocks."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import async_to_sync

import django_leadexec
from django_leadexec import clock, rotation
from django_leadexec.exceptions import ProviderUnavailable
from django_leadexec.models import LeadExecConnection
from django_leadexec.refresh.options import Options, Report
from django_leadexec.refresh.refresher import Refresher

from ..concurrency.threads import begin
from ..factories import make_connection, make_due_connections
from ..needs import import_or_skip
from ..provider import Provider, fresh, throttling, unavailable

freezegun = import_or_skip("freezegun")
time_machine = import_or_skip("time_machine")

pytestmark = pytest.mark.django_db(transaction=True)


def stopped_by_freezegun() -> Any:
    return freezegun.freeze_time(time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()))


def stopped_by_time_machine() -> Any:
    return time_machine.travel(time.time(), tick=False)


STOPPED = [stopped_by_freezegun, stopped_by_time_machine]


@pytest.fixture(params=STOPPED, ids=["freezegun", "time-machine"])
def with_clocks_stopped(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], Any]:
    """Do something while the clocks stand still. Fails if it does not end."""

    def do(work: Callable[[], Any]) -> Any:
        with request.param():
            before = time.time()
            outcome = begin(work).result()
            assert time.time() == before
        return outcome

    return do


Stopped = Callable[[Callable[[], Any]], Any]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_page_does_not_wait_for_ever_for_another_process(
    provider: Provider, configure: Any, with_clocks_stopped: Stopped, is_async: bool
) -> None:
    row = make_connection("t", expires_in=-1)
    LeadExecConnection.objects.order_by("pk").claim(1, 3_600)
    configure(TIMEOUT=0.3)
    get = async_to_sync(row.aget_access_token) if is_async else row.get_access_token
    error = with_clocks_stopped(get)
    assert isinstance(error, ProviderUnavailable)
    assert "Another process" in str(error)


def test_a_page_gets_a_token(provider: Provider, with_clocks_stopped: Stopped) -> None:
    row = make_connection("t", expires_in=-1)
    assert with_clocks_stopped(row.get_access_token) == "access-1-for-t"


def test_a_run_waits_as_long_as_a_retry_after_says(
    provider: Provider, with_clocks_stopped: Stopped
) -> None:
    make_due_connections(3)

    def answer_from_the_second_call_on(provider: Provider, token: str) -> bytes:
        provider.default = fresh
        return throttling(1)(provider, token)

    provider.default = answer_from_the_second_call_on
    options = Options.for_all("default", workers=1)
    report = with_clocks_stopped(Refresher(options).run)
    assert (report.refreshed, report.failed) == (2, 1)


def test_a_run_gives_up_in_an_outage(provider: Provider, with_clocks_stopped: Stopped) -> None:
    # Many more than may be under way when the run notices, on a busy machine too.
    make_due_connections(200)
    provider.default = unavailable
    options = Options.for_all("default", workers=4, batch_size=5)
    report = with_clocks_stopped(Refresher(options).run)
    assert report.outage
    assert report.failed < 200


def test_a_run_at_a_rate_ends(provider: Provider, with_clocks_stopped: Stopped) -> None:
    make_due_connections(5)
    options = Options.for_all("default", workers=2, rate=20.0)
    assert with_clocks_stopped(Refresher(options).run).refreshed == 5


def test_a_run_ends_when_its_time_is_over(provider: Provider, with_clocks_stopped: Stopped) -> None:
    make_due_connections(50)

    def answer_slowly(provider: Provider, token: str) -> bytes:
        time.sleep(0.1)  # the stand-in's own latency is a wait by a clock
        return fresh(provider, token)

    provider.default = answer_slowly
    options = Options.for_all("default", workers=1, seconds=0.5)
    report = with_clocks_stopped(Refresher(options).run)
    assert 0 < report.left < 50


def test_a_watch_reports(provider: Provider, with_clocks_stopped: Stopped) -> None:
    stop, reports = threading.Event(), []

    def report(counts: Report) -> None:
        reports.append(counts)
        if len(reports) == 2:
            stop.set()

    refresher = Refresher(Options.for_all("default", watching=True), stop=stop)
    with_clocks_stopped(lambda: refresher.watch(report, every=0.2))
    assert len(reports) == 3


def test_a_rotation_does_not_wait_for_ever_for_a_row_that_is_held(
    with_clocks_stopped: Stopped, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_connection("t")
    LeadExecConnection.objects.order_by("pk").claim(1, 3_600)
    monkeypatch.setattr(rotation, "PATIENCE", 0.1)
    tallies = with_clocks_stopped(lambda: list(rotation.rotate_keys("default")))
    assert tallies[-1].busy == 1


# freezegun gives true times to a function that a thread has called: these are called in none.
@pytest.mark.parametrize("stopped", STOPPED)
@pytest.mark.parametrize("platform", ["linux", "win32"])
def test_the_clock_of_every_platform_goes_on(
    monkeypatch: pytest.MonkeyPatch, platform: str, stopped: Callable[[], Any]
) -> None:
    # Not sys.platform itself, which others read as well.
    monkeypatch.setattr(clock, "sys", SimpleNamespace(platform=platform))
    with stopped():
        first = clock.monotonic()
        threading.Event().wait(0.05)
        assert clock.monotonic() > first


def modules() -> Iterator[Path]:
    root = Path(django_leadexec.__file__).parent
    return (path for path in root.rglob("*.py") if path.name != "clock.py")


def test_the_package_waits_by_no_clock_that_can_be_stopped() -> None:
    naming = re.compile(r"\b(time\.(monotonic|perf_counter)|from time import)\b")
    assert not [path.name for path in modules() if naming.search(path.read_text("utf-8"))]
