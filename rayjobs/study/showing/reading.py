"""What a document says of one data set, picked out of its lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from rayjobs.study.document import (
    BestOfEntry,
    BudgetEntry,
    CellEntry,
    Comparison,
    DatasetEntry,
    PowerEntry,
    ScoreEntry,
    StudyDocument,
)


@dataclass(frozen=True)
class Family:
    """What was compared with one reference, and is corrected together.

    Attributes:
        name: As `Comparison.family`.
        reference: Its label.
        is_primary: Whether its words are the study's.
        comparisons: Label -> the comparison.
    """

    name: str
    reference: str
    is_primary: bool
    comparisons: Mapping[str, Comparison]


@dataclass(frozen=True)
class OfDataset:
    """One data set of a study.

    Attributes:
        document: The study's.
        entry: The data set.
        number: From 1, in the study's order.
    """

    document: StudyDocument
    entry: DatasetEntry
    number: int

    @property
    def name(self) -> str:
        """Of the data set."""
        return self.entry.name

    @property
    def margin(self) -> float:
        """δ, in points."""
        return self.document.lock.margins[self.name]

    @property
    def reference(self) -> str:
        """Label of the primary reference."""
        return self.document.lock.reference

    @cached_property
    def references(self) -> set[str]:
        """Labels of all references, the primary one too."""
        others = {method.label for method in self.document.methods if method.role == "reference"}
        return others | {self.reference}

    @property
    def family_size(self) -> int:
        """How many comparisons the primary words are corrected over, failed ones too."""
        return max(len(self.primary), len(self.document.lock.families.get("primary", ())))

    @property
    def blocks(self) -> list[int]:
        """The folds that every method has finished."""
        return self.document.study.blocks.get(self.name, [])

    @cached_property
    def scores(self) -> list[ScoreEntry]:
        """In the order of the study's methods."""
        return [each for each in self.document.scores if each.dataset == self.name]

    @cached_property
    def families(self) -> list[Family]:
        """Each family, the primary one first."""
        found: dict[tuple[str, str], dict[str, Comparison]] = {}
        for each in self.document.comparisons:
            if each.dataset == self.name:
                found.setdefault((each.family, each.b), {})[each.a] = each
        made = [Family(name, b, name == "primary", of_label) for (name, b), of_label in found.items()]
        return sorted(made, key=lambda family: not family.is_primary)

    @cached_property
    def primary(self) -> Mapping[str, Comparison]:
        """Label -> its comparison with the primary reference."""
        return next((family.comparisons for family in self.families if family.is_primary), {})

    @cached_property
    def cells(self) -> list[CellEntry]:
        """All of them, open ones too."""
        return [each for each in self.document.cells if each.dataset == self.name]

    @cached_property
    def budgets(self) -> list[BudgetEntry]:
        """One a method."""
        return [each for each in self.document.budgets if each.dataset == self.name]

    @property
    def best_of(self) -> BestOfEntry | None:
        """What the best of all is worth."""
        return next((each for each in self.document.best_of if each.dataset == self.name), None)

    @property
    def power(self) -> PowerEntry | None:
        """What the plan can show."""
        return next((each for each in self.document.power if each.dataset == self.name), None)


def of_datasets(document: StudyDocument) -> list[OfDataset]:
    """Returns each data set of a study, in its order."""
    return [OfDataset(document, entry, number) for number, entry in enumerate(document.datasets, start=1)]
