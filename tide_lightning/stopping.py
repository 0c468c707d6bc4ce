"""SIGTERM, by which clusters end a job: told to the main thread at once, or kept until a step is done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM
"""What a shell says of a process that SIGTERM ended."""


class Stopped(BaseException):
    """SIGTERM asked this process to end. No `Exception`, so that nobody swallows it on the way.

    The message says what is kept; `by_all`, whether all ranks stop, each by an error like this one.
    """

    def __init__(self, message: str, by_all: bool = False) -> None:
        super().__init__(message)
        self.by_all = by_all
        self.is_told = False  # by another rank


class StopSignal:
    """Whether SIGTERM came.

    Fields:
        asked: whether it came.
        waits: whether somebody looks at `asked` and ends in good order; otherwise `Stopped` is raised where the
            main thread just is.
    """

    def __init__(self) -> None:
        self.asked = False
        self.waits = False

    def listen(self) -> None:
        """Take the signal over from whoever has it (Lightning's own handler speaks to other ranks from within)."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked = True
            if not self.waits:
                raise Stopped("stopped by SIGTERM")


@contextmanager
def stoppable() -> Iterator[StopSignal]:
    """Listen to SIGTERM inside."""
    stop, before = StopSignal(), signal.getsignal(signal.SIGTERM)
    stop.listen()
    try:
        yield stop
    finally:
        stop.waits = True
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
