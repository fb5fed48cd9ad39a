"""Ctrl-C and SIGTERM as one exception."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rayjobs.ray_internals.signals import end_search


class Interruption:
    """Tells whether the user, or the system, asked the command to end."""

    def __init__(self) -> None:
        self.requested = False
        self.searching = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Ends a search gracefully the first time, anything else at once."""
        if self.searching and not self.requested:
            self.requested = True
            end_search()
            return
        self.requested = True
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Handles Ctrl-C and SIGTERM alike. To be entered after `start`: Ray sets a handler of its own.

    Ray's handler for SIGTERM saves nothing, and Tune returns from a Ctrl-C as if the search had ended.
    """
    interruption = Interruption()
    previous = {number: signal.signal(number, interruption.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
