"""Three at work at once, of all kinds, on the same few rows, each killed at a random moment.

The provider is slow and fails now and then. LEADEXEC_CRASHES=full goes on for hundreds of deaths.
"""

import itertools
import random
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from django_leadexec.models import LeadExecConnection

from ..factories import make_connection, make_user, plain
from ..provider import Provider, fresh, unavailable
from .browser_requests import Work, acting_on, browser_of, calling_back
from .conftest import IS_FULL
from .forked_workers import Fate, ForkedWorkers
from .recovery import assert_is_whole, end_leases, kept_tokens, outbox, recover, rows

pytestmark = pytest.mark.django_db(transaction=True)

ROUNDS = 150 if IS_FULL else 8
LEAST_ROWS = 8
SIGN_IN = {
    "SIGN_IN": True,
    "IDENTIFY": "tests.site.identify",
    "CREATE_USER": "tests.crash.browser_requests.create_user",
}


class Site:
    """Thinks up what visitors, operators and timers want, and remembers what may be gone then."""

    def __init__(self, keys: list[str]) -> None:
        self._keys = keys
        self._numbers = itertools.count()
        # The tokens that may have taken the place of one on file.
        self._replacements: dict[str, set[str]] = {}
        self._kept: Counter[str] = Counter()
        self._users: set[int] = set()
        self._root = get_user_model().objects.create_superuser("root")
        self.deeds: list[Callable[[], Work]] = [
            lambda: ("command", "refresh_leadexec_tokens", "--workers=4", "--batch-size=3"),
            lambda: ("command", "rotate_leadexec_keys"),
            self._link,
            self._link_again,
            lambda: calling_back(browser_of((row := self._row()).user), plain(row.refresh_token)),
            self._sign_in,
            lambda: ("on connection", self._row().pk, "revoke"),
            lambda: ("on connection", self._row().pk, "get_access_token"),
            lambda: ("delete user", self._row().user_id),
            lambda: self._act_on_three("revoke_selected"),
            lambda: self._act_on_three("delete_selected"),
        ]

    def prepare(self) -> None:
        while rows.live().count() < LEAST_ROWS:
            make_connection(self._new_token("user"))
        past = timezone.now() - timedelta(minutes=1)
        chosen = random.sample(list(rows.live()), LEAST_ROWS // 2)
        rows.filter(pk__in=[row.pk for row in chosen], attempts=0).update(
            refresh_after=past, expires_at=past
        )
        self._users = set(get_user_model().objects.values_list("pk", flat=True))
        self._kept = kept_tokens()
        self._replacements = {}

    def settings_for(self, work: Work) -> dict[str, Any]:
        """Each has its keys in an order of its own, as while a new key is deployed."""
        keys = random.sample(self._keys, len(self._keys))
        is_anonymous = work[0] == "post" and not work[1]
        return {"ENCRYPTION_KEYS": keys} | (SIGN_IN if is_anonymous else {})

    def assert_is_right(self, provider: Provider) -> None:
        kept = kept_tokens()
        known = kept.keys() | provider.revoked
        lost = self._kept.keys() - known
        assert [it for it in lost if not self._replacements.get(it, set()) & known] == []
        assert [token for token, count in kept.items() if count > 1] == []
        for row in rows.all():
            assert_is_whole(row)
        created = get_user_model().objects.filter(username__startswith="user of")
        assert not created.filter(leadexec_connections=None).exclude(pk__in=self._users).exists()
        assert not provider.overlaps

    def _new_token(self, account: str) -> str:
        return f"{account}-{next(self._numbers)}"

    def _row(self) -> LeadExecConnection:
        return random.choice(list(rows.live().select_related("user")))

    def _link(self) -> Work:
        return calling_back(browser_of(make_user()), self._new_token("user"))

    def _link_again(self) -> Work:
        row, token = self._row(), self._new_token("user")
        self._replacements.setdefault(plain(row.refresh_token), set()).add(token)
        return calling_back(browser_of(row.user), token)

    def _sign_in(self) -> Work:
        account = f"account{random.randrange(4)}"
        token = self._new_token(account)
        for row in rows.live().filter(account_id=account):
            self._replacements.setdefault(plain(row.refresh_token), set()).add(token)
        return calling_back(Client(), token)

    def _act_on_three(self, action: str) -> Work:
        return acting_on(browser_of(self._root), action, [self._row() for _ in range(3)])


class Moments:
    """Random moments to die at: within what work of a kind takes, as far as that is known."""

    def __init__(self) -> None:
        self._longest: dict[str, float] = {}

    def one_for(self, work: Work) -> float:
        return random.uniform(0, self._longest.get(name_of(work), 0.3))

    def learn(self, work: Work, fate: Fate) -> None:
        known = self._longest.get(name_of(work), 0.3)
        # A death shows that it would have taken longer; no more than a little at a time, though.
        longest = max(known, 1.2 * fate.seconds) if fate.killed else (known + fate.seconds) / 2
        self._longest[name_of(work)] = min(longest, 2)


def name_of(work: Work) -> str:
    kind, *arguments = work
    return str(arguments[0]) if kind == "command" else " ".join([kind, *map(str, arguments[1:2])])


def flaky(provider: Provider, token: str) -> bytes:
    return (unavailable if random.random() < 0.1 else fresh)(provider, token)


def test_whatever_dies_whenever_one_run_brings_everything_to_a_right_state(
    site: Settings,
    provider: Provider,
    three_workers: list[ForkedWorkers],
    record_property: Callable[[str, object], None],
) -> None:
    keys = [*site.LEADEXEC["ENCRYPTION_KEYS"], Fernet.generate_key().decode()]
    site.LEADEXEC = site.LEADEXEC | {"ENCRYPTION_KEYS": keys}
    provider.latency, provider.default = 0.01, flaky
    world, moments, deaths = Site(keys), Moments(), Counter[str]()
    for _ in range(ROUNDS):
        world.prepare()
        works = [deed() for deed in random.sample(world.deeds, len(three_workers))]
        for worker, work in zip(three_workers, works, strict=True):
            leadexec = site.LEADEXEC | world.settings_for(work)
            worker.start(*work, after=moments.one_for(work), leadexec=leadexec)
        for worker, work in zip(three_workers, works, strict=True):
            fate = worker.fate()
            moments.learn(work, fate)
            deaths[name_of(work)] += fate.killed
            assert fate.trouble in ("", "ProviderUnavailable", "AuthorizationRejected")
        world.assert_is_right(provider)
        if random.random() < 0.5:
            end_leases(provider)
    for name, count in deaths.items():
        record_property(f"deaths: {name}", count)
    assert deaths.total() >= ROUNDS / 2

    provider.default = None
    assert_mended(site, provider, keys)


def assert_mended(settings: Settings, provider: Provider, keys: list[str]) -> None:
    now = timezone.now()
    rows.filter(attempts__gt=0).update(refresh_after=now)
    outbox.filter(attempts__gt=0).update(retry_after=now)
    recover(provider)
    kept = kept_tokens()
    call_command("rotate_leadexec_keys", stdout=StringIO())
    settings.LEADEXEC = settings.LEADEXEC | {"ENCRYPTION_KEYS": keys[:1]}
    assert kept_tokens() == kept
    for token in kept:
        assert rows.holding(token).get().status == "active"
