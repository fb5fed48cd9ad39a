"""What each method spent on a data set, and what its searches had found by when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mmcore.analysis.selection_noise import expected_best
from rayjobs.results_layout import PLAN_FILE
from rayjobs.search.outcome import Outcome, succeeded
from rayjobs.storage.files import read_json
from rayjobs.study.document import BudgetEntry, CurvePoint
from rayjobs.study.evidence.hardware import one_device, spent
from rayjobs.study.results import CellResult, StudyResults


def budgets(results: StudyResults, dataset: str) -> list[BudgetEntry]:
    """Returns each method's budget on a data set: over its complete folds, in the study's order of methods.

    Trials are taken in the order of their numbers, each with its whole cost before its result. The common cost is, on
    each fold, the least that the searches of any method spent there; final models are no part of it. A sum of parts has
    its cost alone: no trial of its searches is a trial of the sum, so that it has no best one and no curve.
    """
    folds = results.complete_folds(dataset)
    by_label = {
        label: [cell for cell in results.of(dataset, label) if (cell.cell.fold or 0) in folds]
        for label in results.labels
    }
    by_label = {label: cells for label, cells in by_label.items() if cells}
    every = [cell for cells in by_label.values() for cell in cells]
    least = _least_costs(every) if one_device(every) else {}
    trials_alike = results.study.algorithm in ("random", "grid") and results.study.scheduler == "fifo"
    return [_entry(cells, least, trials_alike=trials_alike) for cells in by_label.values()]


def _least_costs(cells: Sequence[CellResult]) -> dict[int, float]:
    """Returns fold -> the least that a method which finished it spent on its search."""
    least: dict[int, float] = {}
    for cell in cells:
        if cell.status == "done":
            fold = cell.cell.fold or 0
            least[fold] = min(least.get(fold, np.inf), sum(trial.device_seconds for trial in _trials(cell)))
    return least


def _entry(cells: Sequence[CellResult], least: Mapping[int, float], *, trials_alike: bool) -> BudgetEntry:
    costs = [spent(cell) for cell in cells]
    curves = {cell.cell.fold or 0: _curve(cell) for cell in cells if not cell.cell.parts}
    failed = any(cell.status == "failed" for cell in cells)
    at_least = [_best_by(curves.get(cell.cell.fold or 0, []), least.get(cell.cell.fold or 0, 0.0)) for cell in cells]
    known = [best for best in at_least if best is not None]
    return BudgetEntry(
        dataset=cells[0].cell.dataset,
        method=cells[0].cell.label,
        trials=cells[0].cell.trials,
        epochs=sum(epochs for epochs, _ in costs),
        device_seconds=sum(seconds for _, seconds in costs),
        at_common_cost=sum(known) / len(known) if len(known) == len(cells) and not failed else None,
        curves={str(fold): curve for fold, curve in curves.items()},
        expected_best=_expected_best(cells) if trials_alike and not failed else None,
    )


def _trials(cell: CellResult) -> list[Outcome]:
    """Returns all trials of a cell, in the order they were started."""
    return [trial for search in cell.searches for trial in search.trials]


def _curve(cell: CellResult) -> list[CurvePoint]:
    """Returns a search after each of its trials, from the first one on that has a result."""
    points: list[CurvePoint] = []
    epochs, seconds, best = 0, 0.0, -np.inf
    having = _names(cell)
    for number, trial in enumerate(_trials(cell), 1):
        epochs, seconds = epochs + trial.epochs, seconds + trial.device_seconds
        if trial.name in having:
            best = max(best, 100 * (trial.objective or 0.0))
        if best > -np.inf:
            points.append(CurvePoint(trials=number, epochs=epochs, device_seconds=seconds, best=best))
    return points


def _best_by(curve: Sequence[CurvePoint], seconds: float) -> float | None:
    """Returns the best of a search once so much was spent; None where no trial had a result by then."""
    return max((point.best for point in curve if point.device_seconds <= seconds), default=None)


def _expected_best(cells: Sequence[CellResult]) -> list[float] | None:
    """Returns the expected best of n trials in points, n = 1.., a mean over folds; None without trials to draw.

    The points that a search tries first are no draws, and are left out. A trial that failed counts as answering the
    most frequent class. Folds of unequal numbers of trials give no mean.
    """
    folds = [_drawn_scores(cell) for cell in cells if not cell.cell.parts]
    if len({len(scores) for scores in folds}) != 1 or not len(folds[0]):
        return None
    best: list[float] = np.mean([expected_best(scores) for scores in folds], axis=0).tolist()
    return best


def _drawn_scores(cell: CellResult) -> NDArray[np.float64]:
    plan = read_json(cell.folder / PLAN_FILE) or {}
    chosen_first = len(plan.get("points", ())) if plan.get("algorithm") == "random" else 0
    having = _names(cell)
    drawn = [trial for trial in _trials(cell)[chosen_first:] if trial.status != "unfinished"]
    return np.array([100 * (trial.objective or 0.0 if trial.name in having else cell.cell.chance) for trial in drawn])


def _names(cell: CellResult) -> set[str]:
    """Returns the names of the trials that have a result."""
    return {trial.name for trial in succeeded(_trials(cell))}
