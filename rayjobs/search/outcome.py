"""What became of a trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What became of one trial.

    Attributes:
        name: Of the trial and its folder.
        values: What was searched.
        status: "done", "stopped" (early), "failed" or "unfinished".
        epochs: Finished epochs.
        objective: Best validation accuracy; None if it finished no epoch.
        objective_loss: Validation loss of that epoch.
        device_seconds: Time its workers spent, restarts included.
        reason: Why it failed.
        schedule: The settings its weights were trained with, where they changed (`rayjobs.runs.handover.Segment`).
    """

    name: str
    values: dict[str, Any]
    status: str
    epochs: int
    objective: float | None
    objective_loss: float
    device_seconds: float
    reason: str = ""
    schedule: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns it as plain values."""
        return asdict(self)


def succeeded(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Returns the trials a best one can be chosen from."""
    return [outcome for outcome in outcomes if outcome.objective is not None and outcome.status in {"done", "stopped"}]
