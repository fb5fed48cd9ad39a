"""What a plan can show, before and after it was run: the smallest difference, and what more folds would make of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mmcore.analysis.fold_statistics import MIN_FOLDS, MIN_FOLDS_FOR_A_WORD, mean_rho
from mmcore.analysis.power import cv_rho, deviation_behind, pooled_deviation, smallest_difference
from mmcore.analysis.words import ALPHA
from rayjobs.study.cell import Cell
from rayjobs.study.document import Comparison, PowerEntry
from rayjobs.study.judging.blocks import PRIMARY, Blocks, points

UNKNOWN = "unknown: run --pilot"
MOST_FOLDS = 20
"""Of samples that belong to no groups; more are seldom trained."""


@dataclass(frozen=True)
class Folding:
    """What more folds there could be, and what they would be like.

    Of a part of a cross-validation's folds, first the others: they are like these. Of all its folds, either every fold
    tests one group, and more folds are more groups, which are still to be found; or the same data is cut finer.

    Attributes:
        folds: k, of the study.
        all_folds: Of the cross-validation they are of.
        groups: All groups of the data set; None where samples are split.
        measured: Test size by training size, of the folds as they are.
    """

    folds: int
    all_folds: int
    groups: int | None
    measured: float

    @classmethod
    def of(cls, cells: Sequence[Cell], folds: int) -> Folding:
        """Returns that of a study's folds.

        Args:
            cells: One of each fold.
            folds: How many folds there are, or are planned.
        """
        ratio = mean_rho([cell.test_groups for cell in cells], [cell.train_groups for cell in cells])
        return cls(folds, cells[0].folds or folds, cells[0].groups, ratio)

    @property
    def needs_groups(self) -> bool:
        """Whether more folds would need groups that the data set does not have."""
        return self.groups is not None and self.folds >= self.all_folds >= self.groups

    @property
    def most(self) -> int:
        """The most folds that are looked at; of groups to be found twice as many as there are."""
        if self.folds < self.all_folds:
            return self.all_folds
        if self.needs_groups:
            return 2 * self.folds
        return max(self.folds, MOST_FOLDS) if self.groups is None else self.groups

    def rho(self, folds: int) -> float:
        """Returns test size by training size with so many folds."""
        return self.measured if folds <= self.all_folds else cv_rho(folds)

    def widening(self, folds: int) -> float:
        """Returns by what the deviation of a fold grows with so many: a fold of fewer samples differs by more.

        As 1 / √samples where the same data is cut finer, the most it may; it is not known how much is the samples'.
        """
        same_data = folds > self.all_folds and not self.needs_groups
        return float((folds / self.all_folds) ** 0.5) if same_data else 1.0


def power_entry(
    dataset: str,
    *,
    margin: float,
    deviation: float | None,
    source: str,
    folds: int,
    max_folds: int,
    family: int,
    rho_of_folds: Callable[[int], float],
    widening_of_folds: Callable[[int], float] = lambda folds: 1.0,
    alpha: float = ALPHA,
    note: str = "",
) -> PowerEntry:
    """Returns what a plan can show; with under 5 folds nothing, since no word is said then.

    Args:
        dataset: Name of the data set.
        margin: δ, in points.
        deviation: σ_d, the standard deviation of a fold's difference, in points; None or 0: not known.
        source: Where it is from, in words; told as UNKNOWN where it is not known.
        folds: k, of the plan.
        max_folds: The most there could be.
        family: m, comparisons that are corrected together.
        rho_of_folds: Folds -> test size by training size.
        widening_of_folds: Folds -> by what σ_d grows with so many.
        alpha: In (0, 1).
        note: What else must be printed beside it.
    """
    if not deviation:
        return PowerEntry(
            dataset=dataset, margin=margin, deviation=None, source=source or UNKNOWN, folds=folds, family=family,
            smallest=None, with_more={}, folds_needed=None, note=note,
        )  # fmt: skip

    def smallest(count: int) -> float:
        error = deviation * widening_of_folds(count)
        return smallest_difference(error, count, rho_of_folds(count), family_size=max(family, 1), alpha=alpha)

    counts = range(MIN_FOLDS_FOR_A_WORD, max(folds, max_folds) + 1)
    shown = {count: smallest(count) for count in counts}
    needed = next((count for count, least in shown.items() if least <= margin), None)
    notes = [note]
    if folds < MIN_FOLDS_FOR_A_WORD:
        notes.append(f"under {MIN_FOLDS_FOR_A_WORD} folds nothing is decided")
    elif shown[folds] > margin:
        notes.append(f"this plan can show neither a difference of {points(margin)} nor equivalence within it")
    return PowerEntry(
        dataset=dataset,
        margin=margin,
        deviation=deviation,
        source=source,
        folds=folds,
        family=family,
        smallest=shown.get(folds),
        with_more={str(count): least for count, least in shown.items() if count > folds},
        folds_needed=needed,
        note="; ".join(filter(None, notes)),
    )


def power_of(blocks: Blocks, comparisons: Sequence[Comparison]) -> PowerEntry:
    """Returns what a study can show on a data set, by what its own finished folds differ by.

    σ_d is the root mean square of the deviations in the primary family, each no less than what its test samples can
    resolve: a few unsteady methods raise it, which errs on the side of caution. The note says what the steadiest and
    the least steady would have; from few folds all of it is known roughly.

    Args:
        blocks: The data set.
        comparisons: All of the study.
    """
    own = [each for each in comparisons if (each.dataset, each.family) == (blocks.dataset, PRIMARY)]
    spreads = [spread for each in own if (spread := _spread(each)) is not None]
    folds, family = len(blocks.planned), blocks.family_size(blocks.terms.reference)
    folding = Folding.of(blocks.cells, folds)
    pooled = pooled_deviation(spreads) if spreads else None
    methods = f"{len(spreads)} methods" if len(spreads) > 1 else "one method"
    source = f"finished cells: root mean square over {methods}, {len(blocks.folds)} folds"
    return power_entry(
        blocks.dataset,
        margin=blocks.margin,
        deviation=pooled,
        source=source if pooled else _why_unknown(blocks, own),
        folds=folds,
        max_folds=folding.most,
        family=family,
        rho_of_folds=folding.rho,
        widening_of_folds=folding.widening,
        alpha=blocks.terms.alpha,
        note=_note(spreads, folding, pooled),
    )


def _spread(comparison: Comparison) -> float | None:
    if comparison.plain is None or comparison.k < MIN_FOLDS:
        return None
    low, high = comparison.plain
    return deviation_behind((high - low) / 2, comparison.k)


def _why_unknown(blocks: Blocks, own: Sequence[Comparison]) -> str:
    if blocks.is_split:
        return "unknown: one split has no folds that could differ"
    if not own or len(blocks.folds) < MIN_FOLDS:
        return UNKNOWN
    return "unknown: the finished folds do not differ at all"


def _note(spreads: Sequence[float], folding: Folding, pooled: float | None) -> str:
    if not pooled:
        return ""
    notes = []
    if len(spreads) > 1:
        notes.append(f"deviations of the methods: {min(spreads):.2f} to {max(spreads):.2f}")
    if folding.needs_groups:
        notes.append(f"more than {folding.folds} folds need more groups than the data has")
    elif folding.most > folding.all_folds:
        notes.append(f"more than {folding.all_folds} folds cut the same data finer")
    return "; ".join(notes)
