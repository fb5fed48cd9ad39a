"""Whether a best value lies at an end of the range it was searched in, which says that the range is too narrow."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mmcore.config.plain import Plain, Settings
from rayjobs.search.distributions import Distribution

NEAR = 0.05
"""Which share of a range, on the scale it is drawn by, counts as an end: one value in ten lies at one by chance."""
FEWEST_OPTIONS = 3
"""With fewer numbers to choose from each is at an end, which says nothing."""


def at_edge(space: Mapping[str, str], values: Settings) -> list[str]:
    """Returns the searched paths whose value lies at an end of its range.

    Options that are no numbers have no ends, and neither has a range that is told in other words.

    Args:
        space: Path -> what it is drawn from, as `Distribution.describe` says it.
        values: Path -> the best trial's value.
    """
    return [path for path, words in space.items() if path in values and _at_end(words, values[path])]


def _at_end(words: str, value: Plain) -> bool:
    found = Distribution.from_words(words)
    if found is None or isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if found.choice is not None:
        numbers = sorted(set(found.choice))
        return len(numbers) >= FEWEST_OPTIONS and _rounded(value) in (numbers[0], numbers[-1])
    low, high = found.ends()
    low, high, place = (math.log(each) if found.is_log else float(each) for each in (low, high, max(value, low)))
    return not NEAR < (place - low) / (high - low) < 1 - NEAR


def _rounded(value: float) -> float:
    """Returns a number as it is told in words."""
    return float(f"{value:g}")
