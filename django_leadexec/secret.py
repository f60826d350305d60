"""Keeps tokens out of whatever shows the values of a program.

Error pages, error mails and error trackers show the locals of every frame that an exception came
through. Some of them take text by its value and everything else by its repr. So a token in memory
is no text, but an object that holds one.
"""

import hmac
from collections.abc import Callable
from functools import wraps
from typing import NoReturn, ParamSpec, Self, TypeVar

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


class Secret:
    """Holds a text, and shows it only to who calls ``reveal()``.

    It can not be pickled, so no cache, session or queue can take it along.
    Raises TypeError for what is no text, ValueError for text that is no Unicode.
    """

    __slots__ = ("__reveal",)

    def __init__(self, text: str) -> None:
        is_text, is_unicode = isinstance(text, str), True
        if is_text:
            try:
                text.encode()
            except UnicodeEncodeError:
                is_unicode = False
        if not (is_text and is_unicode):
            # Raised outside of the except clause: that error holds the text.
            del text
            if not is_text:
                raise TypeError("A token must be a str.")
            raise ValueError("A token must be valid Unicode.")
        # Not the text: some serializers and debuggers walk through the attributes of any object.
        self.__reveal: Callable[[], str] = lambda: text

    @classmethod
    def of(cls, token: "str | Secret") -> "Secret":
        """The token as a secret, whichever of the two it is."""
        return token if isinstance(token, Secret) else cls(token)

    def reveal(self) -> str:
        """The text itself. Call it in the very expression that needs it."""
        return self.__reveal()

    def __repr__(self) -> str:
        return "<Secret>"

    def __bool__(self) -> bool:
        return bool(self.__reveal())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.__reveal().encode(), other.__reveal().encode())

    def __hash__(self) -> int:
        return hash(self.__reveal())

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("A secret can not be pickled. Pass the key of its row instead.")


class MaskedText(str):
    """Text whose repr does not tell it, for where a library takes nothing but text."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def without_frames(call: Callable[Arguments, Answer]) -> Callable[Arguments, Answer]:
    """Let whatever is raised in ``call`` show no frame of it, not even a time limit's signal."""

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
