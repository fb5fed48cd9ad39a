"""A file per rank whose time tells that a run still does steps, so that whoever started it can see that it hangs."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

EVERY_S = 1.0
"""Touched at most so often: a run is looked at from outside every few seconds, and its steps take milliseconds."""


def heartbeat_file(run_dir: Path, rank: int) -> Path:
    """Returns the file a rank of a run touches."""
    return run_dir / f"alive-{rank}"


class Heartbeat:
    """Touches a rank's file while batches go by.

    Args:
        path: The file; None: nothing is written.
    """

    def __init__(self, path: Path | None):
        self._path = path
        self._next = 0.0

    def beat(self) -> None:
        """Tells that another batch is done. Costs a look at the clock, at most once a second a system call."""
        now = time.monotonic()
        if self._path is None or now < self._next:
            return
        self._next = now + EVERY_S
        with contextlib.suppress(OSError):  # storage that is away is met, and said, where something must be saved
            self._path.touch()
