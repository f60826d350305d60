"""How often a visitor may make us call the provider, and who counts as one."""

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.sessions.backends.db import SessionStore
from django.core.cache import cache
from django.core.cache.backends.filebased import FileBasedCache
from django.core.cache.backends.locmem import LocMemCache
from django.db import connection
from django.test import Client, RequestFactory
from pytest_django import Settings

from django_leadexec import authorization, pending_link, throttle
from django_leadexec.models import LeadExecConnection
from django_leadexec.secret import Secret

from .concurrency.threads import PATIENCE, begin
from .factories import make_connection, make_user
from .provider import Provider
from .visitor import (
    CALLBACK,
    LOGIN,
    NOON,
    agree,
    assert_error,
    callback_body,
    link_shown,
    post,
)

pytestmark = pytest.mark.django_db(transaction=True)


LOCMEM = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "t"}}
DUMMY = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
DATABASE = {"default": {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "c"}}
BROKEN = {"default": {"BACKEND": f"{__name__}.BrokenCache"}}


class BrokenCache(LocMemCache):
    """As a client library of a cache that is down."""

    def __init__(self, *args: Any) -> None:
        super().__init__("broken", {})

    def add(self, *args: Any, **options: Any) -> Any:
        raise RuntimeError("redis://:canary-password@cache:6379 refused the connection")

    incr = add


class TestFlood:
    @pytest.fixture(autouse=True)
    def two_a_day(
        self, configure: Callable[..., None], settings: Settings, set_clock: object
    ) -> None:
        configure(CALLBACK_RATE="2/d")
        settings.CACHES = LOCMEM
        cache.clear()

    def flood(self, client: Client, count: int = 3, **extra: Any) -> list[int]:
        return [
            client.post(
                CALLBACK,
                json.dumps(callback_body(client, f"t{number}")),
                content_type="application/json",
                **extra,
            ).status_code
            for number in range(count)
        ]

    def test_an_address_is_counted_whatever_its_session(
        self, provider: Provider, configure: Callable[..., None]
    ) -> None:
        configure(SIGN_IN=True)
        statuses = [self.flood(Client(), 1)[0] for _ in range(4)]
        assert statuses == [200, 200, 429, 429]
        assert sum(provider.refreshes.values()) == 2

    def test_a_session_is_counted_whatever_its_address(
        self, client: Client, victim: Any, provider: Provider
    ) -> None:
        statuses = [self.flood(client, 1, REMOTE_ADDR=f"192.0.2.{it}")[0] for it in range(4)]
        assert statuses == [200, 200, 429, 429]

    def test_another_address_with_another_session_is_not_held_up(
        self, client: Client, victim: Any, provider: Provider
    ) -> None:
        assert self.flood(client) == [200, 200, 429]
        client.logout()
        client.force_login(victim, backend=LOGIN)
        assert self.flood(client, 2, REMOTE_ADDR="192.0.2.1") == [200, 200]

    @pytest.mark.parametrize(
        "header",
        ["X-Forwarded-For", "X-Real-IP", "Forwarded", "CF-Connecting-IP", "True-Client-IP"],
    )
    def test_what_a_client_says_of_its_address_is_not_believed(
        self, provider: Provider, configure: Callable[..., None], header: str
    ) -> None:
        configure(SIGN_IN=True)
        statuses = [
            self.flood(Client(), 1, headers={header: f"192.0.2.{number}"})[0] for number in range(3)
        ]
        assert statuses == [200, 200, 429]

    def test_nobody_uses_up_the_rate_of_an_address_by_a_session_of_its_name(
        self, provider: Provider, settings: Settings
    ) -> None:
        # This engine takes whatever a cookie holds for the session's key.
        settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
        attacker = Client()
        for _ in range(2):
            attacker.cookies["sessionid"] = "203.0.113.77"
            assert self.flood(attacker, 1, REMOTE_ADDR="192.0.2.1") == [200]
        assert self.flood(Client(), 1, REMOTE_ADDR="203.0.113.77") == [200]

    @pytest.mark.parametrize("address", ["", None])
    def test_addresses_that_nobody_knows_are_counted_as_one(
        self, provider: Provider, configure: Callable[..., None], address: str | None
    ) -> None:
        # As behind a Unix socket. Otherwise a visitor without a session would have no limit.
        configure(SIGN_IN=True)
        statuses = [self.flood(Client(), 1, REMOTE_ADDR=address)[0] for _ in range(3)]
        assert statuses == [200, 200, 429]

    def test_the_addresses_of_one_ipv6_network_are_counted_as_one(
        self, provider: Provider, configure: Callable[..., None]
    ) -> None:
        # A single home has 2 to the power of 64 of them.
        configure(SIGN_IN=True)
        statuses = [
            self.flood(Client(), 1, REMOTE_ADDR=f"2001:db8:1:2:{part}::7")[0]
            for part in ("0", "7fff", "ffff")
        ]
        assert statuses == [200, 200, 429]
        assert self.flood(Client(), 1, REMOTE_ADDR="2001:db8:1:3::7") == [200]
        mapped = [self.flood(Client(), 1, REMOTE_ADDR=f"::ffff:192.0.2.{it}")[0] for it in range(3)]
        assert mapped == [200, 200, 200]

    @pytest.mark.parametrize("address", ["unix:", "1.2.3", "fe80::1%eth0", "é", "x" * 9_000])
    def test_an_address_that_is_none_breaks_nothing(
        self, provider: Provider, configure: Callable[..., None], address: str
    ) -> None:
        configure(SIGN_IN=True)
        statuses = [self.flood(Client(), 1, REMOTE_ADDR=address)[0] for _ in range(3)]
        assert statuses == [200, 200, 429]

    def test_the_confirm_page_counts_too(self, client: Client, provider: Provider) -> None:
        client.force_login(make_user(), backend=LOGIN)
        assert self.flood(client, 2) == [200, 200]
        waiting = authorization.LinkWaiting(Secret("t"), "")
        request = RequestFactory().get("/")
        request.session, request.user = client.session, get_user_model().objects.get()
        pending_link.keep(request, waiting, "")
        request.session.save()
        response = agree(client)
        assert response.status_code == 429
        assert int(response["Retry-After"]) > 0
        assert link_shown(client)
        assert sum(provider.refreshes.values()) == 2

    def test_a_link_that_waits_for_a_login_counts_before_it_is_kept(
        self, provider: Provider
    ) -> None:
        # It costs no call yet, but each one makes a session.
        statuses = [self.flood(Client(), 1)[0] for _ in range(3)]
        assert statuses == [200, 200, 429]

    @pytest.mark.parametrize("sign_in", [True, False])
    @pytest.mark.parametrize("logged_in", [True, False])
    def test_what_pages_post_by_themselves_is_not_counted_and_tells_nothing_of_others(
        self, client: Client, provider: Provider, configure: Callable[..., None],
        sign_in: bool, logged_in: bool,
    ) -> None:  # fmt: skip
        # Each page with the button posts, and an office may have one address for all.
        configure(SIGN_IN=sign_in)
        make_connection("another's")
        make_connection("staff's", user=make_user(is_staff=True))
        revoked = make_connection("in-the-outbox")
        LeadExecConnection.objects.filter(pk=revoked.pk).move_to_outbox()
        if logged_in:
            client.force_login(make_user("visitor"), backend=LOGIN)
        tokens = ["another's", "staff's", "in-the-outbox", "new", "newer"]
        answers = [post(client, token, False) for token in tokens]
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1
        assert answers[0].json()["status"] == "ignored"
        assert not provider.calls
        assert self.flood(client) == [200, 200, 429]

    def test_what_a_user_has_on_file_is_not_counted_when_pages_post_it(
        self, client: Client, victim: Any, provider: Provider
    ) -> None:
        make_connection("mine", user=victim)
        for _ in range(5):
            assert post(client, "mine", False).json()["status"] == "connected"
        assert self.flood(client) == [200, 200, 429]

    def test_a_browser_that_may_return_is_counted_for_each_token(
        self, provider: Provider, configure: Callable[..., None]
    ) -> None:
        # For such a browser a new token is asked about, so its answers can tell tokens apart.
        configure(SIGN_IN=True)
        make_connection("its-own")
        make_connection("another's")
        browser = Client()
        assert post(browser, "its-own").json()["status"] == "signed_in"
        browser.cookies.pop("sessionid")
        assert post(browser, "another's", False).json()["status"] == "ignored"
        assert_error(post(browser, "another's", False), 429, "throttled")
        assert_error(post(browser, "its-own", False), 429, "throttled")
        assert provider.refreshes == {"its-own": 1}

    @pytest.mark.parametrize("sign_in", [True, False])
    def test_a_click_is_counted_also_where_the_token_on_file_makes_a_call_needless(
        self, client: Client, provider: Provider, configure: Callable[..., None], sign_in: bool
    ) -> None:
        configure(SIGN_IN=sign_in)
        owner = make_user(is_staff=True)
        make_connection("staff's", user=owner)
        if sign_in:
            assert_error(post(client, "staff's"), 403, "not_allowed")
            assert_error(post(client, "staff's"), 403, "not_allowed")
        else:
            client.force_login(make_user("visitor"), backend=LOGIN)
            assert_error(post(client, "staff's"), 409, "conflict")
            assert_error(post(client, "staff's"), 409, "conflict")
        assert_error(post(client, "staff's"), 429, "throttled")
        assert not provider.calls

    def test_a_cache_that_keeps_nothing_limits_nothing_and_breaks_nothing(
        self, client: Client, victim: Any, provider: Provider, settings: Settings
    ) -> None:
        settings.CACHES = DUMMY
        assert self.flood(client) == [200, 200, 200]

    def test_a_cache_that_is_down_makes_no_call_and_no_traceback(
        self,
        client: Client,
        victim: Any,
        provider: Provider,
        settings: Settings,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        settings.CACHES = BROKEN
        response = post(client, "t")
        assert_error(response, 502, "unavailable")
        assert "RuntimeError" in caplog.text
        assert "canary" not in caplog.text + response.content.decode()
        assert not provider.calls
        # What needs no call goes on.
        make_connection("mine", user=victim)
        assert post(client, "mine", False).json()["status"] == "connected"

    def test_a_cache_that_is_down_keeps_a_link_waiting(
        self, client: Client, provider: Provider, settings: Settings
    ) -> None:
        post(client, "t")
        client.force_login(make_user(), backend=LOGIN)
        link = link_shown(client)
        settings.CACHES = BROKEN
        assert agree(client, link).status_code == 502
        settings.CACHES = LOCMEM
        assert agree(client, link).status_code == 302
        assert LeadExecConnection.objects.count() == 1

    def test_a_cache_in_the_database_will_do(
        self, client: Client, victim: Any, provider: Provider, settings: Settings
    ) -> None:
        from django.core.management import call_command

        settings.CACHES = DATABASE
        call_command("createcachetable", verbosity=0)
        try:
            assert self.flood(client) == [200, 200, 429]
        finally:
            with connection.cursor() as cursor:
                cursor.execute("DROP TABLE c")

    def test_a_new_period_begins_at_zero(
        self,
        client: Client,
        victim: Any,
        provider: Provider,
        set_clock: Callable[[float], None],
    ) -> None:
        assert self.flood(client) == [200, 200, 429]
        set_clock(NOON + 43_199)
        assert self.flood(client, 1) == [429]
        set_clock(NOON + 43_200)
        assert self.flood(client, 2) == [200, 200]

    def test_a_post_too_many_is_told_when_the_new_period_begins(
        self,
        client: Client,
        victim: Any,
        provider: Provider,
        set_clock: Callable[[float], None],
    ) -> None:
        assert self.flood(client, 2) == [200, 200]
        for seconds, left in [(100, 43_100), (43_199, 1)]:
            set_clock(NOON + seconds)
            assert post(client, "t")["Retry-After"] == str(left)

    def test_the_cache_holds_neither_session_nor_address(
        self, client: Client, victim: Any, provider: Provider
    ) -> None:
        self.flood(client, 1, REMOTE_ADDR="192.0.2.77")
        from django.core.cache.backends import locmem

        kept = repr(locmem._caches["t"])  # type: ignore[attr-defined]
        assert "django_leadexec:calls" in kept
        assert str(client.session.session_key) not in kept
        assert "192.0.2.77" not in kept


def let_through(count: int, kind: str, settings: Settings, **cache_settings: Any) -> int:
    """How many of ``count`` calls by one visitor, two from each thread, are let through."""
    backend = f"django.core.cache.backends.{kind}"
    settings.CACHES = {"default": {"BACKEND": backend, **cache_settings}}

    def call_twice() -> int:
        request = RequestFactory().get("/", REMOTE_ADDR="192.0.2.1")
        request.session = SessionStore()
        passed = 0
        for _ in range(2):
            with suppress(throttle.Throttled):
                throttle.consume(request)
                passed += 1
        return passed

    threads = [begin(call_twice) for _ in range(count // 2)]
    return sum(thread.returned() for thread in threads)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("locmem.LocMemCache", {"LOCATION": "counted"}),
        pytest.param(
            "redis.RedisCache", {"LOCATION": "redis://127.0.0.1:6379/7"}, marks=pytest.mark.redis
        ),
    ],
)
def test_calls_at_the_same_moment_are_all_counted(
    configure: Callable[..., None],
    settings: Settings,
    set_clock: object,
    kind: str,
    options: dict[str, str],
) -> None:
    configure(CALLBACK_RATE="20/h")
    try:
        assert let_through(48, kind, settings, **options) == 20
    finally:
        cache.clear()


def test_a_cache_that_the_check_warns_of_misses_some(
    configure: Callable[..., None],
    settings: Settings,
    set_clock: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configure(CALLBACK_RATE="1/h")
    barrier, read = threading.Barrier(2, timeout=PATIENCE), FileBasedCache.get

    def read_together(self: FileBasedCache, *args: Any, **options: Any) -> Any:
        count = read(self, *args, **options)
        barrier.wait()
        return count

    monkeypatch.setattr(FileBasedCache, "get", read_together)
    location = {"LOCATION": str(tmp_path)}
    # Each thread's first call meets the other's: both read 0, and both write 1.
    assert let_through(4, "filebased.FileBasedCache", settings, **location) == 2
