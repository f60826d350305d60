"""A call's deadline, its masked token, and how long it is the current one."""

from types import SimpleNamespace

import pytest

from django_leadexec.provider.call import ProviderCall, current_call

from ..concurrency.threads import begin

URL = "http://provider.test/authorize/refreshaccesstoken/a%2Fb?appid=app"
MASKED = "http://provider.test/authorize/refreshaccesstoken/***?appid=app"


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr("django_leadexec.provider.call.monotonic", lambda: now.seconds)
    return now


def test_it_is_the_current_call_while_it_lasts() -> None:
    assert current_call() is None
    with ProviderCall(10) as call:
        assert current_call() is call
    assert current_call() is None


def test_it_ends_with_an_error_too() -> None:
    with pytest.raises(KeyboardInterrupt), ProviderCall(10):
        raise KeyboardInterrupt
    assert current_call() is None


def test_another_thread_does_not_see_it() -> None:
    with ProviderCall(10):
        assert begin(current_call).returned() is None


def test_its_time_begins_when_it_is_made(now: SimpleNamespace) -> None:
    call = ProviderCall(10)
    now.seconds += 4
    with call:
        assert call.seconds_left() == 6


@pytest.mark.parametrize("passed", [10, 11])
def test_after_its_deadline_no_time_is_left(now: SimpleNamespace, passed: float) -> None:
    call = ProviderCall(10)
    now.seconds += passed
    with pytest.raises(TimeoutError, match=r"^timed out$"):
        call.seconds_left()


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        (URL, MASKED),
        ("/authorize/disconnectapplicationtoken/abc", "/authorize/disconnectapplicationtoken/***"),
        ("/a/***?appid=app", "/a/***?appid=app"),
    ],
)
def test_a_token_comes_back_where_it_was(url: str, masked: str) -> None:
    call = ProviderCall(10)
    assert call.mask(url) == masked
    assert call.is_masked
    assert call.unmask(f"GET {masked} HTTP/1.1") == f"GET {url} HTTP/1.1"
    assert not call.is_masked


def test_a_token_comes_back_once() -> None:
    call = ProviderCall(10)
    call.mask(URL)
    call.unmask(MASKED)
    assert call.unmask(MASKED) == MASKED


def test_a_token_does_not_come_back_after_the_deadline(now: SimpleNamespace) -> None:
    call = ProviderCall(10)
    call.mask(URL)
    now.seconds += 10
    with pytest.raises(TimeoutError):
        call.unmask(MASKED)
    assert call.is_masked


def test_a_call_that_masked_nothing_leaves_a_request_line_as_it_is() -> None:
    call = ProviderCall(10)
    assert not call.is_masked
    assert call.unmask("GET /***/a HTTP/1.1") == "GET /***/a HTTP/1.1"


def test_it_does_not_show_the_token() -> None:
    call = ProviderCall(10)
    call.mask("http://provider.test/canary")
    assert "canary" not in f"{call!r} {call}"
    assert not hasattr(call, "__dict__")
