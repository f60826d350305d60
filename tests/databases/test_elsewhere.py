"""A site may keep the tables on another database than ``default``, and store local times."""

import json
from pathlib import Path

from ..processes import run_scenario


def test_all_of_it_works_on_the_database_that_the_router_writes_to(tmp_path: Path) -> None:
    out = run_scenario(
        "tests.databases.elsewhere", LEADEXEC_TEST_FILE=str(tmp_path / "site.sqlite3")
    )
    assert json.loads(out) == {
        "dry run": 1,
        "command": 1,
        "command again": 0,
        "all": 2,
        "wrong databases": [2, 2, 2, 2, 2, 2],
        "task": 1,
        "rotated": 3,
        "page": "access-1-for-page",
        "lives": True,
        "revoked": True,
        "revoked later": False,
        "callback": "connected",
        "disconnected": "revoked",
        "of handles": ["revoked", 0],
        "status": {"active": 2, "revoked": 4, "pending_revocations": 4},
        "told": 4,
    }
