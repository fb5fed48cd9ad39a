"""What a planned study can show, before anything is spent: from what is known of how much its folds differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from mmcore.data.spec import DATASETS
from mmcore.errors import DataError, EquipoiseError
from rayjobs.commands.comparing.beginning import Preview
from rayjobs.commands.comparing.planning import plan_study
from rayjobs.commands.tuning import run_plans
from rayjobs.experiment.folder import keep_plan
from rayjobs.experiment.machine import Machine
from rayjobs.experiment.search_result import read_search
from rayjobs.results_layout import CELLS, COMPARE_FILE
from rayjobs.storage.files import load_json
from rayjobs.study.document import PowerEntry, StudyDocument
from rayjobs.study.judging.power import power_entry
from rayjobs.study.lock import rows_named
from rayjobs.study.study import Study

PILOT = ("joint", "ensemble")
"""Methods whose difference a pilot measures."""
PILOT_SEEDS = 2
POINTS = 100.0


def measured(study: Study, folder: Path, machine: Machine) -> dict[str, float]:
    """Runs a pilot: two methods at default settings, two seeds, all folds; returns data set -> σ_d in points.

    Differences are of validation accuracies: no test is read before the terms are fixed.

    Raises:
        EquipoiseError: As any search.
    """
    scores: dict[str, dict[str, list[list[float]]]] = {}
    for number in range(PILOT_SEEDS):
        pilot = study.model_copy(
            update={
                "methods": [PILOT[0]], "reference": PILOT[1], "references": [], "trials": 1, "scheduler": "fifo",
                "algorithm": "random", "seed": study.seed + number, "use": [], "race": False,
            }
        )  # fmt: skip
        plan = plan_study(pilot, folder / "pilot" / str(number), machine)
        request = replace(plan.experiment("").request, final_seeds=0)
        experiment = replace(plan.experiment("pilot"), request=request)
        experiment.folder.mkdir(parents=True, exist_ok=True)
        for each in plan.plans:
            keep_plan(each, experiment)
        run_plans(plan.plans, experiment, machine, resume=True)
        for each in plan.plans:
            for search in each.searches:
                found = read_search(experiment.folder / search.name)
                if found is None or found.best is None or found.best.objective is None:
                    raise DataError(f"the pilot's {search.name} has no result: see {plan.folder / CELLS}")
                by_label = scores.setdefault(each.prepared.directory.name, {})
                folds = by_label.setdefault(search.label, [[] for _ in each.folds])
                folds[each.folds.index(search.fold)].append(POINTS * found.best.objective)
    return {name: _deviation(by_label) for name, by_label in scores.items()}


def _deviation(by_label: Mapping[str, Sequence[Sequence[float]]]) -> float:
    """Returns the standard deviation over folds of the difference of two methods, each a mean over seeds."""
    one, other = (np.array([np.mean(seeds) for seeds in by_label[label]]) for label in PILOT)
    return float((one - other).std(ddof=1))


def outlooks(study: Study, plan: Preview, folder: Path, pilot: Mapping[str, float]) -> list[PowerEntry]:
    """Returns what a study can show on each of its data sets.

    Args:
        study: What is wanted.
        plan: What it takes.
        folder: The study's; earlier ones lie beside it.
        pilot: Data set -> σ_d of a pilot, in points.
    """
    entries = []
    for data, name in zip(study.datasets, plan.rows, strict=True):
        deviation, source = _known(data.name, folder, pilot)
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


def _known(dataset: str, folder: Path, pilot: Mapping[str, float]) -> tuple[float | None, str]:
    """Returns σ_d on a data set, and where it is from: an earlier study of the same source, or a pilot."""
    found = next((value for name, value in pilot.items() if name.partition("-")[0] == dataset), None)
    if found is not None:
        return found, f"pilot: {' against '.join(PILOT)}, {PILOT_SEEDS} seeds, on validation"
    for path in sorted(folder.parent.glob(f"*/{COMPARE_FILE}")):
        try:
            document = StudyDocument.from_dict(load_json(path))
        except EquipoiseError:
            continue
        names = {entry.name for entry in document.datasets if entry.unit == dataset}
        for entry in document.power:
            if entry.dataset in names and entry.deviation is not None:
                return entry.deviation, f"the study {path.parent.name}"
    return None, ""


def lines_of(entries: Sequence[PowerEntry]) -> list[str]:
    """Returns the outlook in words, a line or two a data set."""
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
    return lines
