#!/usr/bin/env python3
"""Changes the code a little, again and again, and tells which changes no test notices.

``make mutants`` calls it; cosmic-ray makes the changes. First the tests are run once, to learn
which of them reach which line. Then each change is tried against the tests that reach it, the
nearest first, until one fails. It works on copies of the checkout. A change that lives is a missing
test, code that does nothing, or one that makes no difference.
"""

import argparse
import ast
import difflib
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from queue import SimpleQueue

from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from coverage import CoverageData

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("django_leadexec")
# Doors, texts and stand-ins, whose tests compare what they show.
NOT_MUTATED = ("admin", "locale", "management", "migrations", "sandbox", "templatetags", "testing")
# Changes that say little. Of ``X | None`` in annotations nothing is left when the program runs, a
# comparison by ``is`` is no fault that people make, and most kinds of sums end in a TypeError.
IGNORED = (
    *("BitAnd", "BitOr", "BitXor", "LShift", "RShift", "FloorDiv", "Mod", "Pow", "_Is", "_IsNot"),
    *("ExceptionReplacer", "RemoveDecorator", "VariableInserter", "VariableReplacer"),
)
# Other programs, such as browsers, run code that is not the copy's.
QUICK = "not slow and not browser and not cluster and not redis and not rabbitmq and not node"
# A test has ``PATIENCE`` times the seconds it took without a change, and ``MORE_SECONDS``.
PATIENCE = 5
MORE_SECONDS = 20
# Pytest's exit statuses that tell of no failure.
ALL_PASSED, NONE_RAN = 0, 5
# What one change is tried against, at most. A line of ``conf`` is reached by nearly all tests.
MOST_TESTS = 60


@dataclass(frozen=True, order=True)
class Mutant:
    """The ``occurrence``-th place where an operator of cosmic-ray changes a module."""

    module: str
    line: int
    operator: str
    occurrence: int

    @property
    def path(self) -> Path:
        return PACKAGE / f"{self.module}.py"

    def code(self) -> str:
        """The changed module."""
        operator = plugins.get_operator(self.operator)()
        return str(mutate_code((ROOT / self.path).read_text("utf-8"), operator, self.occurrence))

    def difference(self) -> str:
        before = (ROOT / self.path).read_text("utf-8").splitlines()
        lines = difflib.unified_diff(before, self.code().splitlines(), n=0, lineterm="")
        return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


@dataclass
class Measured:
    """What a run without changes has told: each test's seconds, and the tests of each line."""

    seconds: dict[str, float]
    coverage: CoverageData
    # How many lines of the package a test reaches. The fewer, the nearer it is to each of them.
    reach: Counter[str] = field(default_factory=Counter)
    _by_line: dict[str, dict[int, set[str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for path in self.coverage.measured_files():
            name = path[path.rindex(f"{PACKAGE}/") :]
            self._by_line[name] = {
                line: {context.rpartition("|")[0] for context in contexts} - {""}
                for line, contexts in self.coverage.contexts_by_lineno(path).items()
            }
            for tests in self._by_line[name].values():
                self.reach.update(tests)

    def tests_for(self, mutant: Mutant) -> dict[str, float]:
        """The tests that reach a change, the nearest first, and the most seconds of each.

        What runs when the module is imported, such as a constant, is for all tests of the module.
        """
        by_line = self._by_line.get(str(mutant.path), {})
        lines = [line for line in statement_lines(mutant) if line in by_line]
        reached = set().union(*(by_line[line] for line in lines))
        if lines and not reached:
            reached = set().union(*by_line.values())
        own = f"test_{mutant.path.stem}.py"
        order = sorted(reached, key=lambda test: (own not in test, self.reach[test], test))
        return {
            test: MORE_SECONDS + PATIENCE * self.seconds.get(test, 1.0)
            for test in order[:MOST_TESTS]
        }


class Checkout:
    """A copy of the checkout, with tests to run in it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "checkout"
        self._chosen = folder / "chosen.json"
        ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", "build", "node_modules")
        shutil.copytree(ROOT, self.root, ignore=ignored)
        # Python's cache of a module could be taken for that of a change made in the same second.
        self._environment = os.environ | {
            "PYTHONPATH": f"{self.root}:{self.root / 'scripts'}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if url := os.environ.get("DATABASE_URL"):
            self._environment["DATABASE_URL"] = f"{url}_{folder.name}"

    def check(self, python: str) -> None:
        """Make sure that the copy's tests use the copy's code, and not an installed package."""
        show = "import django_leadexec; print(django_leadexec.__file__)"
        done = self._run([python, "-c", show])
        if not done.stdout.startswith(str(self.root)):
            sys.exit(f"The tests of {self.root} would use other code: {done.stdout}{done.stderr}")

    def measure(self, python: str, paths: list[str], kept: Path) -> None:
        """Run all tests once, and keep in the folder ``kept`` what that tells."""
        options = ["-q", "-n", "2", "-m", QUICK, "--cov=django_leadexec", "--cov-context=test"]
        environment = {
            "COVERAGE_FILE": str(kept / "coverage"),
            "LEADEXEC_NOTE_SECONDS": str(kept / "seconds.json"),
        }
        command = [python, "-m", "pytest", "-p", "chosen_tests", "--cov-report=", *options]
        done = self._run([*command, *paths], **environment)
        if done.returncode:
            sys.exit(f"The tests fail already, without any change:\n{done.stdout[-2000:]}")

    def first_failure(self, python: str, tests: dict[str, float]) -> str | None:
        """The first of these tests that fails or does not end, or None."""
        self._chosen.write_text(json.dumps(tests), "utf-8")
        files = dict.fromkeys(test.partition("::")[0] for test in tests)
        options = ["-x", "-v", "-n", "0", "--no-migrations", "-p", "no:randomly", "-p", "no:cov"]
        command = [python, "-m", "pytest", "-p", "chosen_tests", *options, *files]
        done = self._run(command, LEADEXEC_CHOSEN_TESTS=str(self._chosen))
        if done.returncode in (ALL_PASSED, NONE_RAN):
            return None
        # The last line about a test tells the one that failed, or that did not end.
        names = [line.partition("::")[2] for line in done.stdout.splitlines() if "::" in line]
        return names[-1][:100] if names else "the tests can not be loaded"

    def first_to_notice(self, mutant: Mutant, python: str, tests: dict[str, float]) -> str | None:
        changed, original = self.root / mutant.path, (ROOT / mutant.path).read_text("utf-8")
        changed.write_text(mutant.code(), "utf-8")
        try:
            return self.first_failure(python, tests)
        finally:
            changed.write_text(original, "utf-8")

    def _run(self, command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.root,
            env=self._environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )


@cache
def statements(module: str) -> list[ast.stmt]:
    tree = ast.parse((ROOT / PACKAGE / f"{module}.py").read_text("utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]


def is_constant(mutant: Mutant) -> bool:
    """Whether this is another value of a constant, for which a test could only repeat the value."""
    statement = statement_of(mutant)
    is_value = isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
    return is_value and "Number" in mutant.operator and statement.col_offset == 0


def statement_of(mutant: Mutant) -> ast.stmt:
    """The smallest statement that a change is in."""
    around = [node for node in statements(mutant.module) if mutant.line in lines_of(node)]
    return max(around, key=lambda node: node.lineno)


def lines_of(statement: ast.stmt) -> range:
    decorators = getattr(statement, "decorator_list", [])
    first = min(node.lineno for node in [statement, *decorators])
    return range(first, (statement.end_lineno or first) + 1)


def statement_lines(mutant: Mutant) -> range:
    """The lines of the statement that a change is in. Of a block, those of its head."""
    smallest = statement_of(mutant)
    body = getattr(smallest, "body", None)
    end = body[0].lineno if body else (smallest.end_lineno or smallest.lineno) + 1
    return range(smallest.lineno, max(end, smallest.lineno + 1))


def all_modules() -> list[str]:
    paths = sorted(path.relative_to(ROOT / PACKAGE) for path in (ROOT / PACKAGE).rglob("*.py"))
    return [str(path.with_suffix("")) for path in paths if path.parts[0] not in NOT_MUTATED]


def mutants_of(module: str) -> list[Mutant]:
    code = (ROOT / PACKAGE / f"{module}.py").read_text("utf-8")
    lines, tree, found = code.splitlines(), get_ast(code), []
    for name in sorted(plugins.operator_names()):
        if any(ignored in name for ignored in IGNORED):
            continue
        operator = plugins.get_operator(name)()
        places = [place for node in ast_nodes(tree) for place in operator.mutation_positions(node)]
        for number, ((line, column), _end) in enumerate(places):
            # Such a star divides parameters, and multiplies nothing.
            if not lines[line - 1].startswith("*,", column):
                found.append(Mutant(module, line, name, number))
    return [mutant for mutant in found if not is_constant(mutant)]


def sample(modules: list[str], count: int, seed: int) -> list[Mutant]:
    """``count`` changes of each module, or all where there are no more."""
    chosen = []
    for module in modules:
        there = mutants_of(module)
        chosen += random.Random(f"{seed} {module}").sample(there, min(count, len(there)))
    return sorted(chosen)


def digest(tests: list[str]) -> str:
    """A name for what the tests at these paths reach of the code, as both are now."""
    found = hashlib.sha256(" ".join(tests).encode())
    for folder in ("django_leadexec", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", help="such as refresh/writer; else all")
    parser.add_argument("--count", type=int, default=10, help="how many changes of each module")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--tests", nargs="+", default=["tests"], help="paths of tests to run")
    parser.add_argument("--python", default=str(ROOT / ".venv/bin/python"))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    chosen = sample(options.modules or all_modules(), options.count, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        checkouts: SimpleQueue[Checkout] = SimpleQueue()
        for number in range(2):
            checkout = Checkout(Path(folder) / str(number))
            checkout.check(options.python)
            checkouts.put(checkout)
        kept = ROOT / "build" / "mutants" / digest(options.tests)
        if not (kept / "seconds.json").exists():
            kept.mkdir(parents=True, exist_ok=True)
            checkout.measure(options.python, options.tests, kept)
        coverage = CoverageData(kept / "coverage")
        coverage.read()
        measured = Measured(json.loads((kept / "seconds.json").read_text("utf-8")), coverage)
        report(chosen, measured, checkouts, options.python)


def report(
    chosen: list[Mutant], measured: Measured, checkouts: SimpleQueue[Checkout], python: str
) -> None:
    """Try the changes, two at a time, and print what became of each, and the counts."""

    def attempt(mutant: Mutant) -> bool:
        tests = measured.tests_for(mutant)
        if not tests:
            print(f"lives: {mutant}, which no test reaches\n{mutant.difference()}", flush=True)
            return False
        checkout = checkouts.get()
        try:
            noticed = checkout.first_to_notice(mutant, python, tests)
        finally:
            checkouts.put(checkout)
        verdict = f"noticed by {noticed}" if noticed else f"lives through {len(tests)} tests"
        print(f"{verdict}: {mutant}\n{mutant.difference()}", flush=True)
        return noticed is not None

    with ThreadPoolExecutor(2) as threads:
        outcomes = list(threads.map(attempt, chosen))
    counts: defaultdict[str, Counter[bool]] = defaultdict(Counter)
    for mutant, is_noticed in zip(chosen, outcomes, strict=True):
        counts[mutant.module][is_noticed] += 1
    for module, count in counts.items():
        print(f"{count[True]:4} of {count.total():4} noticed  {module}")
    print(f"{sum(outcomes):4} of {len(outcomes):4} noticed")


if __name__ == "__main__":
    main()
