"""The workers: threads that call the provider, and nothing else."""

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from .jobs import Answer, Job

# Seconds between two looks at what the threads have done, while they are all busy.
COLLECT_INTERVAL = 0.005
# By how much the number of threads may grow at once, while all of them wait for the provider.
GROWTH = 4
# Seconds that a call is taken to last before the first one has ended.
FIRST_GUESS = 0.1


class Pool(Protocol):
    """What a run needs of its workers, be they threads or something else.

    ``in_flight``: jobs submitted and not yet collected. ``call_seconds``: how long a call takes,
    as a moving average.
    """

    in_flight: int
    call_seconds: float

    def submit(self, job: Job) -> None:
        """Have a worker perform the job."""

    def collect(
        self, deliver: Callable[[Answer], object], timeout: float, *, in_batches: bool
    ) -> None:
        """Deliver the answers that are there; wait ``timeout`` seconds for the first.

        ``in_batches``: a few milliseconds more, where that brings many at once.
        """

    def finish(self, deliver: Callable[[Answer], object]) -> None:
        """Wait for what is under way, deliver it, and end the workers."""

    def abandon(self) -> None:
        """Let the workers end when they are ready, without waiting for them."""


class ThreadPool:
    """A pool of up to ``size`` threads, which are started as they turn out to be useful.

    ``perform`` runs in the threads. It must not raise.
    """

    def __init__(self, perform: Callable[[Job], Answer], size: int) -> None:
        self.in_flight: int = 0
        self.call_seconds: float = FIRST_GUESS
        self._perform = perform
        self._size = size
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        # Seconds, and processor seconds, of all calls since threads were last added.
        self._seconds = self._cpu_seconds = 0.0

    def submit(self, job: Job) -> None:
        if not self._threads:
            self._start_thread()
        self.in_flight += 1
        self._jobs.put(job)

    def collect(
        self, deliver: Callable[[Answer], object], timeout: float, *, in_batches: bool
    ) -> None:
        try:
            first = self._answers.get(
                timeout=COLLECT_INTERVAL if self._has_waiting_jobs() else timeout
            )
        except queue.Empty:
            self._add_threads(float("inf"))
            return
        # Delivered at once: a time limit may raise at any point from here on, and an answer of the
        # provider must not be lost.
        self._deliver(first, deliver)
        if in_batches and self.in_flight > len(self._threads):
            # The threads have enough to do. To wake for each answer would take the interpreter
            # from them.
            time.sleep(COLLECT_INTERVAL)
        self._deliver_all(deliver)
        if self._cpu_seconds:
            # If calls wait only for the interpreter, seconds / processor seconds is the number of
            # threads. Half of that is enough.
            self._add_threads(self._seconds / self._cpu_seconds / 2)
            self._seconds = self._cpu_seconds = 0.0

    def finish(self, deliver: Callable[[Answer], object]) -> None:
        self.abandon()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._deliver_all(deliver)

    def abandon(self) -> None:
        for _ in self._threads:
            self._jobs.put(None)

    def _deliver_all(self, deliver: Callable[[Answer], object]) -> None:
        with suppress(queue.Empty):
            while True:
                self._deliver(self._answers.get_nowait(), deliver)

    def _deliver(self, answer: Answer, deliver: Callable[[Answer], object]) -> None:
        deliver(answer)
        self.in_flight -= 1
        if answer.seconds:
            self.call_seconds += (answer.seconds - self.call_seconds) / 16
            self._seconds += answer.seconds
            self._cpu_seconds += answer.cpu_seconds

    def _has_waiting_jobs(self) -> bool:
        """Whether jobs wait for a thread, and there may be more threads."""
        return len(self._threads) < min(self.in_flight, self._size)

    def _add_threads(self, useful: float) -> None:
        """Start threads, a few at once, until there are as many as can be ``useful``.

        More threads than keep the interpreter busy take it from each other. With a provider that
        answers at once, sixteen threads do two thirds of the work of one.
        """
        most = min(useful, GROWTH * len(self._threads))
        # If the system grants no more threads, those that are there have to do.
        with suppress(RuntimeError):
            while self._has_waiting_jobs() and len(self._threads) < most:
                self._start_thread()

    def _start_thread(self) -> None:
        name = f"leadexec-{len(self._threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._answers.put(self._perform(job))
