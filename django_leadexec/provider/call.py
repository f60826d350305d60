"""One call to the provider while it lasts: its deadline, and the token that its URL leaves out.

urllib3 makes the connections and hands on nothing of ours to them. So the current call stands in a
variable of its thread, where they find it.
"""

import threading
from typing import Self

from ..clock import monotonic

MASK = "/***"


class ProviderCall:
    """A call that one thread makes. Inside ``with`` it is the thread's current call.

    Its time begins when it is made. ``seconds`` is for the whole of it: to connect, send and read.

    ``opened_connection`` tells whether a connection was opened for this call. Otherwise it uses one
    that an earlier call left open.
    """

    __slots__ = ("_ends_at", "_token", "opened_connection")

    def __init__(self, seconds: float) -> None:
        self.opened_connection: bool = False
        self._ends_at = monotonic() + seconds
        # Percent-encoded. None: it is not in a URL yet, or it has been sent.
        self._token: str | None = None

    def __enter__(self) -> Self:
        _thread.call = self
        return self

    def __exit__(self, *error: object) -> None:
        _thread.call = None

    def seconds_left(self) -> float:
        """Seconds until the deadline. Raises TimeoutError if it has passed."""
        left = self._ends_at - monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    def mask(self, url: str) -> str:
        """The URL with ``***`` for its last path segment, the token, which the call keeps."""
        path, _, last = url.rpartition("/")
        self._token, mark, query = last.partition("?")
        return f"{path}{MASK}{mark}{query}"

    def unmask(self, request_line: str) -> str:
        """The request line with the token back in its place. The call keeps it no longer.

        Raises TimeoutError if the deadline has passed, by which time somebody else may ask.
        """
        if self._token is None:
            return request_line
        self.seconds_left()
        before, _, after = request_line.rpartition(MASK)
        token, self._token = self._token, None
        return f"{before}/{token}{after}"

    @property
    def is_masked(self) -> bool:
        """Whether the call has masked its URL and nothing has unmasked it: the token is unsent."""
        return self._token is not None


def current_call() -> ProviderCall | None:
    """The call that this thread is making, if it is making one."""
    return _thread.call


class _Thread(threading.local):
    call: ProviderCall | None = None


_thread = _Thread()
