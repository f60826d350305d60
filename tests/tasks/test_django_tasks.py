"""The task of Django's task framework, in django-tasks-db's real worker."""

import importlib
from typing import Any

import django
import pytest
from django.test import override_settings

from ..factories import make_due_connections
from ..provider import Provider

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(django.VERSION < (6, 0), reason="Django has had tasks since 6.0"),
]


def refresh_task() -> Any:
    return importlib.import_module("django_leadexec.django_tasks").refresh_tokens


def test_it_answers_with_the_counts(provider: Provider) -> None:
    make_due_connections(5)
    result = refresh_task().enqueue(workers=2)
    assert result.return_value["refreshed"] == 5


def test_copies_are_enqueued_and_find_nothing_left(provider: Provider) -> None:
    make_due_connections(5)
    backend = {"BACKEND": "django.tasks.backends.dummy.DummyBackend"}
    with override_settings(TASKS={"default": backend}):
        from django.tasks import default_task_backend

        refresh_task().func(copies=3)
        assert len(default_task_backend.results) == 2  # type: ignore[attr-defined]
    assert set(provider.refreshes.values()) == {1}
