"""A PostgreSQL server that goes away while commands are at work, and comes back."""

import json
import signal
import subprocess
from collections.abc import Iterator

import pytest
from django.core.management import call_command
from django.db import connection

from .. import processes
from ..factories import make_due_connections, plain
from ..provider import Provider, fresh_until
from .cluster import Cluster
from .recovery import (
    assert_nothing_is_lost,
    end_leases,
    kept_tokens,
    recover,
    rows,
    settle,
    start_over,
)

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.cluster,
    pytest.mark.django_db(transaction=True),
]
BATCHES = ("--workers=2", "--batch-size=5")


@pytest.fixture(scope="module")
def running_cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(running_cluster: Cluster, provider: Provider) -> Iterator[Cluster]:
    """The server that all of a test's processes are connected to, in place of the usual one."""
    connection.close()
    usual = dict(connection.settings_dict)
    connection.settings_dict |= {
        "HOST": "127.0.0.1",
        "PORT": running_cluster.port,
        "USER": "postgres",
        "PASSWORD": "",
        "NAME": "postgres",
        # What has been committed has to survive, here.
        "OPTIONS": usual["OPTIONS"] | {"options": "-c synchronous_commit=on"},
    }
    try:
        call_command("migrate", verbosity=0)
        start_over(provider)
        yield running_cluster
    finally:
        connection.close()
        connection.settings_dict |= usual


def done(provider: Provider) -> int:
    return len(provider.refreshes)


def assert_ended_by_the_database(process: "subprocess.Popen[str]") -> None:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert "The database failed: " in err
    assert "Traceback" not in err
    assert out == ""


def test_a_run_that_loses_its_server_exits_with_2_and_the_next_does_the_rest(
    cluster: Cluster, provider: Provider
) -> None:
    tokens = [plain(row.refresh_token) for row in make_due_connections(60)]
    provider.latency, provider.default = 0.05, fresh_until(15)
    process = processes.start(provider, "refresh_leadexec_tokens", "--json", *BATCHES)
    processes.wait_until(provider.held.is_set)
    processes.wait_until(lambda: rows.exclude(expires_at=None).exists())
    cluster.restart()
    provider.default = None
    provider.held.clear()
    assert_ended_by_the_database(process)
    connection.close()
    assert 0 < rows.filter(expires_at=None).count() < 60
    assert_nothing_is_lost(provider, tokens)
    recover(provider)
    assert kept_tokens().keys() == set(tokens)


def test_a_watch_that_loses_its_server_goes_on_by_itself(
    cluster: Cluster, provider: Provider
) -> None:
    tokens = [plain(row.refresh_token) for row in make_due_connections(40)]
    provider.latency = 0.05
    process = processes.start(provider, "refresh_leadexec_tokens", "--watch", "--json", *BATCHES)
    processes.wait_until(lambda: done(provider) >= 15)
    cluster.stop()
    settle(provider)
    cluster.start()
    connection.close()
    end_leases(provider)
    later = [plain(row.refresh_token) for row in make_due_connections(5, "later")]
    processes.wait_until(lambda: not rows.filter(expires_at=None).exists())
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "The database failed (OperationalError); trying again." in err
    assert json.loads(out.splitlines()[-1])["pending"] == 0
    assert_nothing_is_lost(provider, [*tokens, *later])
    recover(provider)


@pytest.mark.parametrize("command", ["refresh_leadexec_tokens", "rotate_leadexec_keys"])
def test_a_command_that_finds_no_server_exits_with_2(
    cluster: Cluster, provider: Provider, command: str
) -> None:
    cluster.stop()
    try:
        assert_ended_by_the_database(processes.start(provider, command))
    finally:
        cluster.start()
    assert not provider.calls
