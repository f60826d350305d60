"""Servers that fork after the client was used: each page still gets its own user's token."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from django_leadexec.models import LeadExecConnection

from .. import processes
from ..factories import plain
from ..needs import import_or_skip
from ..provider import Provider
from .running import Visitor, find_program, serving

pytestmark = pytest.mark.django_db(transaction=True)

PAGES = 80
AT_ONCE = 16

UWSGI = ("--http-socket=127.0.0.1:0", "--master", "--processes=4", "--need-app", "--die-on-term")
GUNICORN = ("--workers=4", "--preload", "--bind=127.0.0.1:0", "--backlog=2048")


def each_gets_their_own(provider: Provider, port: int) -> None:
    visitors = [Visitor.new(f"token-{number}") for number in range(PAGES)]
    provider.latency = 0.02
    with ThreadPoolExecutor(AT_ONCE) as threads:
        pages = list(threads.map(lambda visitor: visitor.get(port, "/page/"), visitors))
    right = [f"access-1-for-token-{number}" for number in range(PAGES)]
    assert pages == right
    stored = LeadExecConnection.objects.order_by("pk")
    assert [plain(row.access_token) for row in stored] == right
    # Before the fork the client was used indeed.
    assert provider.refreshes["before the fork 0"] == 1


def test_uwsgi(provider: Provider) -> None:
    import_or_skip("pyuwsgi")
    command = (
        find_program("uwsgi"),
        *UWSGI,
        "--module=tests.servers.wsgi",
        f"--virtualenv={sys.prefix}",
    )
    with serving(provider, *command, pattern=r"bound to TCP address 127\.0\.0\.1:(\d+)") as port:
        each_gets_their_own(provider, port)


def test_gunicorn(provider: Provider) -> None:
    command = ("gunicorn", *GUNICORN, "tests.servers.wsgi")
    with serving(provider, *command, pattern=r"Listening at: http://127\.0\.0\.1:(\d+)") as port:
        each_gets_their_own(provider, port)


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_multiprocessing(provider: Provider, method: str) -> None:
    provider.latency = 0.02
    process = processes.start_module(provider, "tests.servers.children", method)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    answers = json.loads(out)
    assert answers == {token: f"access-1-for-{token}" for token in answers}
    assert len(answers) == 80
    assert provider.refreshes["before the fork 0"] == 1
