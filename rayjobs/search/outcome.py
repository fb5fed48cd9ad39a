"""What became of a trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmcore.config.plain import Settings
from rayjobs.runs.handover import Segment
from rayjobs.storage.json_record import JsonRecord


@dataclass(frozen=True)
class Outcome(JsonRecord):
    """What became of one trial.

    Attributes:
        name: Name of the trial and its folder.
        values: What was searched.
        status: "done", "stopped" (early), "failed" or "unfinished".
        epochs: Finished epochs.
        objective: Best validation accuracy; None if it finished no epoch.
        objective_loss: Validation loss of that epoch.
        device_seconds: Time its workers spent, restarts included.
        reason: Why it failed.
        schedule: The settings its weights were trained with, where they changed.
    """

    name: str
    values: Settings
    status: str
    epochs: int
    objective: float | None
    objective_loss: float
    device_seconds: float
    reason: str = ""
    schedule: tuple[Segment, ...] = ()


def succeeded(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Returns the trials a best one can be chosen from."""
    return [outcome for outcome in outcomes if outcome.objective is not None and outcome.status in {"done", "stopped"}]
