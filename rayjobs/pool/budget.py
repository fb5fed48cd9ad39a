"""What an experiment's searches may spend: time and device-seconds, shared evenly among those still open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """What all searches together may spend.

    Attributes:
        time_s: Seconds by the clock, from the first run on; None: no limit.
        device_s: Device-seconds; None: no limit.
    """

    time_s: float | None = None
    device_s: float | None = None

    def __bool__(self) -> bool:
        return self.time_s is not None or self.device_s is not None

    def is_over(self, elapsed_s: float) -> bool:
        """Tells whether the time is over."""
        return self.time_s is not None and elapsed_s >= self.time_s


def over_share(total: float, spent: Mapping[str, float], open_ones: frozenset[str]) -> frozenset[str]:
    """Returns those that have spent their share: what the others left, divided evenly among those still open.

    Args:
        total: For all together.
        spent: By each, those that are over included.
        open_ones: Those still open.
    """
    if not open_ones:
        return frozenset()
    left = total - sum(seconds for name, seconds in spent.items() if name not in open_ones)
    share = left / len(open_ones)
    return frozenset(name for name in open_ones if spent.get(name, 0.0) >= share)
