"""Shares a time budget out among the searches that are left."""

from __future__ import annotations

import time


class Budget:
    """Shares the time for all searches out evenly among those that are left: none is starved by an earlier one.

    Args:
        seconds: For all of them; None: no limit.
        searches: How many there are.
    """

    def __init__(self, seconds: float | None, searches: int):
        self._seconds = seconds
        self._deadline: float | None = None
        self._left = searches

    def skip(self, searches: int) -> None:
        """Takes out searches that need no time."""
        self._left -= searches

    def share(self) -> float | None:
        """Returns the next search's seconds, at least one; the time runs from the first call on."""
        if self._seconds is None:
            return None
        self._deadline = self._deadline or time.monotonic() + self._seconds
        share = (self._deadline - time.monotonic()) / self._left
        self._left -= 1
        return max(1.0, share)
