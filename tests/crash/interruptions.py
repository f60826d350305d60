"""One piece of work, done again and again, and interrupted each time at another step."""

import logging
import random
from collections.abc import Callable, Iterator
from typing import Any

from ..provider import Provider
from .forked_workers import Fate, ForkedWorkers
from .recovery import start_over

logger = logging.getLogger(__name__)

CUT_OFF = {"OperationalError", "InterfaceError"}


class Interruptions:
    """``for interruption in interruptions`` runs the body once uninterrupted, then once a step.

    The body prepares, does the work with ``interruption.during()``, and looks at what is left.
    ``harm``: a "kill", or a "cut" of the database connection. ``sample``: how many of the steps.
    """

    def __init__(
        self,
        workers: ForkedWorkers,
        provider: Provider,
        harm: str,
        sample: int | None,
        record: Callable[[str, object], None],
    ) -> None:
        self._workers = workers
        self._provider = provider
        self._harm = harm
        self._sample = sample
        self._record = record
        self._step: int | None = None
        self._steps = self._count = 0

    def __iter__(self) -> Iterator["Interruptions"]:
        yield self
        steps = range(self._steps + 1)
        chosen = steps if self._sample is None else random.sample(steps, self._sample)
        for self._step in chosen:
            logger.warning("A %s at step %s of %s.", self._harm, self._step, self._steps)
            start_over(self._provider)
            yield self
        self._record(f"interruptions: {self._harm}", self._count)
        # Not all: where threads are at work, there are more steps one time than another.
        assert self._count > len(chosen) / 2

    def during(self, work: str, *arguments: Any) -> bool:
        """Have the deed done; whether it was stopped."""
        fate = self._workers.run(work, *arguments, at_step=self._step, harm=self._harm)
        if self._step is None:
            assert not fate.trouble
            self._steps = fate.steps
            return False
        self._count += fate.killed or fate.steps >= self._step
        return fate.killed or _is_cut_off(work, fate)


def _is_cut_off(work: str, fate: Fate) -> bool:
    """Whether it ended with an error, which has to be one that its caller can expect."""
    if work != "command":
        assert fate.trouble in {"", *CUT_OFF}
        return bool(fate.trouble)
    assert not fate.trouble
    code, error = fate.answer["code"], fate.answer["error"]
    assert code in (0, 2)
    assert error.startswith("The database failed: ") if code else not error
    return bool(code)
