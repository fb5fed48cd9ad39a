"""How the learning rate falls over the epochs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mmcore.config.schema import ScheduleConfig


class Schedule:
    """Factor on the initial learning rate after each epoch; the rate falls no lower than `min_lr`.

    `plateau` is torch's ReduceLROnPlateau on the fused validation loss, with two additions:
      - growth of a method raises the loss by itself, so it makes the schedule forget the best value: later epochs are
        compared with the loss after growth;
      - growth does not reset the count of bad epochs (the grown epoch is one of them, unless it is a new best all the
        same). Otherwise the rate would never fall where a method grows more often than the patience lasts.
    """

    def __init__(self, config: ScheduleConfig, max_epochs: int):
        self.config = config
        self.max_epochs = max_epochs
        # A stand-in whose rate is the factor: the real optimizer is rebuilt on resume, and a population search may
        # change the initial rate that the factor is of.
        self._stand_in = torch.optim.SGD([torch.zeros(())], lr=1.0)
        self._plateau = ReduceLROnPlateau(
            self._stand_in, factor=config.factor, patience=config.patience_epochs, threshold=config.threshold, eps=0
        )
        self._forgot = False

    @property
    def factor(self) -> float:
        """The current factor, in (0, 1]."""
        return float(self._stand_in.param_groups[0]["lr"])

    def after_epoch(self, epoch: int, val_loss: float) -> float:
        """Returns the factor for the next epoch.

        Args:
            epoch: The finished one, from 0.
            val_loss: Fused validation loss, averaged over ranks.
        """
        config = self.config
        if config.name == "step":
            self._set(config.factor ** ((epoch + 1) // config.step_epochs))
        elif config.name == "cosine":
            self._set(0.5 * (1 + math.cos(math.pi * (epoch + 1) / self.max_epochs)))
        elif config.name == "plateau":
            self._plateau.step(val_loss)
            if self._forgot:
                self._plateau.best, self._forgot = val_loss, False
        return self.factor

    def rate(self, lr: float) -> float:
        """Returns the current learning rate of a run that began with `lr`."""
        return max(lr * self.factor, min(lr, self.config.min_lr))

    def forget_best(self) -> None:
        """Makes the next loss the best one, whatever it is, without resetting the count of bad epochs."""
        self._forgot = True

    def state_dict(self) -> dict[str, Any]:
        """Returns the state as plain values: by names of our own, so that another torch can read a checkpoint."""
        return {
            "factor": self.factor,
            "best": self._plateau.best,
            "bad": self._plateau.num_bad_epochs,
            "forgot": self._forgot,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._set(state["factor"])
        self._plateau.best, self._plateau.num_bad_epochs = state["best"], state["bad"]
        self._forgot = state["forgot"]

    def _set(self, factor: float) -> None:
        self._stand_in.param_groups[0]["lr"] = factor
