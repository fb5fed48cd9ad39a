"""How a run tells its host, Ray Tune or Ray Train, that an epoch is over.

The worker's body knows one method, `report`; each host has its own implementation of it here. Besides the row they
pass on what the search goes by: the objective, and the device-seconds really spent, both carried over a restart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray import train, tune

from rayjobs.files import read_json, write_json
from rayjobs.gauges import publish
from rayjobs.lineage import PROGRESS_FILE as PROGRESS_FILE
from rayjobs.lineage import keep_snapshot

EPOCH = "epoch"
"""Count of finished epochs; the only clock that schedulers and stopping go by."""
ACCURACY = "val/fused/accuracy"
LOSS = "val/fused/loss"
SPEED = "time/samples_per_s"
OBJECTIVE = "objective"
"""What a search maximises: validation accuracy of the epoch that would be tested (`trainer.select`)."""
FATAL = "fatal"
"""Set in the last report of a trial that would fail again however often it were tried."""


class Progress:
    """The running summary of one run, kept in its folder so that a restarted run goes on from it.

    Args:
        run_dir: The run's folder.
        select: `trainer.select`: whether the best or the last epoch counts.
        num_devices: Workers whose time is spent at once.
        snapshot_every: Epochs after which the run is kept as it stands, for another trial to go on from; 0: never.
    """

    def __init__(self, run_dir: Path, select: str, num_devices: int, snapshot_every: int = 0):
        self._path = run_dir / PROGRESS_FILE
        self._snapshot_every = snapshot_every
        self._select = select
        self._num_devices = num_devices
        self._started = time.monotonic()
        self._summary: dict[str, float] = read_json(self._path) or {}
        self._spent_before = self._summary.get("device_seconds", 0.0)

    def update(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Returns the row with the summary in it; a row reported before (by a finished run) changes nothing."""
        if metrics[EPOCH] > self._summary.get(EPOCH, 0):
            self._advance(metrics)
            write_json(self._path, self._summary)
            self._publish(metrics)
            if self._snapshot_every and metrics[EPOCH] % self._snapshot_every == 0:
                keep_snapshot(self._path.parent, int(metrics[EPOCH]))
        return {**metrics, **self._summary, EPOCH: int(metrics[EPOCH])}

    def _advance(self, metrics: Mapping[str, float]) -> None:
        accuracy = metrics[ACCURACY]
        spent = (time.monotonic() - self._started) * self._num_devices
        self._summary |= {EPOCH: metrics[EPOCH], "device_seconds": self._spent_before + spent}
        if self._select == "last" or accuracy > self._summary.get(OBJECTIVE, float("-inf")):
            loss = metrics.get(LOSS, 0.0)
            self._summary |= {OBJECTIVE: accuracy, "objective_loss": loss, "objective_epoch": metrics[EPOCH]}

    def _publish(self, metrics: Mapping[str, float]) -> None:
        values = {name: self._summary[name] for name in (EPOCH, OBJECTIVE, "device_seconds")}
        if SPEED in metrics:
            values["samples_per_s"] = metrics[SPEED]
        publish(self._path.parent, values)


def _no_push() -> None:
    """Stands for what sends a run's folder to its twin, where there is none."""


class TuneReporter:
    """For a run in the trial's own process.

    Args:
        run_dir: The run's folder.
        select: `trainer.select`.
        snapshot_every: See `Progress`.
        push: Called before a row is passed on, so that what is reported is in storage.
    """

    def __init__(self, run_dir: Path, select: str, snapshot_every: int = 0, push: Callable[[], None] = _no_push):
        self._progress = Progress(run_dir, select, num_devices=1, snapshot_every=snapshot_every)
        self._push = push

    def report(self, metrics: dict[str, float]) -> None:
        """Passes a row on to Tune; does not return if the trial is to be stopped."""
        row = self._progress.update(metrics)
        self._push()
        tune.report(row)


class TrainReporter:
    """For one worker of a Ray Train worker group; all workers report, rank 0's row counts.

    Args:
        run_dir: The run's folder.
        select: `trainer.select`.
        snapshot_every: See `Progress`.
        push: Called before a row is passed on, so that what is reported is in storage.
    """

    def __init__(self, run_dir: Path, select: str, snapshot_every: int = 0, push: Callable[[], None] = _no_push):
        self._push = push
        context = train.get_context()
        rank_0 = context.get_world_rank() == 0
        self._progress = Progress(run_dir, select, context.get_world_size(), snapshot_every) if rank_0 else None

    def report(self, metrics: dict[str, float]) -> None:
        """Passes a row on to Train; all workers wait here for each other."""
        row: dict[str, Any] = self._progress.update(metrics) if self._progress else dict(metrics)
        self._push()
        train.report(row)
