"""The worker's body with a clock: when a trial began, did its first optimizer step, and ended; one that does nothing.

In a module of its own, which a trial's process imports.
"""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from mmcore import distributed
from mmcore.training.engine import Engine
from mmcore.training.run_log import Reporter
from rayjobs.runs.job import Job
from rayjobs.runs.worker import run
from rayjobs.storage.files import write_json

TIMES_FILE = "times.json"
EVENTS_FILE = "events.jsonl"


def timed_run(job: Job, reporter: Reporter) -> dict[str, Any]:
    """Runs the worker's body, and writes the times, in seconds since the epoch, into the run's folder."""
    times = {"process": os.getpid(), "began": time.time()}
    step = Engine.step

    def first_step(engine: Engine) -> None:
        Engine.step = step  # type: ignore[method-assign]
        times["first_step"] = time.time()
        step(engine)

    Engine.step = first_step  # type: ignore[method-assign, assignment]
    try:
        return run(job, reporter)
    finally:
        Engine.step = step  # type: ignore[method-assign]
        write_json(Path(job.run_dir) / TIMES_FILE, times | {"ended": time.time()})


def idle_run(job: Job, reporter: Reporter) -> dict[str, Any]:
    """Reports its epochs at once; how good a trial is follows from its learning rate."""
    accuracy = 0.9 - abs(math.log10(job.config["optimizer"]["lr"] / 0.02))
    for epoch in range(1, job.config["trainer"]["max_epochs"] + 1):
        reporter.report({"epoch": epoch, "val/fused/accuracy": accuracy, "val/fused/loss": 1 / epoch})
    return {}


def noted_run(job: Job, reporter: Reporter) -> dict[str, Any]:
    """Runs the worker's body; notes, as they happen, when each start began and did its first step, of rank 0."""
    step = Engine.step

    def first_step(engine: Engine) -> None:
        Engine.step = step  # type: ignore[method-assign]
        note(job, "first_step")
        step(engine)

    note(job, "began")
    Engine.step = first_step  # type: ignore[method-assign, assignment]
    try:
        return run(job, reporter)
    finally:
        Engine.step = step  # type: ignore[method-assign]


def note(job: Job, event: str) -> None:
    """Appends an event to the run's folder; the process may be killed right after it."""
    if distributed.rank() == 0:
        with (Path(job.run_dir) / EVENTS_FILE).open("a") as file:
            file.write(json.dumps({"event": event, "time": time.time()}) + "\n")
