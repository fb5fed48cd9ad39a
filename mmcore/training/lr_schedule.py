"""How the learning rate falls over the epochs."""

from __future__ import annotations

import math
from typing import Any

from mmcore.config.schema import ScheduleConfig


class Schedule:
    """Tells, after each epoch, the factor on the initial learning rate; the rate falls to `min_lr` and no lower.

    `plateau` divides when the fused validation loss has not fallen by the relative threshold for more than
    `patience_epochs` epochs. Growth of a method raises the loss by itself: it makes the schedule forget the best
    value, so that later epochs are compared with the loss after growth. The count of bad epochs goes on (the grown
    epoch is one of them, unless it is better all the same): else the rate would stay up for ever where a method grows
    more often than the patience lasts.
    """

    def __init__(self, config: ScheduleConfig, max_epochs: int):
        self.config = config
        self.max_epochs = max_epochs
        self.factor = 1.0
        self.best = math.inf
        self.num_bad_epochs = 0
        self._forgot = False

    def after_epoch(self, epoch: int, val_loss: float) -> float:
        """Returns the factor for the next epoch.

        Args:
            epoch: The finished one, from 0.
            val_loss: Fused validation loss, averaged over ranks.
        """
        config = self.config
        if config.name == "step":
            self.factor = config.factor ** ((epoch + 1) // config.step_epochs)
        elif config.name == "cosine":
            self.factor = 0.5 * (1 + math.cos(math.pi * (epoch + 1) / self.max_epochs))
        elif config.name == "plateau":
            self._plateau(val_loss)
        return self.factor

    def rate(self, lr: float) -> float:
        """Returns the current learning rate of a run that began with `lr`."""
        return max(lr * self.factor, min(lr, self.config.min_lr))

    def forget_best(self) -> None:
        """Makes the next loss the best one, whatever it is, without resetting the count of bad epochs."""
        self._forgot = True

    def state_dict(self) -> dict[str, Any]:
        """Returns the state as plain values."""
        return {"factor": self.factor, "best": self.best, "bad": self.num_bad_epochs, "forgot": self._forgot}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.factor, self.best = state["factor"], state["best"]
        self.num_bad_epochs, self._forgot = state["bad"], state["forgot"]

    def _plateau(self, val_loss: float) -> None:
        improves = val_loss < self.best * (1 - self.config.threshold)
        if improves or self._forgot:
            self.best, self._forgot = val_loss, False
        self.num_bad_epochs = 0 if improves else self.num_bad_epochs + 1
        if self.num_bad_epochs > self.config.patience_epochs:
            self.factor *= self.config.factor
            self.num_bad_epochs = 0
