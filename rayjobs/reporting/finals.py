"""Final models as the ranking reads them: their test metrics and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from mmcore.metric_names import FUSED_ACCURACY
from rayjobs.results_layout import RESULT_FILE
from rayjobs.runs.environment import Environment
from rayjobs.runs.predictions import COLUMNS, FITTED_LOGITS, FUSED_LOGITS, read_predictions
from rayjobs.runs.result import RunResult

T = TypeVar("T")


@dataclass(frozen=True)
class Final:
    """One final model.

    Attributes:
        seed: Its seed.
        metrics: On test: `fused/accuracy`, `<modality>/accuracy` or `<modality>/probe_accuracy`, ...
        correct: (N,) bool, whether each test sample was answered rightly.
        sample_ids: (N,) str.
        labels: (N,) int64.
        groups: (N,) str.
        sources: (N,) str.
        protocol: The protocol's line.
        cost: Epochs and device-seconds.
        dead: Modality -> epoch since which its encoder is dead, at the run's end.
        notices: What went otherwise than it should, but not wrong.
        environment: On what and with what it was trained; None where an earlier release trained it.
        fitted: (N,) bool, as `correct`, of the sum of its heads by weights fitted on validation; None for a model
            without a head for each modality.
        teachers: Modality -> folder of the run it learnt from.
    """

    seed: int
    metrics: Mapping[str, float]
    correct: np.ndarray
    sample_ids: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    sources: np.ndarray
    protocol: str
    cost: Mapping[str, float]
    dead: Mapping[str, int]
    notices: Sequence[str] = ()
    environment: Environment | None = None
    fitted: np.ndarray | None = None
    teachers: Mapping[str, str] = field(default_factory=dict)


def load_final(run_dir: Path) -> Final | None:
    """Returns the final model in a run's folder, or None if it was not finished.

    Raises:
        DataError: Its result is damaged, or its predictions are missing or damaged.
    """
    result = RunResult.read(run_dir / RESULT_FILE)
    if not result or not result.test:
        return None
    arrays = read_predictions(run_dir, (*COLUMNS, FUSED_LOGITS, FITTED_LOGITS))
    order = np.argsort(arrays["sample_ids"])
    return Final(
        seed=result.seed,
        metrics=result.test,
        correct=_right(arrays, FUSED_LOGITS)[order],
        **{name: arrays[name][order] for name in COLUMNS},
        protocol=result.protocol,
        cost={"epochs": result.epochs, "device_seconds": result.device_seconds},
        dead={reading.modality: reading.since for reading in result.readings if reading.kind == "dead"},
        notices=result.notices,
        fitted=_right(arrays, FITTED_LOGITS)[order] if FITTED_LOGITS in arrays else None,
        environment=result.environment,
        teachers=result.teachers or {},
    )


def _right(arrays: Mapping[str, np.ndarray], head: str) -> np.ndarray:
    """Returns (N,) bool, whether a head's answer to each test sample is right."""
    right: np.ndarray = arrays[head].argmax(axis=1) == arrays["labels"]
    return right


def accuracies_of(finals: Sequence[Final]) -> list[float]:
    """Returns the fused test accuracy of each model."""
    return [final.metrics[FUSED_ACCURACY] for final in finals]


def flattened(folds: Sequence[Sequence[T]]) -> list[T]:
    """Returns all models of all folds."""
    return [entry for of_fold in folds for entry in of_fold]


def short_name(run_dir: Path, label: str) -> str:
    """Returns `trial-001`, or `fold-2 trial-001` of a cross-validation, or `part-image trial-001` of a part."""
    around = [name for name in run_dir.parts[-3:-1] if name.startswith(("fold-", "part-"))]
    return " ".join([*around, run_dir.name])


Finals = Mapping[str, Sequence[Sequence[Final]]]
"""Row -> fold -> seed."""
