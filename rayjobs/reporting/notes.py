"""Notes beneath a ranking: what a reader must know before believing a row, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmcore.metric_names import own_metrics
from rayjobs.cli.terminal import short_settings
from rayjobs.experiment.folder import final_dirs
from rayjobs.reporting.finals import Finals, flattened, short_name
from rayjobs.reporting.ranking_table import RankingRow, RankingTable
from rayjobs.results_layout import SIZES_FILE
from rayjobs.runs.result import group_sizes

if TYPE_CHECKING:
    from rayjobs.experiment.experiment import Experiment
    from rayjobs.experiment.plan import Plan

MORE_SEEDS = 5
DATA_DIR, OUTPUT = "data", "results"
"""What the commands take where nothing is said."""


def budget_notes(rows: Sequence[RankingRow], plan: Plan) -> list[str]:
    """Returns a note for each row whose searches ended before all their trials had begun: the time was over."""
    notes = []
    for row in rows:
        wanted = sum(search.trials for search in plan.searches if search.label == row.method)
        # Of a row without any trial its failure tells the reason.
        if row.begun < wanted and (row.begun or not row.failed_because):
            notes.append(f"{row.method}: {row.begun} of {wanted} trials were begun, then the time was over")
    return notes


def timing_notes(label_at_once: Mapping[str, int | None]) -> list[str]:
    """Returns a note where searches ran several trials at a time, and so would have gone otherwise elsewhere.

    Args:
        label_at_once: Row -> trials of its searches at a time; None: its result depends on the seed alone.
    """
    timed = {label: number for label, number in label_at_once.items() if number}
    if not timed:
        return []
    number = max(timed.values())
    return [
        f"depends on timing: up to {number} trials of each search ran at a time, so another machine might choose other "
        f"settings ({', '.join(timed)}); --per-search 1 leaves it to the seed alone"
    ]


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
                f"{label}: {len(changed)} of {len(sizes)} runs continued with another number of workers ({listed}): "
                "the same global batches, but not bit for bit the run of a fixed group"
            )
    return notes


def mended_notes(finals: Finals) -> list[str]:
    """Returns what went otherwise than it should with final models: damaged files, and what was done about them."""
    return [
        f"{label}, seed {final.seed}: {notice}"
        for label, folds in finals.items()
        for final in flattened(folds)
        for notice in final.notices
    ]


def schedule_notes(rows: Sequence[RankingRow]) -> list[str]:
    """Returns a note for each best configuration that changes as it is trained (population-based training)."""
    notes = []
    for row in rows:
        for best in row.best_of_folds or [row.best]:
            if not best or not best.schedule:
                continue
            parts = [f"from epoch {part.epoch + 1} {short_settings(part.values)}" for part in best.schedule]
            notes.append(
                f"{row.method}: its best configuration ({best.name}) is a schedule: {'; '.join(parts)}. Final "
                "models repeat it; the best-*.yaml file holds only the last values"
            )
    return notes


def teacher_notes(finals: Finals) -> list[str]:
    """Returns a note for each row that learnt from others' final models, whose cost its own does not hold."""
    notes = []
    for label, folds in finals.items():
        taught = sorted({name for final in flattened(folds) for name in final.teachers})
        if taught:
            notes.append(
                f"{label} learns from the final models of unimodal on {', '.join(taught)}: what those cost stands in "
                "their rows alone"
            )
    return notes


def chance_notes(rows: Sequence[RankingRow], finals: Finals) -> list[str]:
    """Returns a note for each modality whose encoder was lost: no better than the most frequent class."""
    notes = []
    for row in rows:
        models = flattened(finals[row.method])
        for name, key in own_metrics(models[0].metrics if models else ()).items():
            lost = sum(
                bool(final.metrics[key] <= np.bincount(final.labels).max() / len(final.labels)) for final in models
            )
            if lost:
                notes.append(f"{row.method}: {name} no better than chance in {lost} of {len(models)} final models")
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


def more_seeds(experiment: Experiment, tables: Sequence[RankingTable]) -> str:
    """Returns the command that trains the first row's best configuration with more seeds; "" where there is none.

    The seeds are new, neither the search's nor its final models', since those models' test results are known already.
    In a cross-validation each fold trains its own best configuration, whose seed and split the file holds.
    """
    files = [row.config_files for table in tables for row in table.rows if row.config_files]
    if not files:
        return ""
    request = experiment.request
    options = [f"--seeds {MORE_SEEDS}", f"--seed {request.seed + request.final_seeds + 1}"]
    if request.search_once:
        options.append("--protocol cv")
    if Path(request.data_dir).resolve() != Path(DATA_DIR).resolve():
        options.append(f"--data-dir {shlex.quote(request.data_dir)}")
    output = experiment.mirror.address or str(experiment.folder.parent)
    if output != OUTPUT:
        options.append(f"--output {shlex.quote(output)}")
    commands = [f"python -m rayjobs.train --config {shlex.quote(file)} {' '.join(options)}" for file in files[0]]
    return " && \\\n  ".join(commands)
