"""The part of a study that is compared: on each data set the folds that every method has finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mmcore.analysis.fold_statistics import mean_rho
from mmcore.analysis.intervals import choose_clusters
from mmcore.errors import DataError
from rayjobs.reporting.comparison import all_folds
from rayjobs.study.cell import Cell
from rayjobs.study.document import ScoreStatus
from rayjobs.study.lock import Terms, terms_of
from rayjobs.study.results import CellResult, FinalModel, StudyResults

POINTS = 100.0
"""Of a share."""
FIT = "fit"
"""Name of the family of the methods' heads summed by fitted weights, and the end of their rows' labels."""
PRIMARY = "primary"
"""Name of the family of the primary reference; the others go by their reference's label."""


@dataclass(frozen=True)
class Blocks:
    """A data set of a study, as far as it can be compared.

    Attributes:
        results: The whole study.
        dataset: Name of the data set.
        terms: What was fixed.
    """

    results: StudyResults
    dataset: str
    terms: Terms

    @cached_property
    def folds(self) -> list[int]:
        """Those that every method has finished; [0] of one split."""
        return self.results.complete_folds(self.dataset)

    @cached_property
    def planned(self) -> list[int]:
        """All folds of the study."""
        return sorted({each.cell.fold or 0 for each in self.results.cells if each.cell.dataset == self.dataset})

    @property
    def is_whole(self) -> bool:
        """Whether no fold is waited for."""
        return len(self.folds) == len(self.planned)

    @property
    def is_split(self) -> bool:
        """Whether there is one split, or one fold was asked for: its statements are of its training data alone."""
        return len(self.planned) == 1

    @cached_property
    def labels(self) -> list[str]:
        """Of the methods that have cells here, in the study's order."""
        return [label for label in self.results.labels if self.results.of(self.dataset, label)]

    @cached_property
    def cells(self) -> list[Cell]:
        """One cell of each complete fold; of each planned one where none is complete. Methods do not differ in sizes.

        Raises:
            DataError: Cells of the data set are of other data, or of other splits.
        """
        first: dict[int, Cell] = {}
        for cell in (each.cell for each in self.results.cells if each.cell.dataset == self.dataset):
            _check_alike(first.setdefault(cell.fold or 0, cell), cell)
        for cell in first.values():
            _check_alike(first[self.planned[0]], cell)
        return [first[fold] for fold in self.folds or self.planned]

    @property
    def margin(self) -> float:
        """δ, in points."""
        return self.terms.margins.get(self.dataset, self.results.study.margin_of(self.dataset))

    @cached_property
    def rho(self) -> float:
        """Test size by training size, mean over folds, of groups where there are groups."""
        return mean_rho([cell.test_groups for cell in self.cells], [cell.train_groups for cell in self.cells])

    @cached_property
    def clusters(self) -> tuple[NDArray[np.int64], str]:
        """What the test samples (N,) of a single split are clustered by, and what must be printed beside it."""
        model = next(models[0] for label in self.labels for models in self.models(label))
        return choose_clusters(model.final.groups.tolist(), model.final.sources.tolist())

    def status(self, label: str) -> ScoreStatus:
        """Returns whether a method has a result, or why not."""
        if any(each.status == "failed" for each in self.results.of(self.dataset, label)):
            return "failed"
        return "left out" if self.results.race.left(self.dataset, label) else "done"

    def reason(self, label: str) -> str:
        """Returns why a method has no result, on whichever fold; "" where it has one.

        What worked is not averaged: a mean over other folds than everybody's is no comparison.
        """
        cells, leaver = self.results.of(self.dataset, label), self.results.race.left(self.dataset, label)
        failed = [each for each in cells if each.status == "failed"]
        if failed:
            numbers = ", ".join(str(each.cell.fold or 0) for each in failed)
            where = f" on {len(failed)} of {len(cells)} folds ({numbers})" if len(cells) > 1 else ""
            return f"failed{where}: {failed[0].reason}"
        if leaver:
            return f"left the race after {len(leaver.folds)} of {len(self.planned)} folds: it could win no more"
        return ""

    def complete(self, label: str) -> list[CellResult]:
        """Returns a method's cells on the complete folds; none where it failed or left the race."""
        if self.status(label) != "done":
            return []
        return [each for each in self.results.of(self.dataset, label) if (each.cell.fold or 0) in self.folds]

    def models(self, label: str) -> list[Sequence[FinalModel]]:
        """Returns a method's final models, fold by fold; none where it has no result."""
        return [each.finals for each in self.complete(label)]

    def fits(self, label: str) -> list[Sequence[FinalModel]]:
        """Returns a method's final models with the right answers of their fitted sums; none where one has no such sum.

        So weights that were fitted are never mistaken for better training: whoever is better by them alone is so in
        this row, and not in its own.
        """
        models = self.models(label)
        if any(model.final.fitted is None for of_fold in models for model in of_fold):
            return []
        return [[_fitted(model) for model in of_fold] for of_fold in models]

    def families(self) -> dict[str, tuple[str, list[str]]]:
        """Returns the name of each family -> its reference and the labels compared with it."""
        return {
            family_name(self.terms, reference): (reference, list(labels))
            for reference, labels in self.terms.families.items()
        }

    def family_size(self, reference: str) -> int:
        """Returns how many comparisons a family is corrected for: who left it counts on."""
        lock = self.results.lock
        locked = lock.terms.families.get(reference, []) if lock else []
        return len({*locked, *self.terms.families[reference]})


def blocks_of(results: StudyResults) -> list[Blocks]:
    """Returns each data set of a study, in its order."""
    terms = terms_now(results)
    return [Blocks(results, dataset, terms) for dataset in results.datasets]


def terms_now(results: StudyResults) -> Terms:
    """Returns what is fixed: by the lock, or, before test was read, what it would hold."""
    return results.lock.current if results.lock else terms_of(results.study, [each.cell for each in results.cells])


def fit_label(label: str) -> str:
    """Returns the label of a method's row with fitted weights."""
    return f"{label}+{FIT}"


def _fitted(model: FinalModel) -> FinalModel:
    right = model.final.fitted
    return model if right is None else replace(model, final=replace(model.final, correct=right))


def family_name(terms: Terms, reference: str) -> str:
    """Returns the name of the family of all that are compared with a reference."""
    return PRIMARY if reference == terms.reference else reference


def points(value: float) -> str:
    """Returns `1 point`, `0.5 points`."""
    return f"{value:g} {'point' if value == 1 else 'points'}"


def counted(count: int, noun: str) -> str:
    """Returns `1 fold`, `2 folds`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _check_alike(one: Cell, other: Cell) -> None:
    """Raises a DataError where two cells are of other data or splits, though their data set has one name."""
    for what, mine, theirs in (
        ("data", one.fingerprint, other.fingerprint),
        ("splits", all_folds(one.protocol), all_folds(other.protocol)),
        ("sizes", _sizes(one), _sizes(other)),
    ):
        if mine != theirs and (what != "sizes" or one.fold == other.fold):
            raise DataError(
                f"{one.row_name} and {other.row_name} are of different {what} ({mine}; {theirs}): they cannot stand in "
                "one table; begin a study of its own for one of them"
            )


def _sizes(cell: Cell) -> str:
    return f"{cell.num_train} / {cell.num_val} / {cell.num_test}"
