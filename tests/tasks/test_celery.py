"""The Celery task in real workers, on Redis and on RabbitMQ."""

import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

from .. import processes
from ..factories import make_due_connections
from ..provider import Provider
from . import ROWS

celery = pytest.importorskip("celery")

pytestmark = pytest.mark.django_db(transaction=True)

RESULTS = "redis://127.0.0.1:6379/7"
BROKERS = {"redis": "redis://127.0.0.1:6379/7", "rabbitmq": "amqp://guest:guest@127.0.0.1:5672//"}


@pytest.fixture(
    params=[
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("rabbitmq", marks=[pytest.mark.redis, pytest.mark.rabbitmq]),
    ]
)
def workers(
    request: pytest.FixtureRequest, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Two workers with two processes each, on a queue of their own; gives the queue's name."""
    queue = f"leadexec-{uuid.uuid4().hex}"
    monkeypatch.setenv("LEADEXEC_TEST_BROKER", BROKERS[request.param])
    monkeypatch.setenv("LEADEXEC_TEST_RESULTS", RESULTS)
    monkeypatch.setenv("LEADEXEC_TEST_QUEUE", queue)
    command = (
        *("celery", "-A", "tests.celery_app", "worker", "--concurrency=2"),
        *("--without-gossip", "--without-mingle", "--loglevel=WARNING"),
    )
    started = [
        processes.start_module(provider, *command, "-n", f"{queue}-{n}@localhost") for n in range(2)
    ]
    yield queue
    for worker in started:
        worker.terminate()
    for worker in started:
        try:
            worker.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.communicate()


def test_several_workers_share_the_rows_without_a_double_call(
    workers: str, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_due_connections(ROWS)
    provider.latency = 0.01
    monkeypatch.delitem(sys.modules, "tests.celery_app", raising=False)
    from ..celery_app import app

    try:
        name = "django_leadexec.refresh_tokens"
        # As a schedule would send it, with three more to help, and once more by mistake.
        sent = [app.send_task(name, kwargs={"copies": 4, "workers": 4}) for _ in range(2)]
        counts = [result.get(timeout=300) for result in sent]
        processes.wait_until(lambda: len(provider.refreshes) == ROWS)
    finally:
        app.close()
    assert all(count["failed"] == 0 for count in counts)
    assert set(provider.refreshes.values()) == {1}
    assert not provider.overlaps
