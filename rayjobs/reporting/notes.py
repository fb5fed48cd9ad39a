"""Notes beneath a ranking: what a reader must know before believing a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mmcore.metric_names import own_metrics
from rayjobs.cli.terminal import short_settings
from rayjobs.experiment.folder import final_dirs
from rayjobs.reporting.finals import Finals, flattened, short_name
from rayjobs.results_layout import SIZES_FILE
from rayjobs.runs.result import group_sizes

if TYPE_CHECKING:
    from rayjobs.experiment.experiment import Experiment
    from rayjobs.experiment.plan import Plan


def budget_notes(rows: Sequence[Mapping[str, Any]], plan: Plan) -> list[str]:
    """Returns a note for each row whose searches ended before all their trials had begun: the time was over."""
    notes = []
    for row in rows:
        wanted = sum(search.trials for search in plan.searches if search.label == row["method"])
        if row["begun"] < wanted:
            notes.append(f"{row['method']}: {row['begun']} of {wanted} trials were begun, then the time was over")
    return notes


def elastic_notes(experiment: Experiment, plan: Plan) -> list[str]:
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
                f"{short_name(run, label)} {', '.join(map(str, found))}" for run, found in changed.items()
            )
            notes.append(
                f"{label}: {len(changed)} of {len(sizes)} runs went on with another number of workers ({listed}): "
                "the same global batches, but not bit for bit the run of a fixed group"
            )
    return notes


def schedule_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
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


def chance_notes(rows: Sequence[Mapping[str, Any]], finals: Finals) -> list[str]:
    """Returns a note for each modality whose encoder was lost: no better than the most frequent class."""
    notes = []
    for row in rows:
        models = flattened(finals[row["method"]])
        for name, key in own_metrics(models[0].metrics if models else ()).items():
            lost = sum(
                bool(final.metrics[key] <= np.bincount(final.labels).max() / len(final.labels)) for final in models
            )
            if lost:
                notes.append(f"{row['method']}: {name} no better than chance in {lost} of {len(models)} final models")
    return notes


def dead_notes(finals: Finals) -> list[str]:
    """Returns a note for each modality whose encoder died while a final model was trained (no gradient any more)."""
    notes = []
    for label, folds in finals.items():
        models = flattened(folds)
        for name in dict.fromkeys(name for model in models for name in model.dead):
            since = sorted(model.dead[name] for model in models if name in model.dead)
            seeds = f"{len(since)} of {len(models)} final models (since epoch {', '.join(map(str, since))})"
            notes.append(f"{label}: {name}'s encoder died in {seeds}")
    return notes
