"""Commands that end in good order when they are asked to."""

import os
import select
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..clock import monotonic

SIGNALS = (signal.SIGINT, signal.SIGTERM)

STUCK = (
    b"The database has not answered since this command was asked to stop. It ends now. The rows "
    b"that it held are free again when their leases end.\n"
)


class Stop(threading.Event):
    """Set when a command has to end. Its main thread asks again and again whether it is.

    A main thread that no longer asks is stuck: it waits for the database.
    """

    def __init__(self) -> None:
        super().__init__()
        # By the monotonic clock.
        self.asked_at: float = monotonic()

    def is_set(self) -> bool:
        if threading.current_thread() is threading.main_thread():
            self.asked_at = monotonic()
        return super().is_set()


@contextmanager
def stop_on_signals(stop: Stop, patience: float) -> Iterator[None]:
    """Let SIGINT and SIGTERM set ``stop``. A second signal ends the process, as without this.

    ``patience``: after that many seconds in which the main thread has not asked whether it has to
    stop, the process ends with exit code 2.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore(*_: object) -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    # Python runs a handler when the main thread is between two of its own steps. While that waits
    # for the database, it is not. Another thread can read of the signal at once.
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    watcher = threading.Thread(target=_watch, args=(reader, stop, patience), daemon=True)
    watcher.start()
    wakeup_before = signal.set_wakeup_fd(writer.fileno())
    for number in SIGNALS:
        signal.signal(number, restore)
    try:
        yield
    finally:
        restore()
        signal.set_wakeup_fd(wakeup_before)
        writer.close()
        watcher.join()
        reader.close()


def _watch(reader: socket.socket, stop: Stop, patience: float) -> None:
    """Set ``stop`` at a signal, and see to it that the command ends. Runs until it does."""
    signalled_at: float | None = None
    seconds_left: float | None = None
    while True:
        if select.select([reader], [], [], seconds_left)[0]:
            numbers = reader.recv(100)
            if not numbers:
                return
            if signalled_at is None and not set(numbers).isdisjoint(SIGNALS):
                signalled_at = monotonic()
                stop.set()
        if signalled_at is not None:
            seconds_left = max(stop.asked_at, signalled_at) + patience - monotonic()
            if seconds_left <= 0:
                os.write(2, STUCK)
                os._exit(2)
