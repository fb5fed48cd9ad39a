"""Which classes a method takes for which others.

Shape legend: S models, N test samples, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Confusion:
    """One class taken for another.

    Attributes:
        label: The class that it is.
        answer: The class that it was taken for.
        share: Of the class's test samples, a mean over the models, in (0, 1].
    """

    label: int
    answer: int
    share: float


def most_confused(answers: ArrayLike, labels: ArrayLike, num_classes: int, most: int) -> list[Confusion]:
    """Returns the confusions with the largest shares, the largest first; of equal ones those of lower classes.

    Args:
        answers: (S, N) class that each model answered, in [0, K).
        labels: (N,) class of each sample, in [0, K).
        num_classes: K.
        most: How many are returned at most.

    Raises:
        ValueError: The shapes do not match, or a class is out of range.
    """
    given, truth = np.asarray(answers), np.asarray(labels)
    if given.ndim != 2 or truth.shape != given.shape[1:] or not given.size:
        raise ValueError(f"answers must be (S, N) and labels (N,), got {given.shape} and {truth.shape}")
    if min(given.min(), truth.min()) < 0 or max(given.max(), truth.max()) >= num_classes:
        raise ValueError(f"classes must be in [0, {num_classes})")
    cells = (truth * num_classes + given).ravel()
    counts = np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes).astype(np.float64)
    np.fill_diagonal(counts, 0)
    sizes = np.maximum(np.bincount(truth, minlength=num_classes), 1) * len(given)
    shares = (counts / sizes[:, None]).ravel()
    order = np.argsort(-shares, kind="stable")[:most]
    return [Confusion(*divmod(int(at), num_classes), float(shares[at])) for at in order if shares[at] > 0]
