"""Each cell in figures: what its search found, what its final models reach, what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmcore.metric_names import (
    ACCURACY,
    CALIBRATION_ERROR,
    FUSED,
    FUSED_ACCURACY,
    LOSS,
    MACRO_F1,
    MEAN_AVERAGE_PRECISION,
    of_head,
    own_metrics,
)
from rayjobs.experiment.search_result import SearchResult
from rayjobs.results_layout import PREDICTIONS_FILE
from rayjobs.study.document import BestEntry, CellEntry, FinalEntry
from rayjobs.study.evidence.edges import at_edge
from rayjobs.study.evidence.hardware import spent
from rayjobs.study.evidence.noise import shrinkage_of
from rayjobs.study.evidence.validation import on_validation, searches_by_part
from rayjobs.study.results import CellResult, FinalModel, StudyResults

AS_THEY_ARE = (MACRO_F1, MEAN_AVERAGE_PRECISION, CALIBRATION_ERROR, LOSS)
"""Metrics of the fused answer that are no accuracy."""


def metrics_of(test: Mapping[str, float]) -> dict[str, float]:
    """Returns a model's figures on test by short names: accuracies in points, of the whole and of each modality alone.

    Args:
        test: `RunResult.test`.
    """
    own = {name: 100 * float(test[key]) for name, key in own_metrics(test).items()}
    others = {name: float(test[of_head(FUSED, name)]) for name in AS_THEY_ARE if of_head(FUSED, name) in test}
    return {**own, **others, ACCURACY: 100 * float(test[FUSED_ACCURACY])}


def cell_entries(results: StudyResults) -> list[CellEntry]:
    """Returns each cell of a study in figures, in the study's order."""
    return [_entry(each, results) for each in results.cells]


def _entry(cell: CellResult, results: StudyResults) -> CellEntry:
    trials = [trial for search in cell.searches for trial in search.trials]
    found = searches_by_part(cell)
    epochs, seconds = spent(cell)
    return CellEntry(
        dataset=cell.cell.dataset,
        method=cell.cell.label,
        fold=cell.cell.fold or 0,
        identity=cell.cell.identity,
        status=cell.status,
        reason=cell.reason,
        folder=_beneath(cell, results),
        trials=len(trials),
        failed_trials=sum(trial.status == "failed" for trial in trials),
        epochs=epochs,
        device_seconds=seconds,
        best=_best(found),
        at_edge=[
            _named(part, path)
            for part, search in found
            if search.best
            for path in at_edge(cell.cell.space, search.best.values)
        ],
        shrinkage=shrinkage_of(cell),
        finals=[_final(model, results) for model in cell.finals],
    )


def _beneath(cell: CellResult, results: StudyResults) -> str:
    return cell.folder.relative_to(results.folder).as_posix()


def _best(found: Sequence[tuple[str, SearchResult]]) -> BestEntry | None:
    """Returns the best trial; of parts the settings of all, and the mean of what each reaches by itself."""
    best = [(part, search.best) for part, search in found if search.best]
    if not best or len(best) < len(found):
        return None
    config = {_named(part, path): value for part, trial in best for path, value in trial.values.items()}
    return BestEntry(config=config, val=100 * sum(trial.objective or 0.0 for _, trial in best) / len(best))


def _named(part: str, path: str) -> str:
    return f"{part} {path}".strip()


def _final(model: FinalModel, results: StudyResults) -> FinalEntry:
    result = model.result
    return FinalEntry(
        seed=result.seed,
        metrics=metrics_of(result.tested),
        val=on_validation(result),
        epochs=result.epochs,
        best_epoch=int(result.tested["epoch"]),
        device_seconds=result.device_seconds,
        predictions=(model.folder / PREDICTIONS_FILE).relative_to(results.folder).as_posix(),
        sha256=model.sha256,
    )
