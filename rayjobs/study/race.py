"""Which methods were left out of later folds, since they could no longer be better or equivalent: `race.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rayjobs.results_layout import RACE_FILE
from rayjobs.storage.files import write_json
from rayjobs.storage.json_record import JsonRecord


@dataclass(frozen=True, kw_only=True)
class Leaver(JsonRecord):
    """A method that has left.

    Attributes:
        dataset: Name of the data set.
        label: The method's.
        folds: Those it was trained on.
        difference: Mean of its differences by then, in points.
        taken_in: Whether it was taken in again later; it has a test like the others then.
    """

    dataset: str
    label: str
    folds: list[int]
    difference: float
    taken_in: bool = False


@dataclass(frozen=True, kw_only=True)
class Race(JsonRecord):
    """All that have left, in that order."""

    leavers: list[Leaver] = field(default_factory=list)

    def left(self, dataset: str, label: str) -> Leaver | None:
        """Returns how a method left a data set; None where it is in it."""
        found = (each for each in self.leavers if (each.dataset, each.label) == (dataset, label) and not each.taken_in)
        return next(found, None)


def read_race(study: Path) -> Race:
    """Returns who has left a study.

    Raises:
        DataError: The file is damaged.
    """
    return Race.read(study / RACE_FILE) or Race()


def write_race(study: Path, race: Race) -> None:
    """Writes who has left a study, whole or not at all."""
    write_json(study / RACE_FILE, race.to_dict())


def taken_in(race: Race, labels: Sequence[str]) -> Race:
    """Returns a race in which these methods run again."""
    return replace(
        race, leavers=[replace(each, taken_in=each.taken_in or each.label in labels) for each in race.leavers]
    )
