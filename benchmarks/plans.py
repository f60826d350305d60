"""How the database goes about the statements of a run."""

import re
from collections.abc import Callable
from typing import Any

from django.db import connection

from django_leadexec.refresh import Options, Refresher

# ANALYZE carries the statement out, and tells how many rows it has read.
EXPLAIN = {
    "sqlite": "EXPLAIN QUERY PLAN",
    "postgresql": "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF)",
    "mysql": "ANALYZE",
}


def of_a_run() -> list[dict[str, Any]]:
    """Each statement of a run over one batch, with its plan. All of them leave the rows due."""
    seen: dict[str, list[str]] = {}

    def explain(
        execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any
    ) -> Any:
        statement = _short(sql)
        if sql.startswith(("SELECT", "UPDATE")) and not many and statement not in seen:
            seen[statement] = []  # before asking, as the question passes through here as well
            with connection.cursor() as cursor:
                cursor.execute(f"{EXPLAIN[connection.vendor]} {sql}", params)
                seen[statement] = [_line(row, cursor.description) for row in cursor.fetchall()]
        return execute(sql, params, many, context)

    with connection.execute_wrapper(explain):
        Refresher(Options.for_all("default", limit=200)).run()
    return [{"statement": statement, "plan": plan} for statement, plan in seen.items()]


def _line(row: tuple[Any, ...], description: Any) -> str:
    if connection.vendor == "mysql":
        names = [column[0] for column in description]
        shown = ("table", "type", "key", "rows", "r_rows", "Extra")
        line = ", ".join(
            f"{name}={value}" for name, value in zip(names, row, strict=True) if name in shown
        )
    else:
        line = str(row[-1])
    return line if len(line) < 200 else f"{line[:199]}…"


def _short(sql: str) -> str:
    """Without columns, the table's name before each, numbers, and all but three of many keys."""
    sql = re.sub(r"^SELECT .*? FROM ", "SELECT … FROM ", sql)
    sql = re.sub(r"""["`]\w+["`]\.""", "", sql)
    sql = re.sub(r"LIMIT \d+", "LIMIT %s", sql)
    return re.sub(r"(?:%s, ){2,}%s", "%s, …", sql)
