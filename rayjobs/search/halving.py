"""Whether a trial goes on: to its end in any case, or by asynchronous successive halving (ASHA)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Literal, Protocol, cast

from ray.tune.schedulers import AsyncHyperBandScheduler

from rayjobs.runs.epochs.progress import EPOCH, OBJECTIVE

Decision = Literal["go", "stop", "wait"]
"""What becomes of a trial that reported an epoch: it goes on, is over, or waits for the others of a population."""


class Rule(Protocol):
    """Decides on trials as they report; a function of the reports, in their order."""

    def decide(self, trial: int, epoch: int, objective: float) -> Decision:
        """Returns what becomes of a trial that reports an epoch for the first time."""


class ToTheEnd:
    """Lets every trial come to its end."""

    def decide(self, trial: int, epoch: int, objective: float) -> Decision:
        """Lets it go on."""
        return "go"


class Halving:
    """ASHA, as Ray has it, over the reported epoch.

    Unlike Ray's, it never stops a trial at the last epoch: that trial has ended by itself and is left to say so.

    Args:
        max_epochs: Length of a trial that is not stopped.
        grace_epochs: Epochs every trial gets.
        reduction_factor: One in this many of the trials that reach a rung continues.
    """

    def __init__(self, max_epochs: int, grace_epochs: int, reduction_factor: float):
        self._max_epochs = max_epochs
        self._known: set[int] = set()
        self._asha = AsyncHyperBandScheduler(
            time_attr=EPOCH,
            metric=OBJECTIVE,
            mode="max",
            max_t=max_epochs,
            grace_period=min(grace_epochs, max_epochs),
            reduction_factor=reduction_factor,
            stop_last_trials=False,
        )

    def decide(self, trial: int, epoch: int, objective: float) -> Decision:
        """Enters a report in its rung, and stops the trial where it is among the weak ones there."""
        # Of a trial, Ray's looks at the name alone, and at its own controller not at all.
        entry = cast(None, SimpleNamespace(trial_id=str(trial)))
        if trial not in self._known:
            self._known.add(trial)
            self._asha.on_trial_add(None, entry)  # type: ignore[arg-type]
        action = self._asha.on_trial_result(None, entry, {EPOCH: epoch, OBJECTIVE: objective})  # type: ignore[arg-type]
        return "stop" if action == self._asha.STOP and epoch < self._max_epochs else "go"
