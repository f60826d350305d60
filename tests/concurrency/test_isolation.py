"""Databases whose transactions see snapshots, or are serializable: nobody sees their conflicts."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from django.contrib.auth import logout
from django.db import connection
from django.test import Client, RequestFactory
from django.urls import reverse
from pytest_django import Settings

from django_leadexec import conflicts
from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.refresh import Options, Refresher, Report

from ..factories import make_connection, make_due_connections, make_user
from ..provider import Provider
from ..visitor import LOGIN
from ..visitor import post as call_back
from .threads import begin, together

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.server,
]

rows = LeadExecConnection.objects
ROUNDS = 30


@pytest.fixture(params=["repeatable read", "serializable"], autouse=True)
def isolation(
    request: pytest.FixtureRequest, db: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """All connections of the test, in its threads as well, have this level."""
    # Enough for a machine with a lot of other work.
    monkeypatch.setattr(conflicts, "LOCK_PATIENCE", 120)
    options = connection.settings_dict["OPTIONS"]
    level: Any = request.param
    if connection.vendor == "postgresql":
        from django.db.backends.postgresql.psycopg_any import IsolationLevel

        level = IsolationLevel[request.param.upper().replace(" ", "_")]
    connection.close()
    options["isolation_level"] = level
    yield
    connection.close()
    del options["isolation_level"]


def refresh() -> Report:
    return Refresher(Options.for_all("default", batch_size=5)).run()


def post(client: Client, name: str, data: dict[str, Any]) -> int:
    if name == "callback":
        answer: Any = call_back(client, **data)
        return int(answer.status_code)
    url = reverse(f"leadexec:{name}")
    return client.post(url, data, content_type="application/json").status_code


def test_revocations_beside_a_refresh(provider: Provider) -> None:
    made = make_due_connections(ROUNDS)
    make_due_connections(ROUNDS, "other")
    provider.latency = 0.01
    revoked = together(refresh, *(row.revoke for row in made))
    report, *answers = revoked
    assert isinstance(report, Report), report
    # A revocation that a run holds at that moment is queued.
    assert set(answers) <= {True, False}, answers
    assert set(rows.filter(pk__in=[row.pk for row in made]).values_list("status", flat=True)) == {
        "revoked"
    }
    refresh()
    assert not PendingRevocation.objects.exists()
    assert not rows.live().filter(expires_at=None).exists()


def test_pages_that_want_the_same_tokens(provider: Provider) -> None:
    made = make_due_connections(5)

    def read_all() -> list[str]:
        return [rows.get(pk=row.pk).get_access_token() for row in made]

    provider.latency = 0.01
    report, *read = together(refresh, *[read_all] * 8)
    assert isinstance(report, Report), report
    assert read == [[f"access-1-for-token-{number}" for number in range(5)]] * 8


def test_callbacks_with_the_same_new_token(
    provider: Provider, configure: Callable[..., None]
) -> None:
    configure(CALLBACK_RATE="1000000/m")
    user, other = make_user(), make_user()
    browsers = [Client() for _ in range(8)]
    for number, browser in enumerate(browsers):
        browser.force_login(other if number == 7 else user, backend=LOGIN)
    posted = {"token": "new", "gesture": True, "next": None}
    statuses = together(*(partial(post, browser, "callback", posted) for browser in browsers))
    # The token is one user's. Any other is told that it is taken.
    assert set(statuses) <= {200, 409}, statuses
    assert 200 in statuses
    assert rows.live().count() == 1


def test_callbacks_disconnections_and_refreshes_of_one_connection(
    provider: Provider, configure: Callable[..., None]
) -> None:
    configure(CALLBACK_RATE="1000000/m")
    user = make_user()
    browsers = [Client() for _ in range(4)]
    for browser in browsers:
        browser.force_login(user, backend=LOGIN)

    def connect(browser: Client, number: int) -> set[int]:
        posted = {"gesture": True, "next": None}
        return {
            post(browser, "callback", posted | {"token": f"token-{number}-{round}"})
            for round in range(5)
        }

    def disconnect(browser: Client) -> set[int]:
        return {post(browser, "disconnect", {}) for _ in range(5)}

    results = together(
        partial(connect, browsers[0], 0),
        partial(connect, browsers[1], 1),
        partial(disconnect, browsers[2]),
        partial(disconnect, browsers[3]),
        lambda: [refresh() for _ in range(3)],
    )
    assert not [result for result in results if isinstance(result, Exception)], results
    *answered, _reports = results
    assert set().union(*answered) <= {200, 404}, answered  # type: ignore[arg-type]


def test_sign_ins_by_one_connection(
    provider: Provider, configure: Callable[..., None], settings: Settings
) -> None:
    # Django's own table of sessions has conflicts as well, and answers 400 to them.
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
    configure(CALLBACK_RATE="1000000/m", SIGN_IN=True, TIMEOUT=60)
    make_connection("t", expires_in=-1)
    posted = {"token": "t", "gesture": True, "next": None}
    for _ in range(3):
        statuses = together(*(partial(post, Client(), "callback", posted) for _ in range(8)))
        assert statuses == [200] * 8


def test_sign_outs_beside_refreshes(provider: Provider, settings: Settings) -> None:
    settings.LEADEXEC = settings.LEADEXEC | {"SIGN_IN": True}
    user = make_user()
    make_connection("t", user=user, expires_in=-1)
    is_over = threading.Event()

    def sign_out() -> None:
        request = RequestFactory().get("/")
        request.user = user
        request.session = Client().session
        logout(request)

    def keep_refreshing() -> None:
        while not is_over.is_set():
            Refresher(Options.for_all("default", everything=True)).run()

    refreshing = begin(keep_refreshing)
    results = [result for _ in range(5) for result in together(*[sign_out] * 4)]
    is_over.set()
    assert refreshing.result() is None
    assert results == [None] * 20
    assert rows.get().sign_outs == 20
