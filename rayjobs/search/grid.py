"""Searches whose trials are all known beforehand: trained to their end as one list, in processes that are used again.

One list for all methods and folds of a data set: a cross-validation of a dozen rows is a hundred small searches, and
an experiment of Tune's own for each would spend more time on starting processes than on training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcore.assembly.config import with_values
from rayjobs.feeding.handle import DataHandle
from rayjobs.results_layout import FAILURE_FILE, RESULT_FILE
from rayjobs.runs.job import Job
from rayjobs.runs.progress import EPOCH, OBJECTIVE
from rayjobs.runs.reporters import PROGRESS_FILE
from rayjobs.search.outcome import Outcome
from rayjobs.search.searches import Search
from rayjobs.storage.files import read_json
from rayjobs.storage.mirror import NO_MIRROR, Mirror
from rayjobs.trials.failures import failure_reason


@dataclass(frozen=True)
class GridTrial:
    """One point of a search's grid and the folder it is trained in."""

    values: dict[str, Any]
    run_dir: Path

    @property
    def is_settled(self) -> bool:
        """Whether it ended, well or for good."""
        failure = read_json(self.run_dir / FAILURE_FILE)
        return bool(read_json(self.run_dir / RESULT_FILE) or (failure and failure["fatal"]))


def grid_trials(search: Search, folder: Path) -> list[GridTrial]:
    """Returns the trials of a search, in the order of its points."""
    return [GridTrial(point, folder / f"trial-{number:03d}") for number, point in enumerate(search.points, start=1)]


def grid_jobs(
    search: Search, trials: Sequence[GridTrial], data: DataHandle, command: str, mirror: Mirror = NO_MIRROR
) -> list[Job]:
    """Returns a job for each trial that did not end before."""
    return [
        Job(
            with_values(search.config, trial.values).to_dict(), data, str(trial.run_dir), command=command, mirror=mirror
        )
        for trial in trials
        if not trial.is_settled
    ]


def grid_outcomes(trials: Sequence[GridTrial]) -> list[Outcome]:
    """Returns what became of each trial, from what lies in its folder."""
    return [_outcome(trial) for trial in trials]


def _outcome(trial: GridTrial) -> Outcome:
    summary = read_json(trial.run_dir / PROGRESS_FILE) or {}
    done = read_json(trial.run_dir / RESULT_FILE) is not None
    return Outcome(
        name=trial.run_dir.name,
        values=trial.values,
        status="done" if done else "failed",
        epochs=int(summary.get(EPOCH, 0)),
        objective=summary.get(OBJECTIVE),
        objective_loss=float(summary.get("objective_loss", 0.0)),
        device_seconds=float(summary.get("device_seconds", 0.0)),
        reason="" if done else failure_reason(trial.run_dir),
    )
