"""What a sample of each class counts for in training, where classes are not equally frequent.

A training loss is the mean over samples of w_y · l with l the sample's cross-entropy and y its label; the weights are
scaled so that their mean over the training split is 1, and learning rates keep their meaning. Since each sample carries
its own weight, whatever the batch, k workers still equal one. Weights are no part of any metric, of the validation loss
the schedule watches, or of the probes.

Shape legend: N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mmcore.errors import ConfigError

ClassWeights = Literal["none", "balanced"] | Sequence[float]


def sample_weights(setting: ClassWeights, labels: Tensor, num_classes: int) -> Tensor | None:
    """Returns w, (K,) float64 with mean 1 over the samples, or None where all count the same.

    Args:
        setting: "balanced": every class that occurs counts as much as any other, w_c = N / (K' n_c) with n_c its
            samples and K' the classes that occur; or a weight per class, of which only the ratios matter.
        labels: (N,) int64, of the training split.
        num_classes: K.

    Raises:
        ConfigError: See `check_class_weights`.
    """
    check_class_weights(setting, num_classes)
    if setting == "none":
        return None
    counts = torch.bincount(labels, minlength=num_classes).double()
    # A class that never occurs may have any weight: it is multiplied by a count of 0.
    given = 1 / counts.clamp(min=1) if isinstance(setting, str) else torch.tensor(setting, dtype=torch.float64)
    return given * (counts.sum() / (given * counts).sum())


def check_class_weights(setting: ClassWeights, num_classes: int) -> None:
    """Raises a ConfigError if weights are given for another number of classes."""
    if not isinstance(setting, str) and len(setting) != num_classes:
        raise ConfigError(
            [f"trainer.class_weights must have a weight for each of {num_classes} classes, got {len(setting)}"]
        )
