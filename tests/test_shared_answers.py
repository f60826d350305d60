"""One call about a new token, however many post it at once."""

import threading
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.cache import cache
from django.core.cache.backends import locmem
from django.test import Client
from pytest_django import Settings

from django_leadexec import crypto, shared_answers
from django_leadexec.exceptions import ProviderUnavailable
from django_leadexec.models import LeadExecConnection
from django_leadexec.provider.replies import Fresh, Refused, Unavailable
from django_leadexec.secret import Secret
from django_leadexec.session import LeadExecSession
from django_leadexec.shared_answers import Answer, ask_once

from . import provider as stand_in
from . import site
from .concurrency.threads import begin
from .factories import make_user
from .processes import start, wait_until
from .provider import Provider
from .test_throttle import BROKEN, DUMMY
from .visitor import LOGIN, post

pytestmark = pytest.mark.django_db(transaction=True)

NEW = "acme-1"
AT_ONCE = 5


class Waiting:
    """In place of ``time`` where others wait for an answer: who has begun to."""

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def sleep(self, seconds: float) -> None:
        self.threads.add(threading.get_ident())
        time.sleep(seconds)


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    waiting = Waiting()
    monkeypatch.setattr(shared_answers, "time", waiting)
    return waiting


@pytest.fixture
def at_once(provider: Provider, waiting: Waiting) -> Callable[[list[Client]], list[Any]]:
    """Post the new token in each of these browsers while the first call is under way."""

    def post_all(browsers: list[Client]) -> list[Any]:
        provider.held.set()
        threads = [begin(partial(post, browser, NEW)) for browser in browsers]
        wait_until(lambda: len(waiting.threads) == len(browsers) - 1)
        provider.held.clear()
        return [thread.result() for thread in threads]

    return post_all


def browsers_of(user: Any, count: int = AT_ONCE) -> list[Client]:
    browsers = [Client() for _ in range(count)]
    for browser in browsers:
        if user:
            browser.force_login(user, backend=LOGIN)
    return browsers


def count_identify(session: LeadExecSession) -> Any:
    counted.append(1)
    return site.identify(session)


def fail_at_first(session: LeadExecSession) -> Any:
    counted.append(1)
    if len(counted) == 1:
        raise RuntimeError("a fault of the site's own")
    return site.identify(session)


counted: list[int] = []


@pytest.fixture(autouse=True)
def count_from_zero() -> None:
    counted.clear()


class TestAtTheCallback:
    def test_a_users_five_clicks_make_one_call_and_one_row(
        self, provider: Provider, at_once: Callable[..., Any]
    ) -> None:
        user = make_user()
        answers = at_once(browsers_of(user))
        assert [answer.json()["status"] for answer in answers] == ["connected"] * AT_ONCE
        assert provider.refreshes == {NEW: 1}
        assert LeadExecConnection.objects.get().user == user

    def test_two_users_get_one_call_and_one_of_them_the_row(
        self, provider: Provider, at_once: Callable[..., Any]
    ) -> None:
        answers = at_once([*browsers_of(make_user(), 1), *browsers_of(make_user(), 1)])
        assert sorted(answer.status_code for answer in answers) == [200, 409]
        assert provider.refreshes == {NEW: 1}
        assert LeadExecConnection.objects.count() == 1

    @pytest.mark.parametrize("changes", [
        {"IDENTIFY": f"{__name__}.count_identify"},
        {"IDENTIFY": f"{__name__}.count_identify", "SIGN_IN": True},
        {"SIGN_IN": True},
    ])  # fmt: skip
    def test_strangers_who_have_to_log_in_share_the_answer_and_the_account(
        self, provider: Provider, at_once: Callable[..., Any], configure: Callable[..., None],
        changes: dict[str, Any],
    ) -> None:  # fmt: skip
        configure(**changes)
        answers = at_once(browsers_of(None))
        assert [answer.json()["status"] for answer in answers] == ["login_required"] * AT_ONCE
        assert provider.refreshes == {NEW: 1}
        assert len(counted) == ("IDENTIFY" in changes)

    def test_strangers_whose_user_is_made_are_all_that_user(
        self, provider: Provider, at_once: Callable[..., Any], configure: Callable[..., None]
    ) -> None:
        configure(
            SIGN_IN=True, IDENTIFY="tests.site.identify", CREATE_USER="tests.site.create_user"
        )
        answers = at_once(browsers_of(None))
        assert [answer.json()["status"] for answer in answers] == ["signed_in"] * AT_ONCE
        assert provider.refreshes == {NEW: 1}
        assert LeadExecConnection.objects.get().user.username == "user of acme"

    @pytest.mark.parametrize(
        ("said", "status"), [(stand_in.refused, 422), (stand_in.throttling(7), 502)]
    )
    def test_a_no_or_no_answer_is_shared_too(
        self, provider: Provider, at_once: Callable[..., Any], said: stand_in.Answer, status: int
    ) -> None:
        provider.answers[NEW] = said
        answers = at_once(browsers_of(make_user()))
        assert [answer.status_code for answer in answers] == [status] * AT_ONCE
        waits = {answer.headers.get("Retry-After") for answer in answers}
        assert waits == ({"7"} if status == 502 else {None})
        assert provider.refreshes == {NEW: 1}

    def test_who_comes_later_asks_again(
        self, provider: Provider, configure: Callable[..., None]
    ) -> None:
        # What was said before may no longer be so.
        configure(SIGN_IN=True)
        for count, said in enumerate([stand_in.unavailable, stand_in.refused, stand_in.fresh], 1):
            provider.answers[NEW] = said
            status = post(Client(), NEW).status_code
            assert (status, provider.refreshes[NEW]) == ([502, 422, 200][count - 1], count)

    def test_a_fault_of_the_sites_own_is_not_shared(
        self, provider: Provider, at_once: Callable[..., Any], configure: Callable[..., None]
    ) -> None:
        configure(IDENTIFY=f"{__name__}.fail_at_first")
        browsers = browsers_of(make_user(), 2)
        for browser in browsers:
            browser.raise_request_exception = False
        answers = at_once(browsers)
        assert sorted(answer.status_code for answer in answers) == [200, 500]
        assert provider.refreshes == {NEW: 2}
        assert LeadExecConnection.objects.count() == 1

    def test_without_a_cache_that_keeps_anything_each_asks_for_themselves(
        self, provider: Provider, settings: Settings
    ) -> None:
        settings.CACHES = DUMMY
        provider.held.set()
        browsers = browsers_of(make_user(), 2)
        threads = [begin(partial(post, browser, NEW)) for browser in browsers]
        wait_until(lambda: provider.refreshes[NEW] == 2)
        provider.held.clear()
        assert [thread.result().json()["status"] for thread in threads] == ["connected"] * 2  # type: ignore[attr-defined]

    def test_the_cache_never_holds_a_token_or_an_account_as_text(
        self, provider: Provider, at_once: Callable[..., Any], monkeypatch: pytest.MonkeyPatch,
        configure: Callable[..., None],
    ) -> None:  # fmt: skip
        configure(IDENTIFY="tests.site.identify")
        kept: list[str] = []
        keep = locmem.LocMemCache.set

        def watched(self: Any, key: str, value: Any, *args: Any, **options: Any) -> None:
            kept.append(f"{key} {value}")
            keep(self, key, value, *args, **options)

        monkeypatch.setattr(locmem.LocMemCache, "set", watched)
        at_once(browsers_of(make_user()))
        [answer] = [text for text in kept if "access_token" in text]
        assert "expires_at" in answer
        assert NEW not in "".join(kept)
        assert LeadExecConnection.objects.get().account_id == "acme"
        assert '"acme"' not in "".join(kept)
        assert f"access-1-for-{NEW}" not in "".join(kept)
        assert f"asking:{NEW}" not in repr(locmem._caches)  # type: ignore[attr-defined]


ANSWERS = [
    Answer(Fresh(Secret("access"), 1234.5), ""),
    Answer(Fresh(Secret("access"), 0), "acme"),
    Answer(Refused("not valid"), ""),
    Answer(Unavailable("HTTP 503"), ""),
    Answer(Unavailable("HTTP 429", 2.5), ""),
]


class TestAskOnce:
    def of_another(self, seconds: float) -> None:
        """Another process is asking, or was killed while it did."""
        key = f"django_leadexec:asking:{crypto.fingerprint('t')}"
        assert cache.add(key, "another's", timeout=seconds)

    @pytest.mark.parametrize("answer", ANSWERS, ids=repr)
    def test_an_answer_arrives_as_it_was_given(self, answer: Answer, waiting: Waiting) -> None:
        self.of_another(60)
        cache.set("django_leadexec:answer:another's", shared_answers._pack(answer))
        assert ask_once(Secret("t"), 60, lambda: pytest.fail("asked")) == answer

    def test_who_was_killed_while_asking_keeps_others_waiting_until_the_key_ends(
        self, waiting: Waiting
    ) -> None:
        self.of_another(0.2)
        assert ask_once(Secret("t"), 60, lambda: ANSWERS[0]) == ANSWERS[0]
        assert waiting.threads

    def test_who_waits_longer_than_a_call_may_take_gives_up_whatever_the_clock_says(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shared_answers, "time", SimpleNamespace(sleep=lambda seconds: None))
        self.of_another(60)
        with pytest.raises(ProviderUnavailable, match="is late"):
            ask_once(Secret("t"), 20, lambda: pytest.fail("asked"))

    def test_who_is_late_takes_nothing_from_who_asks_by_then(self) -> None:
        def ask() -> Answer:
            cache.clear()
            self.of_another(60)
            return ANSWERS[0]

        assert ask_once(Secret("t"), 60, ask) == ANSWERS[0]
        key = f"django_leadexec:asking:{crypto.fingerprint('t')}"
        assert cache.get(key) == "another's"

    def test_an_error_lets_the_next_ask_at_once(self, waiting: Waiting) -> None:
        def fail() -> Answer:
            raise RuntimeError

        with pytest.raises(RuntimeError):
            ask_once(Secret("t"), 60, fail)
        assert ask_once(Secret("t"), 60, lambda: ANSWERS[0]) == ANSWERS[0]
        assert not waiting.threads

    def test_another_token_waits_for_nobody(self, waiting: Waiting) -> None:
        self.of_another(60)
        assert ask_once(Secret("u"), 60, lambda: ANSWERS[0]) == ANSWERS[0]
        assert not waiting.threads

    def test_a_cache_that_is_down_loses_no_answer_and_tells_no_secret_of_its_own(
        self, settings: Settings, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings.CACHES = BROKEN
        assert ask_once(Secret("t"), 60, lambda: ANSWERS[0]) == ANSWERS[0]
        assert "RuntimeError" in caplog.text
        assert "canary" not in caplog.text


VISIT = """
from django.contrib.auth import get_user_model
from django.test import override_settings
from django_leadexec import authorization, shared_answers, verification
from django_leadexec.secret import Secret

class Told:
    def sleep(seconds):
        import time
        print("waits", flush=True)
        time.sleep(seconds)

shared_answers.time = Told
user = get_user_model().objects.get()
visit = authorization.Visit(user, True, lambda: None, lambda: None)
caches = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache",
                      "LOCATION": "redis://127.0.0.1:6379/9", "KEY_PREFIX": "%s"}}
with override_settings(CACHES=caches):
    print(type(authorization.authorize(Secret("acme-1"), visit)).__name__, flush=True)
"""


@pytest.mark.redis
def test_processes_that_share_a_cache_make_one_call(provider: Provider) -> None:
    make_user()
    visit = VISIT % crypto.fingerprint(str(time.time()))
    provider.held.set()
    processes = [start(provider, "shell", "-v0", "-c", visit) for _ in range(3)]
    try:
        heard: list[list[str]] = [[] for _ in processes]

        def listen(process: Any, lines: list[str]) -> None:
            lines.extend(line.strip() for line in process.stdout)

        threads = [begin(partial(listen, *pair)) for pair in zip(processes, heard, strict=True)]
        wait_until(lambda: sum("waits" in lines for lines in heard) == 2)
        provider.held.clear()
        for thread in threads:
            thread.result()
    finally:
        provider.held.clear()
        for process in processes:
            process.communicate(timeout=60)
    assert [lines[-1] for lines in heard] == ["Connected"] * 3
    assert provider.refreshes == {NEW: 1}
    assert LeadExecConnection.objects.count() == 1
