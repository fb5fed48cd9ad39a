"""What each method reaches on each data set, on the folds that every method has finished."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mmcore.analysis.intervals import mean_interval
from mmcore.metric_names import ACCURACY
from rayjobs.study.document import ScoreEntry
from rayjobs.study.evidence.cells import metrics_of
from rayjobs.study.evidence.hardware import spent
from rayjobs.study.judging.blocks import POINTS, Blocks, blocks_of, fit_label
from rayjobs.study.results import CellResult, FinalModel, StudyResults


def scores_of(results: StudyResults) -> list[ScoreEntry]:
    """Returns what each method reaches, by data set, in the order of `ordered_labels`; then their fitted sums."""
    scores = []
    for blocks in blocks_of(results):
        labels = [label for label in ordered_labels(results) if label in blocks.labels]
        scores += [_score(blocks, label) for label in labels]
        scores += [_fit_score(blocks, label) for label in labels if blocks.fits(label)]
    return scores


def ordered_labels(results: StudyResults) -> list[str]:
    """Returns the labels of a study: those compared first, references last."""
    references = set(reference_labels(results))
    return sorted(results.labels, key=lambda label: label in references)


def reference_labels(results: StudyResults) -> list[str]:
    """Returns the labels that others are compared with, the primary one first."""
    blocks = blocks_of(results)
    return [reference for reference, _ in blocks[0].families().values()] if blocks else []


def _score(blocks: Blocks, label: str) -> ScoreEntry:
    cells = blocks.complete(label)
    seeds, folds, mean, half_width = _figures(blocks.models(label))
    epochs, seconds = _spent([each for each in blocks.results.of(blocks.dataset, label) if each in cells or not cells])
    return ScoreEntry(
        dataset=blocks.dataset,
        method=label,
        mean=mean,
        half_width=half_width,
        folds=folds,
        seeds=seeds,
        metrics=_metrics(cells),
        status=blocks.status(label),
        reason=blocks.reason(label),
        parameters=None,
        epochs=epochs,
        device_seconds=seconds,
    )


def _fit_score(blocks: Blocks, label: str) -> ScoreEntry:
    """Returns what a method's models reach with fitted weights; of the other figures nothing is known."""
    seeds, folds, mean, half_width = _figures(blocks.fits(label))
    own = _score(blocks, label)
    return replace(own, method=fit_label(label), mean=mean, half_width=half_width, folds=folds, seeds=seeds, metrics={})


def _figures(
    models: Sequence[Sequence[FinalModel]],
) -> tuple[list[list[float]], list[float], float | None, float | None]:
    """Returns accuracies by fold and seed, the folds' means, their mean, and half its interval."""
    seeds = [[POINTS * accuracy_of(model) for model in of_fold] for of_fold in models]
    folds = [float(np.mean(of_fold)) for of_fold in seeds]
    mean, half_width = mean_interval(folds) if folds else (None, None)
    return seeds, folds, mean, half_width


def accuracy_of(model: FinalModel) -> float:
    """Returns the share of test samples that a model answers rightly, by its predictions."""
    return float(model.final.correct.mean())


def _spent(cells: Sequence[CellResult]) -> tuple[int, float]:
    figures = [spent(cell) for cell in cells]
    return sum(epochs for epochs, _ in figures), sum(seconds for _, seconds in figures)


def _metrics(cells: Sequence[CellResult]) -> dict[str, float]:
    """Returns the means over folds of the means over seeds of the figures beside accuracy that every model has."""
    of_models = [[metrics_of(model.result.tested) for model in cell.finals] for cell in cells]
    every = [metrics for of_fold in of_models for metrics in of_fold]
    names = [
        name
        for name in (every[0] if every else {})
        if all(math.isfinite(metrics.get(name, math.nan)) for metrics in every)
    ]
    return {
        name: float(np.mean([np.mean([metrics[name] for metrics in of_fold]) for of_fold in of_models]))
        for name in names
        if name != ACCURACY
    }
