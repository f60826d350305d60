"""The task of Django's task framework, in django-tasks-db's real worker."""

import importlib
from typing import Any

import django
import pytest
from django.test import override_settings

from .. import processes
from ..factories import make_due_connections
from ..needs import import_or_skip
from ..provider import Provider
from . import ROWS

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(django.VERSION < (6, 0), reason="Django has had tasks since 6.0"),
]

IN_THE_DATABASE = {"BACKEND": "django_tasks_db.DatabaseBackend", "QUEUES": ["leadexec"]}
WORKER = ("db_worker", "--batch", "--no-reload", "--backend=database", "--queue-name=leadexec")


def refresh_task() -> Any:
    return importlib.import_module("django_leadexec.django_tasks").refresh_tokens


def test_it_answers_with_the_counts(provider: Provider) -> None:
    make_due_connections(5)
    result = refresh_task().enqueue(workers=2)
    assert result.return_value["refreshed"] == 5


def test_copies_find_nothing_left_and_do_no_harm(provider: Provider) -> None:
    make_due_connections(5)
    refresh_task().enqueue(copies=3)
    assert set(provider.refreshes.values()) == {1}


@pytest.mark.parametrize("options", [{"workers": 0}, {"rate": "fast"}, {"copies": 0}])
def test_options_that_make_no_sense_are_told_of_and_enqueue_no_copies(
    options: dict[str, Any],
) -> None:
    result = refresh_task().enqueue(**({"copies": 3} | options))
    (error,) = result.errors
    assert f"{next(iter(options))} must be" in error.traceback


def test_several_workers_share_the_rows_without_a_double_call(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_or_skip("django_tasks_db")
    make_due_connections(ROWS)
    provider.latency = 0.01
    monkeypatch.setenv("LEADEXEC_TEST_TASKS", "database")
    default = {"BACKEND": "django.tasks.backends.immediate.ImmediateBackend"}
    with override_settings(TASKS={"default": default, "database": IN_THE_DATABASE}):
        task = refresh_task().using(backend="database", queue_name="leadexec")
        from django.tasks import TaskResultStatus

        # As a schedule would enqueue it, with two more to help, and once more by mistake.
        results = [task.enqueue(copies=3, workers=4) for _ in range(2)]
        workers = [processes.start(provider, *WORKER) for _ in range(3)]
        for worker in workers:
            _, errors = worker.communicate(timeout=300)
            assert worker.returncode == 0, errors
        for result in results:
            result.refresh()
        # They and the copies they asked for, on the backend and the queue they came by.
        done = type(results[0].db_result).objects.filter(status=TaskResultStatus.SUCCESSFUL)
        assert done.count() == 6
    assert all(result.return_value["failed"] == 0 for result in results)
    assert len(provider.refreshes) == ROWS
    assert set(provider.refreshes.values()) == {1}
    assert not provider.overlaps
