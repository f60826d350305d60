"""No room on SQLite's disk: by its own limit of pages, and by that of the file system."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection as database

from django_leadexec.models import LeadExecConnection

from ..factories import make_due_connections, make_user, plain
from ..provider import Provider
from .browser_requests import acting_on, browser_of, calling_back, status_of
from .forked_workers import ForkedWorkers
from .recovery import assert_nothing_is_lost, kept_tokens, recover, rows, start_over

pytestmark = [
    pytest.mark.sqlite,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("site"),
]
LONG = "t" * 400
# How each says that there is no room.
LIMITS = {"pages": "database or disk is full", "file": "disk I/O error"}


@pytest.fixture(params=LIMITS)
def limit(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def fails(workers: ForkedWorkers, limit: str) -> Callable[..., bool]:
    """Has a deed done where no page can be added; whether there was too little room for it."""

    def do(*work: Any) -> bool:
        leave_no_page_free()
        fate = workers.run(*work, room=(limit, 0))
        assert fate.trouble in ("", "OperationalError")
        return bool(fate.trouble)

    return do


def leave_no_page_free() -> None:
    """What has been deleted would be room."""
    with database.cursor() as cursor:
        cursor.execute("VACUUM")


def different_fillings(provider: Provider) -> Iterator[list[LeadExecConnection]]:
    """One row more each time, as a page may have room for another, or not. Four fill it."""
    for count in range(3, 7):
        start_over(provider)
        yield make_due_connections(count, LONG)


def test_a_run_exits_with_2_and_the_next_does_the_rest(
    provider: Provider, workers: ForkedWorkers, limit: str
) -> None:
    tokens = [plain(row.refresh_token) for row in make_due_connections(100)]
    leave_no_page_free()
    command = ("refresh_leadexec_tokens", "--batch-size=5")
    fate = workers.run("command", *command, room=(limit, 2))
    assert fate.answer == {"code": 2, "error": f"The database failed: {LIMITS[limit]}"}
    assert rows.filter(expires_at=None).exists()
    assert_nothing_is_lost(provider, tokens)
    recover(provider)
    assert kept_tokens().keys() == set(tokens)


def test_a_page_that_needs_a_token_leaves_a_row_that_is_due(
    provider: Provider, fails: Callable[..., bool]
) -> None:
    failures = 0
    for connections in different_fillings(provider):
        tokens = [plain(row.refresh_token) for row in connections]
        failures += fails("on connection", connections[-1].pk, "get_access_token")
        assert_nothing_is_lost(provider, tokens)
        recover(provider)
        assert kept_tokens().keys() == set(tokens)
    assert failures


def test_a_new_link_is_made_whole_or_not_at_all(
    provider: Provider, fails: Callable[..., bool]
) -> None:
    failures, new = 0, f"{LONG}-new"
    for connections in different_fillings(provider):
        browser = browser_of(make_user())
        failed = fails(*calling_back(browser, new))
        failures += failed
        assert kept_tokens()[new] == (not failed)
        assert_nothing_is_lost(provider, [plain(row.refresh_token) for row in connections])
        recover(provider)
        assert status_of(browser, new) == "connected"
        assert_nothing_is_lost(provider, [new])
    assert failures


def test_a_revocation_is_made_whole_or_not_at_all(
    provider: Provider, fails: Callable[..., bool]
) -> None:
    failures = 0
    for connections in different_fillings(provider):
        tokens = {plain(row.refresh_token) for row in connections}
        root = browser_of(get_user_model().objects.create_superuser("root"))
        failed = fails(*acting_on(root, "revoke_selected", connections))
        failures += failed
        assert rows.live().count() == (len(tokens) if failed else 0)
        assert_nothing_is_lost(provider, tokens)
        recover(provider)
        rows.all().move_to_outbox()
        recover(provider)
        assert provider.revoked == tokens
    assert failures
