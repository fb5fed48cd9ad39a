"""A command that is asked to end, by Ctrl-C or SIGTERM: it ends in order, and the second time at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 130
"""What a shell gives a command that Ctrl-C ended."""


@contextmanager
def as_interrupt() -> Iterator[None]:
    """Raises SIGTERM as KeyboardInterrupt, as Ctrl-C is, for the time of a `with` block; a second signal ends at once.

    What cleans up after the first would else be cut short with a traceback. Only the main thread has signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            os._exit(EXIT_CODE)
        asked = True
        raise KeyboardInterrupt

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            # Once all is cleaned up nothing is left to end but the interpreter, which gives the right exit code.
            signal.signal(number, signal.SIG_IGN if asked else handler)
