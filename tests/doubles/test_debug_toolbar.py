"""django-debug-toolbar watches each query, and on SQLite its cursor fails at executemany."""

import json

from ..needs import import_or_skip
from ..processes import run_scenario

import_or_skip("debug_toolbar")


def test_pages_and_the_admin_refresh_under_the_toolbar() -> None:
    assert json.loads(run_scenario("tests.doubles.toolbar")) == {
        "page": 200,
        "has_toolbar": True,
        "has_token": True,
        "admin": 200,
        "refreshes": {"of-ada": 1, "token-0": 1, "token-1": 1, "token-2": 1},
        "fresh": 4,
        "leased": 0,
    }
