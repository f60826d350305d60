"""How often a visitor may make us call the provider, and who counts as one."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.core.cache.backends.locmem import LocMemCache
from django.db import connection
from django.test import Client, RequestFactory
from pytest_django import Settings

from django_leadexec import authorization, pending_link
from django_leadexec.models import LeadExecConnection

from .factories import make_connection, make_user
from .provider import Provider
from .visiting import (
    CALLBACK,
    CONFIRM,
    LOGIN,
    NOON,
    agree,
    assert_error,
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
                json.dumps({"refreshToken": f"t{number}", "gesture": True}),
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
        # As behind a Unix socket: else a stranger without a session could go on without end.
        configure(SIGN_IN=True)
        statuses = [self.flood(Client(), 1, REMOTE_ADDR=address)[0] for _ in range(3)]
        assert statuses == [200, 200, 429]

    def test_the_addresses_of_one_ipv6_network_are_counted_as_one(
        self, provider: Provider, configure: Callable[..., None]
    ) -> None:
        # A single home has 2 to the power of 64 of them.
        configure(SIGN_IN=True)
        statuses = [
            self.flood(Client(), 1, REMOTE_ADDR=f"2001:db8:1:2:{number}::7")[0]
            for number in range(3)
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
        waiting = authorization.LinkWaiting("t", "")
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

    def test_what_costs_no_call_is_not_counted(
        self, client: Client, victim: Any, provider: Provider
    ) -> None:
        for number in range(5):
            assert post(client, f"t{number}", False).json()["status"] == "ignored"
        assert self.flood(client) == [200, 200, 429]

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
        assert client.post(CONFIRM, {"confirm": "yes", "link": link}).status_code == 503
        settings.CACHES = LOCMEM
        assert client.post(CONFIRM, {"confirm": "yes", "link": link}).status_code == 302
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

    def test_a_new_period_begins_anew(
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

    def test_the_cache_holds_neither_session_nor_address(
        self, client: Client, victim: Any, provider: Provider
    ) -> None:
        self.flood(client, 1, REMOTE_ADDR="192.0.2.77")
        from django.core.cache.backends import locmem

        kept = repr(locmem._caches["t"])  # type: ignore[attr-defined]
        assert "django_leadexec:calls" in kept
        assert str(client.session.session_key) not in kept
        assert "192.0.2.77" not in kept
