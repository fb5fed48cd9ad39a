"""What is printed as a result: what each method adds to the reference, with what certainty, and at what cost.

Read from the files of finished searches and final models; computes nothing but what `mmcore.statistics` does.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmcore.errors import DataError
from mmcore.statistics import MIN_SEEDS, choose_clusters, mean_interval, paired_bootstrap
from rayjobs.files import read_json
from rayjobs.ledger import LEDGER_FILE
from rayjobs.trials import failure_reason
from rayjobs.worker import PREDICTIONS_FILE, RESULT_FILE

if TYPE_CHECKING:
    from rayjobs.plans import Plan
    from rayjobs.request import Experiment

EQUAL_TRIALS = "Equal trials are not equal compute: compare epochs and device-seconds too."
NEXT_SEEDS = 10


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


def load_final(run_dir: Path) -> Final | None:
    """Returns the final model in a run's folder, or None if it was not finished.

    Raises:
        DataError: Its predictions are missing or damaged.
    """
    result = read_json(run_dir / RESULT_FILE)
    if not result or not result["test"]:
        return None
    try:
        with np.load(run_dir / PREDICTIONS_FILE) as stored:
            arrays = {name: stored[name] for name in stored.files}
        order = np.argsort(arrays["sample_ids"])
        correct = arrays["logits/fused"].argmax(axis=1) == arrays["labels"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{run_dir / PREDICTIONS_FILE} is missing or damaged ({error})") from None
    return Final(
        seed=result["config"]["seed"],
        metrics=result["test"],
        correct=correct[order],
        **{name: arrays[name][order] for name in ("sample_ids", "labels", "groups", "sources")},
        protocol=result["protocol"],
        cost={"epochs": result["epochs"], "device_seconds": result["device_seconds"]},
        dead={reading["modality"]: reading["since"] for reading in result["readings"] if reading["kind"] == "dead"},
    )


def build_ranking(experiment: Experiment, plans: Sequence[Plan], search_file: str) -> dict[str, Any]:
    """Returns the whole result of an experiment as plain values; one table per data set and protocol."""
    request, folder = experiment.request, experiment.folder
    tables = [_table(experiment, plan, search_file) for plan in plans]
    return {
        "experiment": experiment.name,
        "folder": str(folder),
        "command": experiment.command,
        "reference": request.reference,
        "final_seeds": request.final_seeds,
        "rankings": tables,
        "ledger": str(folder.parent / LEDGER_FILE),
        "tensorboard": f"tensorboard --logdir {folder}",
        "notes": [EQUAL_TRIALS],
    }


def _table(experiment: Experiment, plan: Plan, search_file: str) -> dict[str, Any]:
    request, prepared = experiment.request, plan.prepared
    rows, finals = [], {}
    for search in plan.searches:
        folder = experiment.folder / search.name
        seeds = range(1, request.final_seeds + 1)
        loaded = [load_final(folder / f"final-{number}") for number in seeds]
        finals[search.label] = [final for final in loaded if final is not None]
        stored = read_json(folder / search_file) or {"trials": [], "best": None}
        row = _row(search.label, stored, finals[search.label])
        missing = [f"final-{number}" for number, final in zip(seeds, loaded, strict=True) if final is None]
        if stored["best"]:
            row["failures"] += [{"trial": name, "reason": failure_reason(folder / name)} for name in missing]
        row["config_file"] = str(experiment.folder / f"best-{search.name}.yaml") if stored["best"] else None
        rows.append(row)
    note = _compare(rows, finals, request.reference)
    assignment = prepared.assign(plan.searches[0].config.protocol)
    return {
        "dataset": prepared.directory.name,
        "card": prepared.card,
        "constructed": prepared.constructed,
        "data_fingerprint": prepared.fingerprint,
        "protocol": assignment.line,
        "num_test_samples": len(assignment.test),
        "interval_note": note,
        "chance_notes": [*_chance_notes(rows, finals), *_dead_notes(finals)],
        "rows": sorted(rows, key=lambda row: (row["accuracy"] is None, -(row["accuracy"] or 0.0))),
    }


def _row(label: str, stored: Mapping[str, Any], finals: Sequence[Final]) -> dict[str, Any]:
    trials = stored["trials"]
    accuracies = [final.metrics["fused/accuracy"] for final in finals]
    failed = [trial for trial in trials if trial["status"] == "failed"]
    return {
        "method": label,
        "accuracy": mean_interval(accuracies)[0] if accuracies else None,
        "accuracies": accuracies,
        "seeds": [final.seed for final in finals],
        "delta": None,
        "modalities": _modalities(finals),
        "trials": len(trials),
        "failed": len(failed),
        "stopped_early": sum(trial["status"] == "stopped" for trial in trials),
        "epochs": sum(trial["epochs"] for trial in trials) + int(sum(final.cost["epochs"] for final in finals)),
        "device_seconds": sum(trial["device_seconds"] for trial in trials)
        + sum(final.cost["device_seconds"] for final in finals),
        "best": stored["best"],
        "failures": [{"trial": trial["name"], "reason": trial["reason"]} for trial in failed],
    }


def _modalities(finals: Sequence[Final]) -> dict[str, dict[str, Any]]:
    """Returns each modality's own accuracy, by its own head where it has one, else by a linear probe."""
    if not finals:
        return {}
    names = [name.split("/")[0] for name in finals[0].metrics if name.endswith(("/accuracy", "/probe_accuracy"))]
    own = {}
    for name in dict.fromkeys(names):
        if name == "fused":
            continue
        kind, key = (
            ("head", f"{name}/accuracy")
            if f"{name}/accuracy" in finals[0].metrics
            else ("probe", f"{name}/probe_accuracy")
        )
        own[name] = {"accuracy": mean_interval([final.metrics[key] for final in finals])[0], "by": kind}
    return own


def _compare(rows: list[dict[str, Any]], finals: Mapping[str, Sequence[Final]], reference: str | None) -> str:
    """Puts what each method adds to the reference into its row; returns what must be printed beside the intervals."""
    base = finals.get(reference or "", [])
    if not base:
        return f"No differences: there is no final model of {reference}." if reference and any(finals.values()) else ""
    clusters, note = choose_clusters(base[0].groups.tolist(), base[0].sources.tolist())
    for row in rows:
        own = finals[row["method"]]
        if row["method"] == reference or len(own) != len(base):
            continue
        if any(not np.array_equal(final.sample_ids, base[0].sample_ids) for final in [*own, *base]):
            raise DataError(
                f"{row['method']} and {reference} were tested on different samples: they cannot be compared"
            )
        interval = paired_bootstrap([final.correct for final in own], [final.correct for final in base], clusters)
        difference = row["accuracy"] - mean_interval([final.metrics["fused/accuracy"] for final in base])[0]
        row["delta"] = {
            "mean": interval.mean if interval else difference,
            "low": interval.low if interval else None,
            "high": interval.high if interval else None,
        }
    if len(base) < MIN_SEEDS:
        return f"No interval: fewer than {MIN_SEEDS} final seeds."
    return f"The intervals hold {note}: nothing is claimed beyond them." if note else ""


def _chance_notes(rows: Sequence[Mapping[str, Any]], finals: Mapping[str, Sequence[Final]]) -> list[str]:
    """Returns a note for each modality whose encoder was lost: no better than the most frequent class."""
    notes = []
    for row in rows:
        models = finals[row["method"]]
        for name, own in row["modalities"].items():
            key = f"{name}/{'accuracy' if own['by'] == 'head' else 'probe_accuracy'}"
            lost = sum(
                bool(final.metrics[key] <= np.bincount(final.labels).max() / len(final.labels)) for final in models
            )
            if lost:
                notes.append(f"{row['method']}: {name} no better than chance in {lost} of {len(models)} seeds")
    return notes


def _dead_notes(finals: Mapping[str, Sequence[Final]]) -> list[str]:
    """Returns a note for each modality whose encoder died while a final model was trained (no gradient any more)."""
    notes = []
    for label, models in finals.items():
        for name in dict.fromkeys(name for model in models for name in model.dead):
            since = sorted(model.dead[name] for model in models if name in model.dead)
            seeds = f"{len(since)} of {len(models)} seeds (since epoch {', '.join(map(str, since))})"
            notes.append(f"{label}: {name}'s encoder died in {seeds}")
    return notes
