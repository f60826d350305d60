"""Keeps tokens out of what shows the values of a program that has failed.

Error pages, error mails and error trackers show the locals of every frame that an exception came
through, by their reprs. So a token is a text whose repr doesn't tell it, and an exception that has
come through the frames of an HTTP call, which hold URLs and headers, leaves them behind.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


class Secret(str):
    """A text like any other, but for its repr."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def without_frames(call: Callable[Arguments, Answer]) -> Callable[Arguments, Answer]:
    """Let whatever is raised in ``call``, a time limit's signal included, show no frame of it."""

    @wraps(call)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
        try:
            return call(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - raised again, bare
            bare = error
        bare.__cause__ = bare.__context__ = None
        try:
            raise bare.with_traceback(None)
        finally:
            # The exception knows this frame: each would keep the other from being freed.
            del bare

    return wrapped
