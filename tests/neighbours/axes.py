"""django-axes locks an address out after failed log-ins."""

from typing import Any

from .scenario import Browser, make_connection_of, path


def more() -> dict[str, Any]:
    stranger = Browser()
    for _ in range(5):
        stranger.submit(path("login"), username="ada", password="wrong")
    locked = stranger.submit(path("login"), username="ada", password="secret").status_code == 429
    make_connection_of("ada", "acme-2")
    # Its own answer, which leadexec.js shows as a lock that passes.
    return {
        "locked": locked,
        "signed in by no other way": stranger.ask("acme-2").status_code == 429,
    }
