"""What several commands take as arguments."""

from argparse import ArgumentTypeError
from collections.abc import Callable
from contextlib import suppress

from ..refresh import check_number
from ..refresh.options import NUMBERS


def number(name: str) -> Callable[[str], float]:
    """A type for argparse: reads the number of one option, and checks its range."""

    def read(text: str) -> float:
        value: object = text
        with suppress(ValueError):
            value = NUMBERS[name][0](text)
        try:
            check_number(name, value)
        except ValueError as error:
            raise ArgumentTypeError(str(error)) from None
        return value  # type: ignore[return-value]

    return read
