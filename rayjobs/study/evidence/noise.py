"""What luck adds to a score: of the best trial of a search, and of the best method of a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmcore.analysis import selection_noise
from mmcore.analysis.fold_statistics import DECIMALS
from mmcore.analysis.intervals import choose_clusters
from mmcore.analysis.selection_noise import Shrinkage, shrinkage
from mmcore.errors import DataError
from rayjobs.experiment.search_result import SearchResult
from rayjobs.search.outcome import succeeded
from rayjobs.study.document import BestOfEntry, ShrinkageEntry
from rayjobs.study.evidence.validation import on_validation, part_results, searches_by_part
from rayjobs.study.results import CellResult, FinalModel, StudyResults


def shrinkage_of(cell: CellResult) -> ShrinkageEntry | None:
    """Returns what a cell's best score on validation fell by when it was trained again, in points.

    A part of a cell is a search of its own: of a cell of parts it is the mean of the parts' falls, beside the mean of
    what noise alone gives each of them, which is what the mean is expected to be by noise.

    Returns:
        None without a best trial or a final model, or where the parts' own results are not at hand.
    """
    searches = searches_by_part(cell)
    if not searches or not cell.finals or any(search.best is None for _, search in searches):
        return None
    if not cell.cell.parts:
        return _entry([_shrinkage(searches[0][1], [on_validation(model.result) for model in cell.finals])])
    results = [part_results(cell.cell, model) for model in cell.finals]
    if not all(results):
        return None
    return _entry(
        [_shrinkage(search, [on_validation(of_model[part]) for of_model in results]) for part, search in searches]
    )


def _shrinkage(search: SearchResult, finals: Sequence[float]) -> Shrinkage:
    assert search.best is not None
    best = 100 * (search.best.objective or 0.0)
    return shrinkage(best, finals, max(1, len(succeeded(search.trials))))


def _entry(found: Sequence[Shrinkage]) -> ShrinkageEntry:
    fall = round(sum(each.fall for each in found) / len(found), DECIMALS)
    known = [each.by_noise for each in found if each.by_noise is not None]
    noise = round(sum(known) / len(known), DECIMALS) if len(known) == len(found) else None
    return ShrinkageEntry(fall=fall, by_noise=noise, fits_validation=None if noise is None else fall > noise)


def best_of(results: StudyResults, dataset: str) -> BestOfEntry | None:
    """Returns what the best of all methods of a data set is worth, corrected for having been chosen.

    Drawn are folds of a cross-validation, each counting alike; of one split or one fold clusters of test samples, by
    their size. A method that failed or was left out on one of the folds takes no part: its mean over the others would
    be of other samples.

    Returns:
        None where no method has a result yet.

    Raises:
        DataError: Methods were tested on different samples.
    """
    folds = results.complete_folds(dataset)
    cells = {label: [each for each in results.of(dataset, label) if (each.cell.fold or 0) in folds] for label in
             results.labels}  # fmt: skip
    cells = {label: own for label, own in cells.items() if own and all(each.status == "done" for each in own)}
    if not cells:
        return None
    if len({each.cell.fold for each in results.cells if each.cell.dataset == dataset}) > 1:
        scores = np.array([[_answers(each).mean() for each in own] for own in cells.values()])
        sizes, units = np.ones(len(folds)), "folds"
    else:
        scores, sizes, units = _by_cluster([own[0] for own in cells.values()])
    found = selection_noise.best_of(100 * scores, sizes)
    observed = 100 * float((scores @ sizes).max() / sizes.sum())
    return BestOfEntry(
        dataset=dataset,
        observed=observed,
        corrected=found.corrected if found else None,
        chosen=dict(zip(cells, found.chosen, strict=True)) if found else {},
        units=units,
    )


def _answers(cell: CellResult) -> NDArray[np.float64]:
    """Returns how often each test sample was answered rightly, (N,), a mean over the final models."""
    answers: NDArray[np.float64] = np.mean([model.final.correct for model in cell.finals], axis=0)
    return answers


def _by_cluster(cells: Sequence[CellResult]) -> tuple[NDArray[np.float64], NDArray[np.float64], str]:
    """Returns the score of each method on each cluster (M, C), the clusters' sizes (C,), and what they are."""
    first = cells[0].finals[0].final
    _check_paired([model for cell in cells for model in cell.finals])
    clusters, by_source = choose_clusters(first.groups.tolist(), first.sources.tolist())
    sizes = np.bincount(clusters).astype(np.float64)
    sums = [np.bincount(clusters, weights=_answers(cell), minlength=len(sizes)) for cell in cells]
    grouped = "recordings" if by_source else "groups"
    return np.array(sums) / sizes, sizes, "samples" if len(sizes) == len(clusters) else grouped


def _check_paired(models: Sequence[FinalModel]) -> None:
    for model in models:
        if not np.array_equal(model.final.sample_ids, models[0].final.sample_ids):
            raise DataError(
                f"{model.folder} and {models[0].folder} were tested on different samples: they cannot be compared"
            )
