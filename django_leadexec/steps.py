"""Code that waits for the provider, written once for sync and for async callers.

Such code is a generator. It yields steps, each marked as database or network, and gets back what
the step returned. What the step raised is raised at its ``yield``.
"""

import contextvars
import logging
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from django.db import connections

from .exceptions import LeadExecError

logger: logging.Logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """One thing to do. Database steps run in the thread that owns the database connection.

    ``is_owed``: a row is claimed, so the step has to be done even if the caller is gone. Else the
    row would stay leased, and the provider's answer would be lost.
    """

    do: Callable[[], Any]
    touches_database: bool
    is_owed: bool


Steps = Generator[Step, Any, T]


def database(do: Callable[[], Any], *, is_owed: bool = False) -> Step:
    """A step that uses the database."""
    return Step(do, touches_database=True, is_owed=is_owed)


def network(do: Callable[[], Any], *, is_owed: bool = False) -> Step:
    """A step that waits and uses no database, so that it may run in any thread."""
    return Step(do, touches_database=False, is_owed=is_owed)


def run(steps: Steps[T]) -> T:
    """Carry out the steps here and now; returns what the generator returns."""
    try:
        step = next(steps)
        while True:
            step = _resume(steps, step.do)
    except StopIteration as stop:
        result: T = stop.value
        return result


async def arun(steps: Steps[T]) -> T:
    """``run`` for async code: each step runs in a thread.

    A caller that is cancelled, as when a visitor hangs up, goes at once. What it still owes is done
    without it.
    """
    try:
        step = next(steps)
        while True:
            outcome: Future[Any] = Future()
            try:
                await sync_to_async(_attempt, thread_sensitive=step.touches_database)(step, outcome)
            except BaseException:
                # Cancelled, or the event loop or the request has ended, and with it the threads.
                _do_without_caller(steps, step, outcome)
                raise
            try:
                step = _resume(steps, outcome.result)
            finally:
                # The error knows this frame: each would keep the other from being freed.
                del outcome
    except StopIteration as stop:
        result: T = stop.value
        return result


def _resume(steps: Steps[Any], get_answer: Callable[[], Any]) -> Step:
    """Tell the generator what came of a step, an error as well. The next step.

    Raises StopIteration at the end of the steps, and an error that the generator does not handle.
    """
    try:
        answer = get_answer()
    except BaseException as error:  # noqa: BLE001 - the generator raises it again
        return steps.throw(error)
    finally:
        del get_answer  # it may hold the error, which knows this frame
    return steps.send(answer)


def _attempt(step: Step, outcome: "Future[Any]") -> None:
    """Do the step, unless it was called off before."""
    if outcome.set_running_or_notify_cancel():
        try:
            outcome.set_result(step.do())
        except BaseException as error:  # noqa: BLE001 - raised where the outcome is read
            outcome.set_exception(error)
    del outcome


def _do_without_caller(steps: Steps[Any], step: Step, outcome: "Future[Any]") -> None:
    """Do what is owed from ``step`` on, in a thread of its own.

    The threads of the event loop and of the request may end at any time, and the thread that owns
    their database connection with them.
    """
    is_called_off = outcome.cancel()
    if not step.is_owed and (is_called_off or not step.touches_database):
        steps.close()
        return
    begun = None if is_called_off else outcome
    work = contextvars.copy_context().run
    # Not a daemon: the process waits for it before it ends.
    thread = threading.Thread(
        target=work, args=(_do_the_rest, steps, step, begun), name="leadexec-owed"
    )
    # When the system grants no thread, the row comes free at the end of its lease.
    with suppress(RuntimeError):
        thread.start()


def _do_the_rest(steps: Steps[Any], step: Step, begun: "Future[Any] | None") -> None:
    """Do the owed steps. ``begun``: the outcome of the first, if another thread is at it."""
    try:
        step = _resume(steps, begun.result if begun else step.do)
        while step.is_owed:
            step = _resume(steps, step.do)
    except (StopIteration, LeadExecError):
        pass
    except Exception as error:  # noqa: BLE001 - there is nobody to raise it to
        logger.error("Work for a caller who is gone has failed: %s.", type(error).__name__)
    finally:
        steps.close()
        connections.close_all()
