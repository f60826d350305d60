"""Packages that sites have beside this one, each with a whole visit to a site of its own."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.db import connection

from ..needs import find_pgbouncer, import_or_skip
from ..processes import database_url, run_scenario, wait_until

ORDINARY = {
    "a stranger's page has the button": True,
    "posted": "confirm_required",
    "confirmed": 302,
    "connected": ["active", "acme", True],
    "refreshed": True,
    "token": "access-3-for-acme-1",
    "signed in": ["signed_in", True],
    "admin": [200, 200, 200, 200],
    "disconnected": ["revoked", ""],
}
ANY_DATABASE = {
    "allauth": "allauth.account",
    "authtoken": "rest_framework.authtoken",
    "axes": "axes",
    "channels": "channels",
    "gevent": "gevent",
    "hijack": "hijack",
    "import_export": "import_export",
    "opentelemetry": "opentelemetry.instrumentation.urllib3",
    "otp": "django_otp",
    "prefixes": "django",
    "wagtail": "wagtail",
}


def visit(neighbour: str, package: str, **environment: str) -> Any:
    import_or_skip(package)
    environment |= {"LEADEXEC_TEST_NEIGHBOUR": neighbour}
    return json.loads(run_scenario("tests.neighbours", **environment))


@pytest.mark.parametrize(("neighbour", "package"), ANY_DATABASE.items())
def test_a_whole_visit_works_beside_it(neighbour: str, package: str) -> None:
    seen = visit(neighbour, package)
    assert {key: seen.pop(key) for key in ORDINARY} == ORDINARY
    assert all(seen.values()), seen


@pytest.mark.postgres
def test_a_whole_visit_works_with_a_pool_of_psycopgs() -> None:
    assert visit("psycopg_pool", "psycopg_pool") == ORDINARY


@pytest.mark.mysql
def test_a_whole_visit_works_with_pymysql() -> None:
    assert visit("pymysql", "pymysql") == ORDINARY


@pytest.fixture
def pgbouncer(transactional_db: None, tmp_path: Path) -> Iterator[str]:
    """The URL of the test's database behind a pgbouncer that pools transactions."""
    program = find_pgbouncer()
    assert program
    url = urlsplit(database_url())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configuration = tmp_path / "pgbouncer.ini"
    configuration.write_text(
        f"[databases]\n* = host={url.hostname} port={url.port} user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\n"
        f"pool_mode = transaction\ndefault_pool_size = 3\nunix_socket_dir =\n"
        "ignore_startup_parameters = options\n"
    )
    command = [program, str(configuration)]
    if os.getuid() == 0:
        command += ["--user", "postgres"]
        tmp_path.chmod(0o755)
        configuration.chmod(0o644)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: accepts(port) or process.poll() is not None)
        assert process.poll() is None, process.communicate(timeout=60)[1]
        yield f"postgres://postgres@127.0.0.1:{port}/leadexec_neighbours"
    finally:
        process.kill()
        process.communicate(timeout=60)
        with connection.cursor() as cursor:
            cursor.execute("DROP DATABASE IF EXISTS test_leadexec_neighbours WITH (FORCE)")


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.postgres
@pytest.mark.pgbouncer
def test_a_whole_visit_works_behind_pgbouncer(pgbouncer: str) -> None:
    assert visit("pgbouncer", "psycopg", DATABASE_URL=pgbouncer) == ORDINARY
