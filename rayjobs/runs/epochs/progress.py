"""A run's progress as Tune sees it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from mmcore.metric_names import EPOCH_SECONDS, SAMPLES_PER_SECOND, VAL_ACCURACY, VAL_LOSS
from mmcore.training.run_log import read_rows
from rayjobs.results_layout import PROGRESS_FILE as PROGRESS_FILE
from rayjobs.runs.epochs.gauges import publish
from rayjobs.runs.handover import keep_snapshot
from rayjobs.storage.files import json_or_set_aside, write_json

EPOCH = "epoch"
"""Count of finished epochs; the only clock that schedulers and stopping go by."""
OBJECTIVE = "objective"
"""What a search maximises: validation accuracy of the epoch that would be tested (`trainer.select`)."""
FATAL = "fatal"
"""Set in the last report of a trial that would fail again however often it were tried."""


def missed_rows(run_dir: Path, select: str, after: int, before: int) -> list[dict[str, float]]:
    """Returns the rows of the epochs between two that were reported, as the run would have reported them.

    A run that goes on from a checkpoint does not report again what a lost process or driver never passed on.

    Args:
        run_dir: The run's folder.
        select: `trainer.select`.
        after: The last epoch that is known.
        before: The epoch that was reported now.
    """
    summary: dict[str, float] = {}
    missed = []
    for row in read_rows(run_dir) if before > after + 1 else ():
        _choose(summary, row, select)
        if after < row[EPOCH] < before:
            missed.append({**row, **summary, EPOCH: int(row[EPOCH])})
    return missed


def _choose(summary: dict[str, float], row: Mapping[str, float], select: str) -> None:
    """Takes a row's objective into a run's summary, if it is the better one, or if the last counts."""
    accuracy = row[VAL_ACCURACY]
    if select == "last" or accuracy > summary.get(OBJECTIVE, float("-inf")):
        summary |= {OBJECTIVE: accuracy, "objective_loss": row.get(VAL_LOSS, 0.0), "objective_epoch": row[EPOCH]}


class Progress:
    """The running summary of one run, kept in its folder so that a restarted run continues it.

    Args:
        run_dir: The run's folder.
        select: `trainer.select`: whether the best or the last epoch counts.
        num_devices: Workers whose time is spent at once.
        snapshot_every: Epochs after which the run is kept as it stands, for another trial to continue from; 0: never.
    """

    def __init__(self, run_dir: Path, select: str, num_devices: int, snapshot_every: int = 0):
        self._path = run_dir / PROGRESS_FILE
        self._snapshot_every = snapshot_every
        self._select = select
        self._num_devices = num_devices
        self._started = time.monotonic()
        self._spent_before = 0.0
        self._summary: dict[str, float] = json_or_set_aside(self._path) or {}
        if not self._summary:
            self._sum_up(run_dir)
        self._spent_before = self._summary.get("device_seconds", 0.0)

    def update(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Returns the row with the summary in it; a row reported before changes nothing.

        A run that goes on from a checkpoint some epochs back reports them again, each as it did the first time.
        """
        if metrics[EPOCH] > self._summary.get(EPOCH, 0):
            self._advance(metrics)
            write_json(self._path, self._summary)
            self._publish(metrics)
            if self._snapshot_every and metrics[EPOCH] % self._snapshot_every == 0:
                keep_snapshot(self._path.parent, int(metrics[EPOCH]))
        return {**metrics, **self._summary, **self._as_of(metrics), EPOCH: int(metrics[EPOCH])}

    def _as_of(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Returns what the summary said at an earlier epoch; nothing at the newest one."""
        earlier: dict[str, float] = {}
        if metrics[EPOCH] < self._summary[EPOCH]:
            before = (row for row in read_rows(self._path.parent) if row[EPOCH] < metrics[EPOCH])
            for row in (*before, metrics):
                _choose(earlier, row, self._select)
        return earlier

    def _sum_up(self, run_dir: Path) -> None:
        """Makes the summary again from a run's rows; there are none before its first epoch."""
        rows = read_rows(run_dir)
        for row in rows:
            self._advance(row)
        if rows:
            seconds = sum(row.get(EPOCH_SECONDS, 0.0) for row in rows)
            self._summary["device_seconds"] = seconds * self._num_devices

    def _advance(self, metrics: Mapping[str, float]) -> None:
        spent = (time.monotonic() - self._started) * self._num_devices
        self._summary |= {EPOCH: metrics[EPOCH], "device_seconds": self._spent_before + spent}
        _choose(self._summary, metrics, self._select)

    def _publish(self, metrics: Mapping[str, float]) -> None:
        values = {name: self._summary[name] for name in (EPOCH, OBJECTIVE, "device_seconds")}
        if SAMPLES_PER_SECOND in metrics:
            values["samples_per_s"] = metrics[SAMPLES_PER_SECOND]
        publish(self._path.parent, values)
