"""The searches and final models of a study: which cells it has, and the plan that trains them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmcore.assembly.config import with_values
from mmcore.config.schema import LARGEST_SEED
from mmcore.errors import UsageError
from rayjobs.experiment.experiment import Experiment
from rayjobs.experiment.machine import Machine
from rayjobs.experiment.plan import Plan, make_plans
from rayjobs.results_layout import CELLS
from rayjobs.search.searches import Search
from rayjobs.storage.mirror import NO_MIRROR, Mirror
from rayjobs.study.cell import Cell, make_cell
from rayjobs.study.study import Study

MOST_NAMED = 5
"""Folds that are named in a message."""


@dataclass(frozen=True)
class StudyPlan:
    """A study, ready to be run.

    Attributes:
        study: What is wanted.
        folder: Where it lies.
        plans: One a data set.
        cells: All cells of them.
        mirror: Where the folder has its twin.
    """

    study: Study
    folder: Path
    plans: Sequence[Plan]
    cells: Sequence[Cell]
    mirror: Mirror = NO_MIRROR

    def experiment(self, command: str) -> Experiment:
        """Returns the cells as what the pool runs; each search runs one trial at a time, so that no machine decides."""
        request = self.study.request_of(self.study.datasets[0])
        return Experiment(self.folder / CELLS, request, command, mirror=self.mirror, per_search=1)


def plan_study(study: Study, folder: Path, machine: Machine, mirror: Mirror = NO_MIRROR) -> StudyPlan:
    """Prepares the data of a study, and plans its cells.

    Raises:
        UsageError: A fold there is not, one data set twice, among others.
        ConfigError: As `make_plans`.
    """
    plans = []
    for data in study.datasets:
        for plan in make_plans(study.request_of(data), machine):
            plans.append(_of_study(plan, study))
    names = [plan.prepared.directory.name for plan in plans]
    if len(set(names)) < len(names):
        raise UsageError(f"a data set is named twice, with the same options: {', '.join(names)}")
    unknown = sorted(set(study.margins) - set(names))
    if unknown:
        raise UsageError(f"margins: there is no data set {', '.join(unknown)} in this study ({', '.join(names)})")
    cells = [
        make_cell(plan.prepared, plan.searches_of(label, fold), _number_of_folds(plan, study), study.seed)
        for plan in plans
        for label in plan.labels
        for fold in plan.folds
    ]
    return StudyPlan(study, folder, plans, cells, mirror)


def _of_study(plan: Plan, study: Study) -> Plan:
    """Returns a plan of the study's folds, whose searches have a seed for each fold, the same for all methods."""
    folds = folds_of(plan.folds, study, plan.prepared.directory.name)
    searches = tuple(
        _seeded(search, search_seed(study.seed, plan.prepared.fingerprint, search.fold))
        for search in plan.searches
        if search.fold in folds
    )
    return replace(plan, searches=searches, folds=folds)


def folds_of(folds: tuple[int | None, ...], study: Study, dataset: str) -> tuple[int | None, ...]:
    """Returns the folds of a data set that a study wants.

    Args:
        folds: All there are; (None,) where there is one split.
        study: What is wanted.
        dataset: Its name, for the message.

    Raises:
        UsageError: One is wanted that is not there.
    """
    if study.folds is None:
        return folds
    lacking = sorted(set(study.folds) - {fold for fold in folds if fold is not None})
    if lacking:
        shown = ", ".join(map(str, lacking[:MOST_NAMED])) + (", ..." if len(lacking) > MOST_NAMED else "")
        raise UsageError(f"--folds {shown}: {dataset} has {len(folds)}, 0 to {len(folds) - 1}")
    return tuple(sorted(study.folds))


def search_seed(seed: int, fingerprint: str, fold: int | None) -> int:
    """Returns the seed of all searches of a fold: common random numbers for all methods, others on each fold.

    Args:
        seed: The study's; studies of one seed share cells.
        fingerprint: Of the prepared data.
        fold: None where there is one split.
    """
    digest = hashlib.sha256(f"{seed}:{fingerprint}:{fold}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % (LARGEST_SEED // 2)


def _seeded(search: Search, seed: int) -> Search:
    return replace(search, config=with_values(search.config, {"seed": seed}))


def _number_of_folds(plan: Plan, study: Study) -> int | None:
    """Returns how many folds the cross-validation has, those left out counted; None where there is one split."""
    number = len(plan.prepared.rules.folds_of(study.protocol))
    return number if plan.folds != (None,) else None
