"""What a planned study can show, before anything is spent: from what is known of how much its folds differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from mmcore.data.prepared.prepare import prepared_dir
from mmcore.data.prepared.store import PreparedDataset
from mmcore.data.spec import DATASETS
from mmcore.errors import EquipoiseError, TrainingError, UsageError
from rayjobs.cli.terminal import format_seconds
from rayjobs.commands.comparing.beginning import PILOT, Preview, pilot_name
from rayjobs.commands.comparing.planning import StudyPlan, plan_study
from rayjobs.commands.tuning import run_plans
from rayjobs.experiment.folder import keep_plan
from rayjobs.experiment.machine import Machine
from rayjobs.experiment.plan import Plan
from rayjobs.experiment.search_result import read_search
from rayjobs.results_layout import COMPARE_FILE
from rayjobs.storage.files import load_json
from rayjobs.study.document import DatasetEntry, PowerEntry, StudyDocument
from rayjobs.study.judging.power import power_entry
from rayjobs.study.lock import rows_named
from rayjobs.study.study import StudiedData, Study, read_study

PILOT_SEEDS = 2
PILOTED = f"pilot: {' against '.join(PILOT)}, {PILOT_SEEDS} seeds, on validation"
MIN_FOLDS = 2
POINTS = 100.0


def measured(study: Study, folder: Path, machine: Machine) -> dict[str, float]:
    """Runs a pilot: two methods at default settings, two seeds, all folds; returns data set -> σ_d in points.

    The data sets are in the study's order, by the names of their prepared folders.

    Differences are of validation accuracies: no test is read before the terms are fixed.

    Raises:
        UsageError: There are no folds.
        TrainingError: One of the methods could not be trained.
    """
    parts = [_pilot(study, folder, number, machine) for number in range(PILOT_SEEDS)]
    plans = [plan for part in parts for plan in part.plans]
    if any(len(plan.folds) < MIN_FOLDS for plan in plans):
        raise UsageError("--pilot measures how much folds differ: it needs --protocol cv and 2 folds or more")
    experiment = parts[0].experiment("pilot")
    experiment = replace(experiment, request=replace(experiment.request, final_seeds=0))
    experiment.folder.mkdir(parents=True, exist_ok=True)
    for plan in plans:
        keep_plan(plan, experiment)
    run_plans(plans, experiment, machine, resume=True)
    scores: dict[str, dict[str, dict[int | None, list[float]]]] = {}
    for plan in plans:
        by_label = scores.setdefault(plan.prepared.directory.name, {label: {} for label in PILOT})
        for search in plan.searches:
            by_label[search.label].setdefault(search.fold, []).append(_score(experiment.folder / search.name))
    return {name: _deviation(by_label) for name, by_label in scores.items()}


def _pilot(study: Study, folder: Path, number: int, machine: Machine) -> StudyPlan:
    """Returns the plan of one seed of a pilot, whose searches have names of their own."""
    changes = {
        "methods": [PILOT[0]], "reference": PILOT[1], "references": [], "trials": 1, "scheduler": "fifo",
        "algorithm": "random", "seed": study.seed + number, "use": [], "race": False,
    }  # fmt: skip
    plan = plan_study(study.model_copy(update=changes), folder / "pilot", machine)
    return replace(plan, plans=[_numbered(each, number) for each in plan.plans])


def _numbered(plan: Plan, number: int) -> Plan:
    searches = tuple(replace(search, dataset=pilot_name(search.dataset, number)) for search in plan.searches)
    return replace(plan, searches=searches)


def _score(folder: Path) -> float:
    """Returns what a pilot's search reached on validation, in points."""
    found = read_search(folder)
    if found is None or found.best is None or found.best.objective is None:
        why = next((f"; {trial.reason}" for trial in (found.trials if found else ()) if trial.reason), "")
        raise TrainingError(f"the pilot has no result for {folder.name} ({folder}){why}")
    return POINTS * found.best.objective


def _deviation(by_label: Mapping[str, Mapping[int | None, Sequence[float]]]) -> float:
    """Returns the standard deviation over folds of the difference of two methods, each a mean over seeds."""
    one, other = ([np.mean(seeds) for seeds in by_label[label].values()] for label in PILOT)
    return float(np.subtract(one, other).std(ddof=1))


def outlooks(study: Study, plan: Preview, folder: Path, pilot: Mapping[str, float]) -> list[PowerEntry]:
    """Returns what a study can show on each of its data sets.

    Args:
        study: What is wanted.
        plan: What it takes.
        folder: The study's; earlier ones lie beside it.
        pilot: Data set -> σ_d of a pilot, in points, in the study's order; empty without one.
    """
    entries = []
    piloted: list[float | None] = [*pilot.values()] or [None] * len(study.datasets)
    for data, name, found in zip(study.datasets, plan.rows, piloted, strict=True):
        deviation, source = _known(study, data, folder) if found is None else (found, PILOTED)
        labels = plan.rows[name]
        references = {label for each in (study.reference, *study.references) for label in rows_named(each, labels)}
        all_folds = len(DATASETS.get(data.name).split_rules.folds_of(study.protocol))
        chosen = len(plan.folds[name])
        entries.append(
            power_entry(
                name,
                margin=study.margin_of(name),
                deviation=deviation,
                source=source,
                folds=chosen,
                max_folds=max(all_folds, chosen),
                family=max(1, len(set(labels) - references)),
                rho_of_folds=partial(_rho, least=all_folds),
                alpha=study.alpha,
            )
        )
    return entries


def _rho(num_folds: int, least: int) -> float:
    """Returns test size by training size of a cross-validation of so many folds, in which another one validates."""
    return 1 / max(num_folds - 2, least - 2, 1)


def _known(study: Study, data: StudiedData, folder: Path) -> tuple[float | None, str]:
    """Returns σ_d on a data set, and where it is from: an earlier study of the same data and protocol."""
    for path in sorted(folder.parent.glob(f"*/{COMPARE_FILE}")):
        try:
            document, earlier = StudyDocument.from_dict(load_json(path)), read_study(path.parent)
        except (EquipoiseError, OSError):  # another study's, which is not this one's matter
            continue
        if data not in earlier.datasets or (earlier.protocol, earlier.dataset) != (study.protocol, study.dataset):
            continue
        names = {entry.name for entry in document.datasets if _is_same(entry, study, data)}
        for entry in document.power:
            if entry.dataset in names and entry.deviation is not None and 0 < entry.deviation < math.inf:
                return entry.deviation, f"the study {path.parent.name}"
    return None, ""


def _is_same(entry: DatasetEntry, study: Study, data: StudiedData) -> bool:
    """Tells whether a data set of an earlier study is this one; by its content, where that is prepared here."""
    if entry.unit != data.name:
        return False
    try:
        prepared = PreparedDataset.open(prepared_dir(study.data_dir, data.name, data.options))
    except EquipoiseError:
        return True
    return bool(study.dataset.get("encode")) or prepared.fingerprint == entry.fingerprint


def lines_of(entries: Sequence[PowerEntry], plan: Preview) -> list[str]:
    """Returns the outlook in words, some lines a data set; with the cheapest plan that reaches δ, if there is one."""
    lines = []
    for entry in entries:
        if entry.deviation is None or entry.smallest is None:
            lines.append(f"{entry.dataset}: {entry.note or 'what it can show is not known: run --pilot'}")
            continue
        lines.append(
            f"{entry.dataset}: {entry.smallest:.1f} points or more would be shown in 4 of 5 such studies "
            f"({entry.folds} folds, {entry.family} compared)"
        )
        lines.append(f"  by {entry.deviation:.1f} points that differences vary from fold to fold ({entry.source})")
        if entry.note:
            lines.append(f"  {entry.note}")
        if entry.smallest > entry.margin:
            lines.append(f"  {_cheapest(entry, plan)}")
    return lines


def _cheapest(entry: PowerEntry, plan: Preview) -> str:
    """Returns the fewest folds that show δ, and what they cost; or that there is no such number."""
    if entry.folds_needed is None:
        return f"no number of folds there is shows {entry.margin:g}: more seeds, steadier methods or a wider margin may"
    cost = ""
    if plan.device_seconds is not None:
        seconds = plan.device_seconds * entry.folds_needed / max(entry.folds, 1)
        cost = f", at most {format_seconds(seconds)} on a device"
    return f"{entry.folds_needed} folds would show {entry.margin:g}{cost}"
