"""The benchmark's own processes: the stand-in, and the workers whose work is measured."""

import json
import os
import subprocess
import sys
from types import TracebackType
from typing import Any, Self
from urllib.request import urlopen

Result = dict[str, Any]


class Child:
    """``python -m MODULE``, spoken to in lines: it says hello, then answers each ``go``."""

    def __init__(self, module: str, *arguments: str, **environment: str) -> None:
        self.name = " ".join((module, *arguments))
        self.process = subprocess.Popen(  # noqa: S603 - our own modules
            [sys.executable, "-m", module, *arguments],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # So that Ctrl-C reaches the benchmark alone, which then ends its processes.
            start_new_session=True,
        )
        try:
            self.hello = self.finish()
        except BaseException:
            self.process.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The end of its input ends it; not while it is at work, which an error leaves it.
        if error is not None:
            self.process.kill()
        self.process.communicate()

    def start(self) -> None:
        """Begin; the other processes begin meanwhile."""
        print("go", file=self.process.stdin, flush=True)

    def finish(self) -> Result:
        for line in self.process.stdout or ():
            answer: Result = json.loads(line)
            return answer
        raise RuntimeError(f"{self.name} ended early, with exit status {self.process.wait()}.")

    def run(self) -> Result:
        self.start()
        return self.finish()


class StandIn(Child):
    def __init__(self, latency: float, lifetime: float = 12 * 3600) -> None:
        super().__init__("benchmarks.provider", str(latency), str(lifetime))
        self.url: str = self.hello["url"]

    def stats(self) -> Result:
        """Calls answered so far, and the CPU seconds spent."""
        return self.tell("stats")

    def tell(self, word: str) -> Result:
        """``down``, ``up``, or nothing but ``stats``."""
        with urlopen(f"{self.url}/{word}") as response:  # noqa: S310 - our own process
            stats: Result = json.load(response)
        return stats


class Worker(Child):
    """A process for one task of ``benchmarks.tasks``, on one database."""

    def __init__(
        self, task: str, alias: str = "", provider: str = "", margin: float = 0, **options: Any
    ) -> None:
        given = {"LEADEXEC_BENCH_DATABASE": alias, "LEADEXEC_BENCH_PROVIDER": provider}
        given["LEADEXEC_BENCH_MARGIN"] = str(round(margin)) if margin else ""
        environment = {variable: value for variable, value in given.items() if value}
        super().__init__("benchmarks.tasks", task, json.dumps(options), **environment)
