import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connections
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from django_leadexec.sandbox import faults, provider
from django_leadexec.sandbox.models import Fault, Grant

pytestmark = pytest.mark.django_db


def call(token: str, name: str = "refreshaccesstoken") -> Any:
    return Client().get(f"/sandbox/authorize/{name}/{token}?appid=app")


def disconnect(token: str) -> Any:
    return call(token, "disconnectapplicationtoken")


def test_it_refuses_on_order_and_then_behaves_again() -> None:
    [token] = provider.create_grants("app")
    faults.set_fault("refuse")
    assert b'"valid": false' in call(token).content
    assert b'"valid": false' in disconnect(token).content
    faults.clear_faults()
    assert b'"valid": true' in call(token).content


@pytest.mark.parametrize(
    ("kind", "status", "retry_after", "start"),
    [
        ("unavailable", 503, "2", b"Service"),
        ("throttle", 429, "2", b"{"),
        ("html", 200, None, b"<!doctype html>"),
        ("half", 200, None, b'{"valid": true'),
    ],
)
def test_it_answers_rubbish_on_order(
    kind: str, status: int, retry_after: str | None, start: bytes
) -> None:
    [token] = provider.create_grants("app")
    faults.set_fault(kind, seconds=1.5)
    for answer in (call(token), disconnect(token)):
        assert answer.status_code == status
        assert answer.headers.get("Retry-After") == retry_after
        assert answer.content.startswith(start)
    assert Grant.objects.live().count() == 1


def test_a_503_names_no_time_when_none_is_given() -> None:
    faults.set_fault("unavailable")
    assert "Retry-After" not in call("token").headers


def test_a_slow_answer_is_a_right_one_in_the_end() -> None:
    [token] = provider.create_grants("app")
    faults.set_fault("slow", seconds=0.2)
    start = time.monotonic()
    answer = call(token)
    assert time.monotonic() - start >= 0.2
    assert b'"valid": true' in answer.content
    assert faults.counts("refresh") == {"ok": 1}


def test_a_fault_for_one_token_leaves_the_others_alone_and_wins_over_the_one_for_all() -> None:
    first, second, third = provider.create_grants("app", 3)
    faults.set_fault("unavailable")
    faults.set_fault("throttle", first)
    faults.set_fault("half", [second])
    assert [call(token).status_code for token in (first, second, third)] == [429, 200, 503]


def test_a_fault_can_be_for_one_sort_of_call() -> None:
    first, second = provider.create_grants("app", 2)
    faults.set_fault("unavailable", first, call="refresh")
    faults.set_fault("unavailable", second, call="disconnect")
    assert [call(first).status_code, disconnect(first).status_code] == [503, 200]
    assert [call(second).status_code, disconnect(second).status_code] == [200, 503]


def test_a_fault_replaces_the_earlier_one_of_its_scope() -> None:
    faults.set_fault("unavailable")
    faults.set_fault("throttle")
    assert [fault.kind for fault in Fault.objects.all()] == ["throttle"]


def test_a_thousand_tokens_are_marked_in_a_few_statements(
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    tokens = provider.create_grants("app", 1000)
    with django_assert_max_num_queries(24):
        faults.set_fault("refuse", tokens)
    assert Fault.objects.count() == 1000
    assert b'"valid": false' in call(tokens[999]).content


@pytest.mark.parametrize(("kind", "name"), [("nonsense", ""), ("refuse", "api")])
def test_an_unknown_fault_is_an_error(kind: str, name: str) -> None:
    with pytest.raises(ValueError, match="No such fault"):
        faults.set_fault(kind, call=name)


def test_calls_are_counted_by_outcome() -> None:
    good, refused, down = provider.create_grants("app", 3)
    faults.set_fault("refuse", refused)
    faults.set_fault("unavailable", down)
    for token in (good, good, refused, down, "unknown"):
        call(token)
    disconnect(good)
    assert faults.counts("refresh") == {"ok": 2, "refused": 2, "unavailable": 1}
    assert faults.counts("disconnect") == {"ok": 1}
    assert faults.counts("disconnect")["refused"] == 0
    faults.reset_counts()
    assert faults.counts("refresh") == {}


@pytest.mark.django_db(transaction=True)
def test_no_call_is_lost_from_the_counts_by_concurrent_threads() -> None:
    tokens = provider.create_grants("app", 40)

    def refresh(token: str) -> None:
        try:
            assert call(token).status_code == 200
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(refresh, tokens))
    assert faults.counts("refresh") == {"ok": 40}
