"""In which order an epoch gives its samples: a function of the seed, the epoch and the epoch's plan alone.

Shape legend: n entries of an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmcore.data.epoch_plan import EpochPlan

_ORDER, _BATCHES = 1, 5  # 2 and 4 are `mmcore.data.feeding.loader`'s, 3 is `mmcore.data.feeding.windows`'s


def epoch_order(num_samples: int, seed: int, epoch: int, part: int = 0) -> np.ndarray:
    """Returns the permutation of one epoch, or of a part of a planned one, (n,) int64."""
    return np.random.default_rng([_ORDER, seed, epoch, *([part] if part else [])]).permutation(num_samples)


def planned_order(plan: EpochPlan, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the entries of a planned epoch in the order they are given, (n,) int64."""
    if plan.parts is None:
        return epoch_order(len(plan), seed, epoch)
    parts = plan.parts.numpy()
    members = [np.flatnonzero(parts == part) for part in plan.part_sizes]
    members = [own[epoch_order(len(own), seed, epoch, number)] for number, own in enumerate(members)]
    batches = _batches(plan, batch_size, seed, epoch)
    return np.concatenate([members[number][first:last] for number, first, last in batches])


def step_bounds(num_samples: int, batch_size: int, plan: EpochPlan | None, seed: int, epoch: int) -> np.ndarray:
    """Returns where the batch of each step begins and the last one ends, (steps + 1,) int64.

    Args:
        num_samples: Training samples, all of which come without a plan.
        batch_size: Samples of a batch over all workers.
        plan: What the epoch gives; None: every sample once.
        seed: The run's.
        epoch: From 0.
    """
    if plan is None:
        return np.minimum(np.arange(-(-num_samples // batch_size) + 1) * batch_size, num_samples)
    sizes = [last - first for _, first, last in _batches(plan, batch_size, seed, epoch)]
    return np.cumsum([0, *sizes])


def _batches(plan: EpochPlan, batch_size: int, seed: int, epoch: int) -> Sequence[tuple[int, int, int]]:
    """Returns the batches in order: which of the parts, and where in it the batch begins and ends."""
    found = [
        (number, first, min(first + batch_size, size))
        for number, size in enumerate(plan.part_sizes.values())
        for first in range(0, size, batch_size)
    ]
    if not plan.mixed or len(plan.part_sizes) == 1:
        return found
    drawn = np.random.default_rng([_BATCHES, seed, epoch]).permutation(len(found))
    return [found[place] for place in drawn]
