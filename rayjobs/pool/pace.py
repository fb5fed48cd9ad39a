"""How long runs take: measured as they run, by the row they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Pace:
    """Seconds that an epoch of each row takes, on the place it runs on.

    Attributes:
        known: Row -> seconds an epoch, of an earlier command.
    """

    known: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._epochs: dict[str, int] = {}

    def note(self, row: str, seconds: float, epochs: int) -> None:
        """Enters that a run of a row took so long for so many epochs."""
        if epochs > 0:
            self._seconds[row] = self._seconds.get(row, 0.0) + seconds
            self._epochs[row] = self._epochs.get(row, 0) + epochs

    def of(self, row: str) -> float | None:
        """Returns the seconds of an epoch; of a row not seen yet the mean of the others, None without any."""
        if row in self._seconds:
            return self._seconds[row] / self._epochs[row]
        if row in self.known:
            return self.known[row]
        epochs = sum(self._epochs.values())
        return sum(self._seconds.values()) / epochs if epochs else None
