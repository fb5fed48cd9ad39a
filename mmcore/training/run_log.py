"""Where a run's rows go: a JSONL file and TensorBoard in the run's folder, and whoever started the run.

A row is one epoch: a flat mapping of names to floats, `epoch` (finished epochs, from 1) among them.
"""

from __future__ import annotations

import io
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mmcore.config.schema import RunConfig
from mmcore.methods.base import METHODS
from mmcore.storage import append_whole, read_json_lines, set_aside, write_whole

METRICS_FILE = "metrics.jsonl"
Row = dict[str, float]
READINGS = "readings"
"""Key, in a line of the file, of what the epoch says in words (`mmcore.evaluation.readings.Reading.to_dict`)."""


class Reporter(Protocol):
    """Who is told of every epoch; it may end the run by raising or by ending the process."""

    def report(self, metrics: Row) -> float | None:
        """Takes one epoch's row, in order; after a resume the last rows may come again.

        Returns:
            Seconds spent on sending what the run wrote elsewhere; None: it was sent nowhere.
        """


class PlainReporter:
    """Keeps the rows in a list; for notebooks and tests."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def report(self, metrics: Row) -> float | None:
        """Appends the row, unless that epoch was reported before."""
        if not self.rows or metrics["epoch"] > self.rows[-1]["epoch"]:
            self.rows.append(metrics)
        return None


def read_rows(run_dir: Path) -> list[Row]:
    """Returns the rows of a run, one per epoch; lines that cannot be read are left out."""
    return [{key: value for key, value in line.items() if key != READINGS} for line in _read_lines(run_dir)[0]]


def read_readings(run_dir: Path) -> dict[int, list[dict[str, Any]]]:
    """Returns what the epochs of a run say in words, of those that say something."""
    return {int(line["epoch"]): line[READINGS] for line in _read_lines(run_dir)[0] if READINGS in line}


def _read_lines(run_dir: Path) -> tuple[list[dict[str, Any]], list[str]]:
    found, problems = read_json_lines(run_dir / METRICS_FILE)
    lines = {line["epoch"]: line for line in found if isinstance(line.get("epoch"), int | float)}
    if not problems and any("epoch" not in line for line in found):
        problems = [f"{run_dir / METRICS_FILE}: a line is no epoch's; it is left out"]
    return [lines[epoch] for epoch in sorted(lines)], problems


class RunLog:
    """Writes a run's rows to `metrics.jsonl` and to TensorBoard; only rank 0 has one.

    An epoch written before (by the run this one resumes) is not written again.

    Args:
        run_dir: The run's folder.
        config: Searched and fixed values for TensorBoard's HParams table.
        monitor: Name of the metric shown there.
    """

    def __init__(self, run_dir: Path, config: RunConfig, monitor: str):
        run_dir.mkdir(exist_ok=True)  # not those above it, whose disk may be away
        self._path = run_dir / METRICS_FILE
        self._mend()
        rows = read_rows(run_dir)
        self._epochs = {int(row["epoch"]) for row in rows}
        self._last_epoch = rows[-1]["epoch"] if rows else 0.0
        self._monitor = monitor
        self._events = EventFile(run_dir)
        if not rows:
            self._write_hparams(config)

    def write(self, row: Row, readings: Sequence[Mapping[str, Any]] = ()) -> None:
        """Appends a row, and what it says in words.

        Raises:
            OSError: Storage was full or away for minutes.
        """
        from torch.utils.tensorboard.summary import scalar, text

        if row["epoch"] <= self._last_epoch:
            return
        self._last_epoch = row["epoch"]
        line = json.dumps({**row, READINGS: readings} if readings else row)
        append_whole(self._path, f"{line}\n".encode(), lines=True)
        epoch = int(row["epoch"])
        if readings:
            self._events.add(text(READINGS, "; ".join(reading["text"] for reading in readings)), epoch)  # type: ignore[no-untyped-call]  # torch has no types
        for name, value in row.items():
            if name != "epoch":
                self._events.add(scalar(tensorboard_tag(name), value), epoch)  # type: ignore[no-untyped-call]
        self._events.flush()

    @property
    def last_epoch(self) -> int:
        """The newest epoch that has a row; 0: none has."""
        return int(self._last_epoch)

    def lacking(self, epochs: int) -> list[str]:
        """Returns, in words, which of the run's first `epochs` epochs have no row; nothing where all have one."""
        lost = [epoch for epoch in range(1, epochs + 1) if epoch not in self._epochs]
        if not lost:
            return []
        named = f"epoch {lost[0]}" if len(lost) == 1 else f"{len(lost)} epochs, {lost[0]} to {lost[-1]}"
        return [f"{METRICS_FILE} lacks the rows of {named}: they were trained, and curves leave them out"]

    def _mend(self) -> None:
        """Writes the file anew without what cannot be read, which is kept beside it."""
        lines, problems = _read_lines(self._path.parent)
        if problems:
            set_aside(self._path, problems[0])
            write_whole(self._path, "".join(f"{json.dumps(line)}\n" for line in lines).encode())

    def close(self, *, finished: bool = True) -> None:
        """Marks a finished run as ended in the HParams table."""
        from torch.utils.tensorboard.summary import hparams

        if finished:
            self._events.add(hparams({}, {})[2])  # type: ignore[no-untyped-call]
            self._events.flush()

    def _write_hparams(self, config: RunConfig) -> None:
        from torch.utils.tensorboard.summary import hparams

        shown = {name: value for name, value in flatten(hyper_parameters(config)).items() if value is not None}
        experiment, start, _ = hparams(shown, {tensorboard_tag(self._monitor): 0.0})  # type: ignore[no-untyped-call]
        self._events.add(experiment)
        self._events.add(start)


class EventFile:
    """The TensorBoard file of one attempt at a run; what is added reaches it whole, at `flush`.

    TensorBoard's own writer has a thread that ends at the first full disk and takes what it holds along.

    Args:
        run_dir: The run's folder.
    """

    def __init__(self, run_dir: Path):
        # TensorBoard reads a folder's files in the order of their names, and one file's end only once.
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        name = f"events.out.tfevents.{seconds:010d}.{nanoseconds:09d}.{socket.gethostname()}.{os.getpid()}"
        self._path = run_dir / name
        self._held = io.BytesIO()
        self._add(file_version="brain.Event:2")

    def add(self, summary: Any, step: int | None = None) -> None:
        """Adds one of `torch.utils.tensorboard.summary`'s values."""
        self._add(summary=summary, **({} if step is None else {"step": step}))

    def flush(self) -> None:
        """Writes what was added.

        Raises:
            OSError: Storage was full or away for minutes.
        """
        append_whole(self._path, self._held.getvalue())
        self._held = io.BytesIO()

    def _add(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        RecordWriter(self._held).write(Event(wall_time=time.time(), **content).SerializeToString())


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
