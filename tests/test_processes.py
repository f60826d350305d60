"""A wait for another thread or process ends, and says what it waited for."""

import ast
import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from .processes import await_until, wait_until
from .provider import Provider

TESTS = Path(__file__).parent
# Waits whose bound is elsewhere: a barrier's is given when it is made, the pace of these tests does
# not sleep, and a socket server sets ``stopping`` at the end of its test.
BOUNDED_ELSEWHERE = ("barrier.wait", "pace.wait", "stopping.wait")
MAY_HAVE_A_TIMEOUT = {"subprocess.run", "threading.Barrier"}


def never() -> bool:
    return False


def test_a_wait_in_vain_tells_for_what_and_how_long() -> None:
    with pytest.raises(AssertionError, match=r"^waited 0\.01 s for never"):
        wait_until(never, 0.01)


def test_a_lambda_is_told_by_its_source() -> None:
    rows: list[str] = []
    with pytest.raises(AssertionError, match=r"waited 0\.01 s for .*lambda: len\(rows\) == 5"):
        wait_until(lambda: len(rows) == 5, 0.01)


def test_in_an_event_loop_too() -> None:
    with pytest.raises(AssertionError, match=r"waited 0\.01 s for never"):
        asyncio.run(await_until(never, 0.01))


def test_a_stand_in_that_cannot_start_says_why() -> None:
    class Broken(Provider):
        async def serve(self, *arguments: object) -> None:
            raise OSError("no port is free")

    with pytest.raises(OSError, match="no port is free"), Broken():
        pass


def waits_without_bound(source: str) -> Iterator[str]:
    """The waits in this code for a thread, process, event or barrier that name no bound."""
    tree = ast.parse(source)
    awaited = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Await)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or id(node) in awaited:
            continue
        call = ast.unparse(node.func)
        names = {keyword.arg for keyword in node.keywords}
        if call in MAY_HAVE_A_TIMEOUT:
            is_bounded = "timeout" in names
        elif call.endswith((".wait", ".join", ".communicate")):
            is_bounded = bool(node.args or names) or call.endswith(BOUNDED_ELSEWHERE)
        else:
            continue
        if not is_bounded:
            yield ast.unparse(node)


@pytest.mark.slow
def test_no_test_waits_without_a_bound() -> None:
    found = [
        f"{path.relative_to(TESTS)}: {wait}"
        for path in sorted(TESTS.rglob("*.py"))
        for wait in waits_without_bound(path.read_text())
    ]
    assert not found
