"""The benchmark at its smallest: that it runs, not how fast."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.sqlite, pytest.mark.slow]

ROOT = Path(__file__).parents[1]
RUN = f"test-{os.getpid()}"
ROWS = {
    "capacity": 1,
    "imports": 1,
    "engine": 3,
    "peers": 2,
    "processes": 2,
    "pages": 3,
    "claim": 4,
    "memory": 1,
}


def benchmark(*arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--size=tiny", "--database=sqlite", *arguments],
        capture_output=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"LEADEXEC_BENCH_RUN": RUN},
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert not list(Path(tempfile.gettempdir()).glob(f"*{RUN}*"))
    return done.stdout


def test_the_benchmark_measures_every_row_and_tells_it_as_json():
    result = json.loads(benchmark("--json"))
    names = [row["name"] for row in result["rows"]]
    assert {name: names.count(name) for name in names} == ROWS
    assert result["skipped"] == []
    documented = (ROOT / "docs" / "benchmarks.md").read_text()
    for row in result["rows"]:
        assert row["ratio"] > 0
        assert row["lowest"] <= row["ratio"] <= row["highest"]
        assert all(f"`{key}`" in documented for key in row), row
    queries = {row["what"]: row["values"].get("queries") for row in result["rows"]}
    assert queries["leadexec_button, anonymous ÷ reading one row"] == [0]
    assert queries["leadexec_button, connected ÷ reading one row"] == [1]


def test_the_claim_searches_by_the_index_of_what_is_due():
    plans = json.loads(benchmark("--json", "--plans"))["plans"]["sqlite"]
    claims = [plan["plan"] for plan in plans if 'ORDER BY "refresh_after"' in plan["statement"]]
    assert claims
    for plan in claims:
        assert len(plan) == 1  # no sort
        assert "USING INDEX leadexec_due (app_id=? AND refresh_after<?)" in plan[0]


def test_the_profile_tells_what_each_step_costs():
    profile = json.loads(benchmark("--json", "--profile"))["profiles"]["sqlite"]
    assert {"claim", "decrypt", "write", "the engine, 16 workers"} <= profile["steps"].keys()
    assert profile["functions"]


def test_a_day_ends_with_everything_fresh():
    day = json.loads(benchmark("--json", "--day"))["days"]["sqlite"]
    assert day["refreshed"] > day["taking_part"]
    assert day["rejected"] == 0
    documented = (ROOT / "docs" / "benchmarks.md").read_text()
    assert all(f"`{key}`" in documented for key in day)
