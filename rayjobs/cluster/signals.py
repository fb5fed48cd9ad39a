"""Ctrl-C and SIGTERM as one exception, whoever else of the process group was sent it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rayjobs.ray_internals.signals import end_search

GRACE_S = 4.0
"""How long a search may take to end its trials. Sent to the whole group, SIGTERM ends Ray's processes too, and nobody
answers any more."""


class Interruption:
    """Tells whether the user, or the system, asked the command to end."""

    def __init__(self) -> None:
        self.requested = False
        self.searching = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Ends a search gracefully the first time, but not for ever; anything else at once."""
        if self.searching and not self.requested:
            self.requested = True
            signal.setitimer(signal.ITIMER_REAL, GRACE_S)
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
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    previous = {number: signal.signal(number, interruption.on_signal) for number in numbers}
    try:
        yield interruption
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)
