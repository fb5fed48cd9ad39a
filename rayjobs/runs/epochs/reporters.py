"""How a run tells its host, Ray Tune or Ray Train, that an epoch is over.

The worker's body knows one method, `report`; each host has its own implementation of it here. Besides the row they
pass on what the search goes by: the objective, and the device-seconds really spent, both carried over a restart.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ray import train, tune

from rayjobs.results_layout import PROGRESS_FILE as PROGRESS_FILE
from rayjobs.runs.epochs.progress import Progress


def _no_push() -> float:
    """Stands for what sends a run's folder to its twin, where there is none."""
    return 0.0


class TuneReporter:
    """For a run in the trial's own process.

    Args:
        run_dir: The run's folder.
        select: `trainer.select`.
        snapshot_every: See `Progress`.
        push: Called before a row is passed on, so that what is reported is in storage; returns the seconds it took.
    """

    def __init__(self, run_dir: Path, select: str, snapshot_every: int = 0, push: Callable[[], float] = _no_push):
        self._progress = Progress(run_dir, select, num_devices=1, snapshot_every=snapshot_every)
        self._push = push

    def report(self, metrics: dict[str, float]) -> float:
        """Passes a row on to Tune; returns the seconds of the push, or not at all if the trial is to be stopped."""
        row = self._progress.update(metrics)
        seconds = self._push()
        tune.report(row)
        return seconds


class TrainReporter:
    """For one worker of a Ray Train worker group; all workers report, rank 0's row counts.

    Args:
        run_dir: The run's folder.
        select: `trainer.select`.
        snapshot_every: See `Progress`.
        push: Called before a row is passed on, so that what is reported is in storage; returns the seconds it took.
    """

    def __init__(self, run_dir: Path, select: str, snapshot_every: int = 0, push: Callable[[], float] = _no_push):
        self._push = push
        context = train.get_context()
        rank_0 = context.get_world_rank() == 0
        self._progress = Progress(run_dir, select, context.get_world_size(), snapshot_every) if rank_0 else None

    def report(self, metrics: dict[str, float]) -> float:
        """Passes a row on to Train; all workers wait here for each other; returns the seconds of the push."""
        row = self._progress.update(metrics) if self._progress else dict(metrics)
        seconds = self._push()
        train.report(row)
        return seconds
