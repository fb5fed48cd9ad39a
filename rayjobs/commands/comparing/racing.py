"""`--race`: before a fold begins, each method that could no longer be better or equivalent leaves the study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmcore.analysis.fold_statistics import mean_rho
from mmcore.analysis.racing import FIRST_LOOK, can_still_win
from mmcore.metric_names import FUSED_ACCURACY
from rayjobs.commands.comparing.planning import StudyPlan
from rayjobs.experiment.plan import Plan
from rayjobs.experiment.stages import PlacedStage
from rayjobs.pool.stage import GatedStage, Stage
from rayjobs.study.race import Leaver, read_race, write_race
from rayjobs.study.results import StudyResults, load_study

POINTS = 100.0


@dataclass(frozen=True)
class Racing:
    """The race of a study.

    Attributes:
        plan: The study, ready to be run.
        compared: Labels that may leave; references never do.
    """

    plan: StudyPlan
    compared: Sequence[str]

    def gate(self, plan: Plan, stages: Sequence[PlacedStage]) -> list[Stage]:
        """Returns a data set's stages; those of the fourth fold on wait for the folds before, and may be left out."""
        gated: list[Stage] = []
        for placed in stages:
            at = plan.folds.index(placed.fold) if placed.fold in plan.folds else 0
            if at < FIRST_LOOK or placed.label not in self.compared:
                gated.append(placed.stage)
                continue
            before = plan.folds[:at]
            waits_for = frozenset(each.stage.name for each in stages if each.fold in before)
            gated.append(GatedStage(placed.stage, waits_for, _Decision(self, plan, placed.label, at)))
        return gated

    def has_left(self, plan: Plan, label: str, num_folds: int) -> bool:
        """Tells whether a method is out of the study after so many folds; enters it where it leaves now."""
        dataset, study = plan.prepared.directory.name, self.plan.folder
        race = read_race(study)
        if race.left(dataset, label):
            return True
        if any((each.dataset, each.label) == (dataset, label) for each in race.leavers):  # taken in again
            return False
        folds = [fold or 0 for fold in plan.folds[:num_folds]]
        found = differences(load_study(study), dataset, label, folds)
        if found is None:  # a failed cell: there is no test for it anyway, and its other folds show why
            return False
        margin, alpha = self.plan.study.margin_of(dataset), self.plan.study.alpha
        if can_still_win(found, len(plan.folds), self._rho(dataset), margin, alpha):
            return False
        leaver = Leaver(dataset=dataset, label=label, folds=folds, difference=float(np.mean(found)))
        write_race(study, replace(race, leavers=[*race.leavers, leaver]))
        return True

    def _rho(self, dataset: str) -> float:
        cells = [cell for cell in self.plan.cells if cell.dataset == dataset]
        return mean_rho([cell.test_groups for cell in cells], [cell.train_groups for cell in cells])


@dataclass(frozen=True)
class _Decision:
    racing: Racing
    plan: Plan
    label: str
    num_folds: int

    def __call__(self) -> bool:
        return self.racing.has_left(self.plan, self.label, self.num_folds)


def differences(results: StudyResults, dataset: str, label: str, folds: Sequence[int]) -> list[float] | None:
    """Returns what a method adds to the primary reference on each of some folds, in points; None where one failed."""
    found = []
    for fold in folds:
        means = []
        for each in (label, results.study.reference):
            cell = next((cell for cell in results.of(dataset, each) if (cell.cell.fold or 0) == fold), None)
            if cell is None or cell.status != "done":
                return None
            scores = [model.final.metrics[FUSED_ACCURACY] for model in cell.finals]
            means.append(POINTS * sum(scores) / len(scores))
        found.append(means[0] - means[1])
    return found
