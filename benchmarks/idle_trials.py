"""Trials that train nothing; in a module of its own, which a trial's process imports: no torch, nothing of ours."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

if TYPE_CHECKING:
    from mmcore.training.run_log import Reporter
    from rayjobs.runs.job import Job

BEST_RATE = 0.02


def quality(rate: float) -> float:
    """Returns how good a trial is, by its learning rate; at most 0.9."""
    return 0.9 - abs(math.log10(rate / BEST_RATE))


def idle_body(job: Job, reporter: Reporter) -> dict[str, Any]:
    """Stands for the worker's body: reports its epochs at once."""
    for epoch in range(1, job.config["trainer"]["max_epochs"] + 1):
        accuracy = quality(job.config["optimizer"]["lr"])
        reporter.report({"epoch": epoch, "val/fused/accuracy": accuracy, "val/fused/loss": 1 / epoch})
    return {}


def idle_trial(config: dict[str, Any]) -> None:
    """A trial of Tune's own: reports its epochs at once."""
    for epoch in range(1, config["epochs"] + 1):
        tune.report({"epoch": epoch, "objective": quality(config["optimizer.lr"]), "loss": 1 / epoch})


@dataclass(frozen=True)
class Task:
    """What a waiting trial does.

    Attributes:
        seconds: Of each epoch.
        objective: Reported after each.
        meet: A folder, and how many trials must have come there before this one ends; None: it waits for nobody.
    """

    seconds: tuple[float, ...]
    objective: float
    meet: tuple[str, int] | None = None


def waiting_trial(config: dict[str, Any]) -> None:
    """A trial of a pool whose tickets travel as tasks (`waiting.py`)."""
    task: Task = config["ticket"]
    if task.meet:
        _meet(*task.meet)
    for epoch, seconds in enumerate(task.seconds, start=1):
        time.sleep(seconds)
        tune.report({"epoch": epoch, "objective": task.objective})


def _meet(folder: str, number: int) -> None:
    """Waits until so many processes are here: until all places run."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    (place / str(os.getpid())).touch()
    while len(list(place.iterdir())) < number:
        time.sleep(0.2)
