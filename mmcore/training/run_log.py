"""Where a run's rows go: a JSONL file and TensorBoard in the run's folder, and whoever started the run.

A row is one epoch: a flat mapping of names to floats, `epoch` (finished epochs, from 1) among them.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mmcore.config.schema import RunConfig
from mmcore.methods.base import METHODS
from mmcore.storage import patiently

METRICS_FILE = "metrics.jsonl"
Row = dict[str, float]
READINGS = "readings"
"""Key, in a line of the file, of what the epoch says in words (`mmcore.evaluation.readings.Reading.to_dict`)."""


class Reporter(Protocol):
    """Who is told of every epoch; it may end the run by raising or by ending the process."""

    def report(self, metrics: Row) -> None:
        """Takes one epoch's row, in order; after a resume the last row may come again."""


class PlainReporter:
    """Keeps the rows in a list; for notebooks and tests."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def report(self, metrics: Row) -> None:
        """Appends the row, unless that epoch was reported before."""
        if not self.rows or metrics["epoch"] > self.rows[-1]["epoch"]:
            self.rows.append(metrics)


def read_rows(run_dir: Path) -> list[Row]:
    """Returns the rows of a run, one per epoch; a half-written last line is left out."""
    return [{key: value for key, value in line.items() if key != READINGS} for line in _read_lines(run_dir)]


def read_readings(run_dir: Path) -> dict[int, list[dict[str, Any]]]:
    """Returns what the epochs of a run say in words, of those that say something."""
    return {int(line["epoch"]): line[READINGS] for line in _read_lines(run_dir) if READINGS in line}


def _read_lines(run_dir: Path) -> list[dict[str, Any]]:
    path = run_dir / METRICS_FILE
    lines: dict[float, dict[str, Any]] = {}
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        lines[line["epoch"]] = line
    return [lines[epoch] for epoch in sorted(lines)]


class RunLog:
    """Writes a run's rows to `metrics.jsonl` and to TensorBoard; only rank 0 has one.

    An epoch written before (by the run this one resumes) is not written again.

    Args:
        run_dir: The run's folder.
        config: Searched and fixed values for TensorBoard's HParams table.
        monitor: Name of the metric shown there.
    """

    def __init__(self, run_dir: Path, config: RunConfig, monitor: str):
        from torch.utils.tensorboard import SummaryWriter

        run_dir.mkdir(parents=True, exist_ok=True)
        self._path = run_dir / METRICS_FILE
        rows = read_rows(run_dir)
        if self._path.exists() and not self._path.read_bytes().endswith(b"\n"):
            # The run was killed while it wrote: the next row must not be lost with the half one.
            with self._path.open("a") as file:
                file.write("\n")
        self._last_epoch = rows[-1]["epoch"] if rows else 0.0
        self._monitor = monitor
        self._writer = SummaryWriter(str(run_dir))
        if not rows:
            self._write_hparams(config)

    def write(self, row: Row, readings: Sequence[Mapping[str, Any]] = ()) -> None:
        """Appends a row, and what it says in words."""
        if row["epoch"] <= self._last_epoch:
            return
        self._last_epoch = row["epoch"]
        patiently(lambda: self._append(json.dumps({**row, READINGS: readings} if readings else row) + "\n"))
        if readings:
            self._writer.add_text(READINGS, "; ".join(reading["text"] for reading in readings), int(row["epoch"]))
        for name, value in row.items():
            if name != "epoch":
                self._writer.add_scalar(tensorboard_tag(name), value, int(row["epoch"]))
        self._writer.flush()

    def _append(self, line: str) -> None:
        """Appends a line whole or not at all."""
        size = self._path.stat().st_size if self._path.exists() else 0
        try:
            with self._path.open("a") as file:
                file.write(line)
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(self._path, size)
            raise

    def close(self, *, finished: bool = True) -> None:
        """Closes the files; marks a finished run as ended in the HParams table."""
        from torch.utils.tensorboard.summary import hparams

        if finished:
            self._file_writer.add_summary(hparams({}, {})[2])  # type: ignore[no-untyped-call]  # torch has no types
        self._writer.close()

    def _write_hparams(self, config: RunConfig) -> None:
        from torch.utils.tensorboard.summary import hparams

        shown = {name: value for name, value in flatten(hyper_parameters(config)).items() if value is not None}
        summaries = hparams(shown, {tensorboard_tag(self._monitor): 0.0})  # type: ignore[no-untyped-call]
        experiment, start, _ = summaries
        self._file_writer.add_summary(experiment)
        self._file_writer.add_summary(start)

    @property
    def _file_writer(self) -> Any:
        return self._writer._get_file_writer()  # type: ignore[no-untyped-call]


def tensorboard_tag(name: str) -> str:
    """Returns the tag under which curves that compare stand side by side: the metric first, then whose it is."""
    parts = name.split("/")
    if (parts[0] == "val" and len(parts) == 3) or (parts[0] == "train" and len(parts) >= 3):
        return f"{parts[-1]}/{'_'.join(parts[:-1])}"
    return name


def hyper_parameters(config: RunConfig) -> dict[str, Any]:
    """Returns what tells runs apart: method, optimizer, schedule's name, length, batch and seed.

    The method's settings are in it where they are numbers or not at their default.
    """
    defaults = METHODS.get(config.method["name"]).Config.model_fields
    method = {
        name: value
        for name, value in config.method.items()
        if name not in defaults
        or value != defaults[name].default
        or (isinstance(value, int | float) and not isinstance(value, bool))
    }
    return {
        "dataset": config.dataset.name,
        "method": method,
        "optimizer": config.to_dict()["optimizer"],
        "schedule": config.schedule.name,
        "trainer": {"max_epochs": config.trainer.max_epochs, "batch_size": config.trainer.batch_size},
        "seed": config.seed,
    }


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested mappings as one, with dotted keys; lists as text."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value) if isinstance(value, list) else value
    return flat
