"""Visitors who hang up while their page waits for the provider, behind a real ASGI server."""

import time
from collections.abc import Iterator

import pytest

from django_leadexec.models import LeadExecConnection

from ..factories import is_leased, plain
from ..needs import import_or_skip
from ..processes import wait_until
from ..provider import Provider
from .running import Visitor, serving

import_or_skip("uvicorn")

pytestmark = pytest.mark.django_db(transaction=True)

VISITORS = 5


@pytest.fixture
def port(provider: Provider) -> Iterator[int]:
    command = ("uvicorn", "--port=0", "--lifespan=off", "tests.servers.asgi:application")
    with serving(provider, *command, pattern=r"running on http://127\.0\.0\.1:(\d+)") as port:
        yield port


def are_ended(visitors: list[Visitor]) -> bool:
    rows = LeadExecConnection.objects.in_bulk([visitor.row.pk for visitor in visitors])
    return all(
        plain(row.access_token).startswith("access-1-for-") and not is_leased(row)
        for row in rows.values()
    )


@pytest.mark.parametrize("path", ["/async/", "/page/"])
def test_the_answer_that_they_did_not_wait_for_is_stored(
    provider: Provider, port: int, path: str
) -> None:
    visitors = [Visitor.new(f"token-{number}") for number in range(VISITORS)]
    provider.held.set()
    # One connection of Django's is enough for all async pages, but each page waits in a thread.
    sockets = [visitor.send(port, path) for visitor in visitors]
    wait_until(lambda: len(provider.under_way) == VISITORS)
    for sock in sockets:
        sock.close()
    time.sleep(1)  # by now the server has cancelled the pages
    assert not are_ended(visitors)
    provider.held.clear()
    wait_until(lambda: are_ended(visitors), seconds=15)
    # Whoever comes next needs no call.
    assert visitors[0].get(port, path) == "access-1-for-token-0"
    assert set(provider.refreshes.values()) == {1}
