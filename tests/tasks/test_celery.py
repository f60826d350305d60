"""The Celery task in real workers, on Redis and on RabbitMQ."""

import importlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from django_leadexec.models import LeadExecConnection

from .. import processes
from ..factories import make_due_connections, plain
from ..needs import import_or_skip
from ..provider import Provider
from . import ROWS

celery = import_or_skip("celery")

pytestmark = pytest.mark.django_db(transaction=True)

RESULTS = "redis://127.0.0.1:6379/7"
BROKERS = {"redis": "redis://127.0.0.1:6379/7", "rabbitmq": "amqp://guest:guest@127.0.0.1:5672//"}


@pytest.fixture(
    params=[
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("rabbitmq", marks=[pytest.mark.redis, pytest.mark.rabbitmq]),
    ]
)
def broker(request: pytest.FixtureRequest) -> str:
    return BROKERS[request.param]


class Site:
    """A Celery application with workers, on a queue of its own."""

    def __init__(self, broker: str, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LEADEXEC_TEST_BROKER", broker)
        monkeypatch.setenv("LEADEXEC_TEST_RESULTS", RESULTS)
        monkeypatch.delitem(sys.modules, "tests.celery_app", raising=False)
        self.app = importlib.import_module("tests.celery_app").app
        self.queue = f"leadexec-{uuid.uuid4().hex}"
        self.provider = provider
        self.workers: list[subprocess.Popen[str]] = []

    def start_worker(self, children: int) -> "subprocess.Popen[str]":
        worker = processes.start_module(
            self.provider,
            *("celery", "-A", "tests.celery_app", "worker", "-Q", self.queue),
            *(f"--concurrency={children}", "-n", f"{self.queue}-{len(self.workers)}@localhost"),
            *("--without-gossip", "--without-mingle", "--loglevel=WARNING"),
            start_new_session=True,
        )
        self.workers.append(worker)
        return worker

    def send(self, **options: Any) -> Any:
        return self.app.send_task(
            "django_leadexec.refresh_tokens", kwargs=options, queue=self.queue
        )

    def close(self) -> None:
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            try:
                worker.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                kill(worker)
        with self.app.connection_for_write() as connection:
            self.app.amqp.queues[self.queue].bind(connection.default_channel).delete()
        self.app.close()


@pytest.fixture
def site(broker: str, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site(broker, provider, monkeypatch)
    yield site
    site.close()


def kill(worker: "subprocess.Popen[str]") -> None:
    """As the system does when memory runs out, its children included."""
    os.killpg(worker.pid, signal.SIGKILL)
    worker.communicate(timeout=60)


def outcome(result: Any) -> Any:
    """What a task has returned. It is polled, as the message that it is there can be lost."""
    processes.wait_until(result.ready, 300)
    return result.get()


def calls(provider: Provider) -> dict[str, int]:
    """How often the rows' tokens were asked about."""
    return {
        token: count for token, count in provider.refreshes.items() if token.startswith("token-")
    }


def test_several_workers_share_the_rows_without_a_double_call(
    site: Site, provider: Provider
) -> None:
    make_due_connections(ROWS)
    provider.latency = 0.01
    for _ in range(2):
        site.start_worker(2)
    # As a schedule would send it, with three more to help, and once more by mistake.
    sent = [site.send(copies=4, workers=4) for _ in range(2)]
    counts = [outcome(result) for result in sent]
    # Those that they asked for, by the queue that they came by.
    helpers = [helper for result in sent for helper in result.children]
    counts += [outcome(helper) for helper in helpers]
    assert len(counts) == 8
    assert sum(count["refreshed"] for count in counts) == ROWS
    assert all(count["failed"] == 0 for count in counts)
    assert len(calls(provider)) == ROWS
    assert set(calls(provider).values()) == {1}
    assert not provider.overlaps
    for row in LeadExecConnection.objects.all():
        assert plain(row.access_token) == f"access-1-for-{plain(row.refresh_token)}"


@pytest.mark.parametrize("options", [{"workers": 0}, {"rate": "fast"}, {"copies": 0}])
def test_options_that_make_no_sense_are_told_of_and_enqueue_no_copies(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from django_leadexec.tasks import refresh_tokens

    sent: list[object] = []
    monkeypatch.setattr(refresh_tokens, "apply_async", lambda **message: sent.append(message))
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        refresh_tokens(**({"copies": 3} | options))
    assert not sent


@pytest.mark.parametrize("broker", [BROKERS["rabbitmq"]])
@pytest.mark.redis
@pytest.mark.rabbitmq
def test_a_task_that_is_delivered_again_after_its_worker_was_killed_does_no_harm(
    site: Site, provider: Provider
) -> None:
    make_due_connections(ROWS)
    provider.latency = 0.02
    victim = site.start_worker(1)
    result = site.send(workers=4)
    processes.wait_until(lambda: len(provider.refreshes) > ROWS // 4)
    kill(victim)
    site.start_worker(1)
    counts = outcome(result)
    assert counts["failed"] == 0
    assert counts["refreshed"] >= 1
    assert set(calls(provider).values()) == {1}
    # What it held comes free with its lease.
    LeadExecConnection.objects.filter(expires_at=None).write(lease_until=0)
    outcome(site.send())
    assert not LeadExecConnection.objects.filter(expires_at=None).exists()
    assert not provider.overlaps
