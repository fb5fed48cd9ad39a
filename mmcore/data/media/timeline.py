"""When the frames of a clip are shown. Nothing here decodes.

Containers begin at other times than 0, cameras skip frames, and a still picture lasts: so a frame is told by the time
at which it is shown, counted from the clip's first frame, and not by its number.

Shape legend: n frames of a clip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

COARSEST_S = 0.001
"""Seconds of the finest unit of a container whose times may be rounded to it; a longer unit is a frame's own."""


class Timeline:
    """The times of a clip's frames.

    Args:
        times_s: When each frame begins, ascending, seconds from any zero.
        last_s: How long the last one lasts, seconds; 0: as long as most.
        unit_s: Unit of the container's times, seconds.

    Attributes:
        times_s: (n,) float64, from 0 on.
        gap_s: From one frame to the next, as most often.
        end_s: The end of the last frame.
    """

    def __init__(self, times_s: Sequence[float] | np.ndarray, last_s: float = 0.0, unit_s: float = 0.0):
        self.times_s = np.array(times_s, dtype=np.float64) - times_s[0]
        gaps = np.diff(self.times_s)
        self.gap_s = float(np.median(gaps)) if len(gaps) else last_s or 1.0
        self.end_s = float(self.times_s[-1]) + (last_s or self.gap_s)
        self._tolerance_s = unit_s if unit_s <= COARSEST_S else 0.0

    def __len__(self) -> int:
        return len(self.times_s)

    def shown_at(self, times_s: Sequence[float] | np.ndarray) -> list[int]:
        """Returns the number of the frame that is shown at each time."""
        places = np.searchsorted(self.times_s, np.asarray(times_s) + self._tolerance_s + 1e-9, side="right")
        return [max(0, int(place) - 1) for place in places]

    def at_rate(self, per_second: float) -> list[int]:
        """Returns the numbers of the frames shown at 0, 1 ÷ `per_second`, … seconds.

        The last time is the last at which a frame begins, or, where the last frame lasts longer than most, at which
        it is still shown for as long as they are. So 4 s at one frame a second are four frames in every container.
        """
        reach_s = max(float(self.times_s[-1]) + self._tolerance_s, self.end_s - self.gap_s)
        return self.shown_at(np.arange(math.floor(reach_s * per_second + 1e-6) + 1) / per_second)

    def uniform(self, number: int) -> list[int]:
        """Returns the numbers of the frames shown at the middles of `number` equal parts of the clip."""
        return self.shown_at((np.arange(number) + 0.5) * (self.end_s / number))

    def places(self) -> np.ndarray:
        """Returns (n,) int64: the number each frame would have if none had been dropped."""
        if len(self) == 1:
            return np.zeros(1, dtype=np.int64)
        steps = np.maximum(1, np.rint(np.diff(self.times_s) / self.gap_s)).astype(np.int64)
        return np.concatenate([[0], np.cumsum(steps)])


def middles(number: int, wanted: int) -> list[int]:
    """Returns which of `number` things lie at the middles of `wanted` equal parts; all, if they are no more."""
    if number <= wanted:
        return list(range(number))
    return [(2 * part + 1) * number // (2 * wanted) for part in range(wanted)]


def about_the_middle(number: int, wanted: int) -> list[int]:
    """Returns `wanted` consecutive ones of `number` things, as many before them as behind; all, if they are no more."""
    start = max(0, number - wanted) // 2
    return list(range(start, min(number, start + wanted)))


def spread(number: int, wanted: int) -> list[int]:
    """Returns `wanted` of `number` things as the papers spread frames: evenly, first and last left out."""
    if number <= wanted:
        return list(range(number))
    return [round(place) for place in np.linspace(0, number - 1, wanted + 2)[1:-1]]
