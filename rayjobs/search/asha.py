"""Early stopping: asynchronous successive halving whose rungs survive a restart of the search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from rayjobs.ray_internals.controller import rungs_of
from rayjobs.runs.progress import EPOCH, FATAL, OBJECTIVE
from rayjobs.storage.files import write_json

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial


class RestorableASHA(AsyncHyperBandScheduler):
    """ASHA over the reported `epoch`, with its rungs in a file beside the search's state.

    Tune saves a scheduler nowhere, so after a restore the rungs would be empty and the next trials would be
    compared with nothing. Here each entry is written when it is made and put back when its trial is added again.
    Unlike its base, it never stops a trial at the last epoch: that trial has ended by itself and is left to say so.

    Args:
        rungs_file: Where the rungs are kept. Not in Tune's own folder: a restored experiment copies what it finds
            there back over it for as long as it runs.
        max_epochs: Length of a trial that is not stopped.
        grace_epochs: Epochs every trial gets.
        reduction_factor: One in this many of the trials that reach a rung continues.
    """

    def __init__(self, rungs_file: Path, max_epochs: int, grace_epochs: int, reduction_factor: float):
        super().__init__(
            time_attr=EPOCH,
            metric=OBJECTIVE,
            mode="max",
            max_t=max_epochs,
            grace_period=min(grace_epochs, max_epochs),
            reduction_factor=reduction_factor,
            stop_last_trials=False,
        )
        self._max_epochs = max_epochs
        self._rungs_file = rungs_file
        self._saved: dict[str, dict[str, float]] = read_rungs(rungs_file)

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Enters a trial, and its earlier results where the search is a restored one."""
        super().on_trial_add(tune_controller, trial)
        entries = self._saved.get(trial.trial_id, {})
        for milestone, recorded in self._milestones():
            if milestone in entries:
                recorded[trial.trial_id] = entries[milestone]

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, float]) -> str:
        """Decides whether a trial continues; the rungs are on the disk before anything follows from them."""
        if result.get(FATAL):
            return TrialScheduler.CONTINUE
        decision = super().on_trial_result(tune_controller, trial, result)
        self._save()
        return TrialScheduler.CONTINUE if result[EPOCH] >= self._max_epochs else decision

    def on_trial_complete(self, tune_controller: TuneController, trial: Trial, result: dict[str, float]) -> None:
        """Enters the last result of a trial."""
        super().on_trial_complete(tune_controller, trial, result)
        self._save()

    def _milestones(self) -> list[tuple[str, dict[str, float]]]:
        return [(f"{milestone:g}", recorded) for milestone, recorded in rungs_of(self)]

    def _save(self) -> None:
        rungs: dict[str, dict[str, float]] = {}
        for milestone, recorded in self._milestones():
            for trial_id, value in recorded.items():
                rungs.setdefault(trial_id, {})[milestone] = value
        if rungs != self._saved:
            self._saved = rungs
            write_json(self._rungs_file, rungs)


def read_rungs(path: Path) -> dict[str, dict[str, float]]:
    """Returns trial id -> milestone -> value, as saved; nothing where there is no file."""
    return json.loads(path.read_text()) if path.is_file() else {}
