"""What is printed as a result: what each method adds to the reference, with what certainty, and at what cost.

Read from the files of finished searches and final models; computes nothing but what `mmcore.statistics` does.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmcore.errors import DataError
from mmcore.statistics import MIN_SEEDS, choose_clusters, mean_interval, paired_bootstrap
from rayjobs.advice import more_seeds
from rayjobs.classes import by_class, is_imbalanced
from rayjobs.files import read_json
from rayjobs.ledger import LEDGER_FILE
from rayjobs.progress import short_settings
from rayjobs.stages import SEARCH_FILE, best_file, final_dirs
from rayjobs.trials import failure_reason
from rayjobs.worker import PREDICTIONS_FILE, RESULT_FILE, SIZES_FILE, group_sizes

if TYPE_CHECKING:
    from mmcore.data.splits import Assignment
    from rayjobs.plans import Plan
    from rayjobs.request import Experiment

EQUAL_TRIALS = "Equal trials are not equal compute: compare epochs and device-seconds too."
OVER_FOLDS = (
    "Intervals are over the folds (Student's t), differences paired by fold. The folds share training samples, so the "
    "intervals are a little too narrow."
)
SEARCHED_ONCE = "Searched on fold 0 alone: its validation samples are among the test samples of another fold."
NOT_SEARCHED: dict[str, Any] = {"trials": [], "best": None}


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


def build_ranking(experiment: Experiment, plans: Sequence[Plan]) -> dict[str, Any]:
    """Returns the whole result of an experiment as plain values; one table per data set and protocol."""
    request, folder = experiment.request, experiment.folder
    tables = [_table(experiment, plan) for plan in plans]
    return {
        "experiment": experiment.name,
        "folder": experiment.mirror.address_of(folder),
        "command": experiment.command,
        "reference": request.reference,
        "final_seeds": request.final_seeds,
        "rankings": tables,
        "ledger": _ledger(experiment),
        "tensorboard": f"tensorboard --logdir {folder}",
        "next": more_seeds(experiment, tables),
        "notes": [EQUAL_TRIALS],
    }


def _ledger(experiment: Experiment) -> str:
    """Returns where the readings of test stand: in one file, or, at an address, in one of each final model."""
    if experiment.mirror:
        return f"{experiment.mirror.address_of(experiment.folder)}/*/final-*/{LEDGER_FILE}"
    return str(experiment.folder.parent / LEDGER_FILE)


def _table(experiment: Experiment, plan: Plan) -> dict[str, Any]:
    request, prepared = experiment.request, plan.prepared
    rows, finals = [], {}
    for label in plan.labels:
        runs = _Runs(experiment, plan, label)
        finals[label] = [] if runs.failed else runs.finals
        rows.append(_row(runs))
    cross_validated = len(plan.folds) > 1
    compare = _compare_folds if cross_validated else _compare
    note = compare(rows, finals, request.reference)
    assignments = [prepared.assign(plan.search_of(plan.labels[0], fold).config.protocol) for fold in plan.folds]
    tested = np.unique(np.concatenate([assignment.test for assignment in assignments]))
    return {
        "dataset": prepared.directory.name,
        "card": prepared.card,
        "constructed": prepared.constructed,
        "data_fingerprint": prepared.fingerprint,
        "protocol": all_folds(assignments[0].line) if cross_validated else assignments[0].line,
        "folds": len(plan.folds) if cross_validated else None,
        "num_test_samples": len(tested),
        "interval_note": note,
        "chance_notes": [
            *_chance_notes(rows, finals),
            *_dead_notes(finals),
            *_budget_notes(rows, plan),
            *_schedule_notes(rows),
            *_elastic_notes(experiment, plan),
        ],
        "search_note": SEARCHED_ONCE if request.search_once else "",
        "classes": _classes(plan, assignments[0], finals),
        "rows": sorted(rows, key=lambda row: (row["accuracy"] is None, -(row["accuracy"] or 0.0))),
    }


class _Runs:
    """What a row is made of: its searches, as they ended, and its final models by fold.

    Args:
        experiment: The experiment.
        plan: Of the data set.
        label: The row.
    """

    def __init__(self, experiment: Experiment, plan: Plan, label: str):
        self.label = label
        self.searches = [search for search in plan.searches if search.label == label]
        self.folders = [experiment.folder / search.name for search in self.searches]
        self.stored = [read_json(folder / SEARCH_FILE) or NOT_SEARCHED for folder in self.folders]
        dirs = [final_dirs(plan, experiment, label, fold) for fold in plan.folds]
        loaded = [[load_final(run_dir) for run_dir in of_fold] for of_fold in dirs]
        self.finals = [[final for final in of_fold if final is not None] for of_fold in loaded]
        self.best_files = [
            str(best_file(search, experiment))
            for search, entry in zip(self.searches, self.stored, strict=True)
            if entry["best"]
        ]
        chosen = [bool(self.stored[self.searches.index(plan.search_of(label, fold))]["best"]) for fold in plan.folds]
        self.missing = [
            {"trial": _short_name(path, label), "reason": failure_reason(path)}
            for paths, models, has_best in zip(dirs, loaded, chosen, strict=True)
            for path, model in zip(paths, models, strict=True)
            if has_best and model is None
        ]
        self.failed = self._failed(len(_flat(dirs)))

    @property
    def trials(self) -> list[dict[str, Any]]:
        """Every trial of the row's searches."""
        return [
            {**trial, "name": _short_name(folder / trial["name"], self.label)}
            for folder, entry in zip(self.folders, self.stored, strict=True)
            for trial in entry["trials"]
        ]

    def _failed(self, planned: int) -> str:
        """Returns why the row has no result: a mean over the runs that happened to work would be of other runs."""
        lacking = planned - len(_flat(self.finals))
        if not lacking:
            return ""
        found = [trial for trial in self.trials if trial["status"] == "failed"]
        if self.missing:
            why = f"{self.missing[0]['trial']}: {self.missing[0]['reason']}"
        elif found:
            why = f"no trial of a search succeeded; {found[0]['name']}: {found[0]['reason']}"
        else:
            why = "the time was over before a trial of a search had finished an epoch"
        return f"{lacking} of {planned} final models are missing ({why})"


def _row(runs: _Runs) -> dict[str, Any]:
    trials, finals, stored = runs.trials, _flat(runs.finals), runs.stored
    whole = [] if runs.failed else runs.finals
    of_folds = [mean_interval(accuracies_of(of_fold))[0] for of_fold in whole if of_fold]
    failed = [trial for trial in trials if trial["status"] == "failed"]
    has_folds = len(runs.finals) > 1
    return {
        "method": runs.label,
        "accuracy": mean_interval(of_folds)[0] if of_folds else None,
        "half_width": mean_interval(of_folds)[1] if has_folds and of_folds else None,
        "folds": of_folds if has_folds else None,
        "accuracies": accuracies_of(finals),
        "seeds": [final.seed for final in finals],
        "failed_because": runs.failed,
        "delta": None,
        "modalities": _modalities(_flat(whole)),
        "trials": len(trials),
        "begun": sum(trial["epochs"] > 0 or trial["status"] == "failed" for trial in trials),
        "failed": len(failed),
        "stopped_early": sum(trial["status"] == "stopped" for trial in trials),
        "epochs": sum(trial["epochs"] for trial in trials) + int(sum(final.cost["epochs"] for final in finals)),
        "device_seconds": sum(trial["device_seconds"] for trial in trials)
        + sum(final.cost["device_seconds"] for final in finals),
        "best": stored[0]["best"],
        "best_of_folds": [entry["best"] for entry in stored] if len(stored) > 1 else None,
        "config_file": runs.best_files[0] if runs.best_files else None,
        "config_files": runs.best_files,
        "failures": [{"trial": trial["name"], "reason": trial["reason"]} for trial in failed] + runs.missing,
    }


def accuracies_of(finals: Sequence[Final]) -> list[float]:
    """Returns the fused test accuracy of each model."""
    return [final.metrics["fused/accuracy"] for final in finals]


def _flat(folds: Sequence[Sequence[Any]]) -> list[Any]:
    return [entry for of_fold in folds for entry in of_fold]


def _short_name(run_dir: Path, label: str) -> str:
    """Returns `trial-001`, or `fold-2 trial-001` of a cross-validation."""
    fold = run_dir.parent.name
    return f"{fold} {run_dir.name}" if fold.startswith("fold-") else run_dir.name


def all_folds(line: str) -> str:
    """Returns a protocol's line for all its folds: `cv over groups (6 folds, seed 0)`."""
    return re.sub(r"fold \d+ of (\d+)", r"all \1 folds", line)


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


Finals = Mapping[str, Sequence[Sequence[Final]]]
"""Row -> fold -> seed."""


def _classes(plan: Plan, assignment: Assignment, finals: Finals) -> list[dict[str, Any]]:
    """Returns each row's accuracy by class, where classes are of unequal size or weighted; else nothing."""
    models = {label: _flat(folds) for label, folds in finals.items()}
    columns = {label: ("fused", [final.metrics for final in own]) for label, own in models.items() if own}
    found = by_class(plan.prepared, assignment, columns)
    weighted = any(search.config.trainer.class_weights != "none" for search in plan.searches)
    return found if columns and (weighted or is_imbalanced(found)) else []


def _compare(rows: list[dict[str, Any]], finals: Finals, reference: str | None) -> str:
    """Puts what each method adds to the reference into its row; returns what must be printed beside the intervals."""
    base = _flat(finals.get(reference or "", []))
    if not base:
        return _no_reference(finals, reference)
    clusters, note = choose_clusters(base[0].groups.tolist(), base[0].sources.tolist())
    for row in rows:
        own = _flat(finals[row["method"]])
        if row["method"] == reference or len(own) != len(base):
            continue
        _check_paired(row["method"], reference, [*own, *base])
        interval = paired_bootstrap([final.correct for final in own], [final.correct for final in base], clusters)
        difference = row["accuracy"] - mean_interval(accuracies_of(base))[0]
        row["delta"] = {
            "mean": interval.mean if interval else difference,
            "low": interval.low if interval else None,
            "high": interval.high if interval else None,
        }
    if len(base) < MIN_SEEDS:
        return f"No interval: fewer than {MIN_SEEDS} final seeds."
    return f"The intervals hold {note}: nothing is claimed beyond them." if note else ""


def _compare_folds(rows: list[dict[str, Any]], finals: Finals, reference: str | None) -> str:
    """As `_compare`, paired by fold: the mean of the folds' differences, and its interval over the folds."""
    base = finals.get(reference or "", [])
    if not all(base) or not base:
        return _no_reference(finals, reference)
    for row in rows:
        own = finals[row["method"]]
        if row["method"] == reference or not own or not all(own):
            continue
        for mine, theirs in zip(own, base, strict=True):
            _check_paired(row["method"], reference, [*mine, *theirs])
        row["delta"] = fold_difference([accuracies_of(of_fold) for of_fold in own], [accuracies_of(x) for x in base])
    return OVER_FOLDS


def fold_difference(own: Sequence[Sequence[float]], base: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Returns the mean over folds of own - base, each a mean over its seeds, and its interval over the folds.

    Args:
        own: Fold -> seed -> accuracy.
        base: The same of what it is compared with, on the same folds.
    """
    differences = [mean_interval(a)[0] - mean_interval(b)[0] for a, b in zip(own, base, strict=True)]
    mean, half_width = mean_interval(differences)
    return {
        "mean": mean,
        "low": None if half_width is None else mean - half_width,
        "high": None if half_width is None else mean + half_width,
        "folds": differences,
    }


def _no_reference(finals: Finals, reference: str | None) -> str:
    trained = any(_flat(folds) for folds in finals.values())
    return f"No differences: {reference} has no final model, or not all of them." if reference and trained else ""


def _check_paired(method: str, reference: str | None, finals: Sequence[Final]) -> None:
    """Raises a DataError where models were tested on different samples."""
    if any(not np.array_equal(final.sample_ids, finals[-1].sample_ids) for final in finals):
        raise DataError(f"{method} and {reference} were tested on different samples: they cannot be compared")


def _budget_notes(rows: Sequence[Mapping[str, Any]], plan: Plan) -> list[str]:
    """Returns a note for each row whose searches ended before all their trials had begun: the time was over."""
    notes = []
    for row in rows:
        wanted = sum(search.trials for search in plan.searches if search.label == row["method"])
        if row["begun"] < wanted:
            notes.append(f"{row['method']}: {row['begun']} of {wanted} trials were begun, then the time was over")
    return notes


def _elastic_notes(experiment: Experiment, plan: Plan) -> list[str]:
    """Returns a note for each row with runs whose groups changed in size: they are other runs than a fixed group's."""
    notes = []
    for label in plan.labels:
        folders = [experiment.folder / search.name for search in plan.searches if search.label == label]
        folders += [final.parent for fold in plan.folds for final in final_dirs(plan, experiment, label, fold)[:1]]
        runs = {file.parent for folder in folders for file in folder.glob(f"*/{SIZES_FILE}")}
        sizes = {run: group_sizes(run) for run in sorted(runs)}
        changed = {run: found for run, found in sizes.items() if len(set(found)) > 1}
        if changed:
            listed = "; ".join(
                f"{_short_name(run, label)} {', '.join(map(str, found))}" for run, found in changed.items()
            )
            notes.append(
                f"{label}: {len(changed)} of {len(sizes)} runs went on with another number of workers ({listed}): "
                "the same global batches, but not bit for bit the run of a fixed group"
            )
    return notes


def _schedule_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a note for each best configuration that changes as it is trained (population-based training)."""
    notes = []
    for row in rows:
        for best in row["best_of_folds"] or [row["best"]]:
            if not best or not best.get("schedule"):
                continue
            parts = [f"from epoch {part['epoch'] + 1} {short_settings(part['values'])}" for part in best["schedule"]]
            notes.append(
                f"{row['method']}: its best configuration ({best['name']}) is a schedule: {'; '.join(parts)}. Final "
                "models repeat it; the best-*.yaml file holds only the last values"
            )
    return notes


def _chance_notes(rows: Sequence[Mapping[str, Any]], finals: Finals) -> list[str]:
    """Returns a note for each modality whose encoder was lost: no better than the most frequent class."""
    notes = []
    for row in rows:
        models = _flat(finals[row["method"]])
        for name, own in row["modalities"].items():
            key = f"{name}/{'accuracy' if own['by'] == 'head' else 'probe_accuracy'}"
            lost = sum(
                bool(final.metrics[key] <= np.bincount(final.labels).max() / len(final.labels)) for final in models
            )
            if lost:
                notes.append(f"{row['method']}: {name} no better than chance in {lost} of {len(models)} final models")
    return notes


def _dead_notes(finals: Finals) -> list[str]:
    """Returns a note for each modality whose encoder died while a final model was trained (no gradient any more)."""
    notes = []
    for label, folds in finals.items():
        models = _flat(folds)
        for name in dict.fromkeys(name for model in models for name in model.dead):
            since = sorted(model.dead[name] for model in models if name in model.dead)
            seeds = f"{len(since)} of {len(models)} final models (since epoch {', '.join(map(str, since))})"
            notes.append(f"{label}: {name}'s encoder died in {seeds}")
    return notes
