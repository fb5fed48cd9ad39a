"""The exact test by flipped signs: of summed differences over test clusters, and of ranks.

If A and B are alike, each cluster's difference might as well have had the other sign. The p is the share of all 2^C
flips whose sum is as far from 0 as the one seen. The sum of integers has few values, so its whole distribution is had
at once, for any C: nothing is drawn, and no seed decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmcore.analysis.intervals import cluster_sums

MIN_CLUSTERS = 6
"""Under so many clusters no p is under .05: the smallest is 2^(1 - C)."""
SMALLEST_P = 1e-12
"""What lies under it is rounding of the Fourier transform; such a p is given as this."""


@dataclass(frozen=True)
class SplitComparison:
    """A against B on one test set.

    Attributes:
        difference: In accuracy (a fraction), mean over seeds, A - B.
        num_clusters: C.
        p: Two-sided, that A and B are alike; at least 2^(1 - C).
    """

    difference: float
    num_clusters: int
    p: float


def compare_split(
    correct_a: Sequence[ArrayLike], correct_b: Sequence[ArrayLike], clusters: ArrayLike
) -> SplitComparison:
    """Tests the seeds' mean difference by flipping the signs of whole test clusters.

    Args:
        correct_a: S arrays (N,) bool: whether each model of A answered each sample rightly.
        correct_b: The same for B.
        clusters: (N,) label of the cluster each sample belongs to.

    Raises:
        ValueError: The arrays do not have one shape, or there are no samples.
    """
    sums, sizes = cluster_sums(correct_a, correct_b, clusters)
    difference = float(sums.sum() / (sizes.sum() * len(sums)))
    return SplitComparison(difference, len(sizes), sign_flip_p(sums.sum(axis=0)))


def sign_flip_p(values: ArrayLike) -> float:
    """Returns the share, in (0, 1], of all flips of the signs whose sum is at least as far from 0.

    Args:
        values: (C,) integers.

    Raises:
        ValueError: They are not integers, or there are none.
    """
    array = np.asarray(values)
    if array.ndim != 1 or not array.size or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"sign_flip_p needs integers (C,), got {array.dtype} of shape {array.shape}")
    moving = np.abs(array[array != 0]).astype(np.int64)
    observed = abs(int(array.sum()))
    if not observed:
        return 1.0
    unit = int(np.gcd.reduce(moving))
    sizes = _flipped_sizes(moving // unit)
    distances = np.abs(len(sizes) - 1 - 2 * np.arange(len(sizes)))  # the sum, where that much of it is flipped
    smallest = max(2.0 ** (1 - len(moving)), SMALLEST_P)
    return float(np.clip(sizes[distances >= observed // unit].sum(), smallest, 1))


def _flipped_sizes(sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns the probability of each total 0..T of the sizes (C,) that are flipped, each with probability ½.

    The transform of a sum of independent numbers is the product of theirs, (1 + exp(-iωv)) / 2 = exp(-iωv/2) cos(ωv/2).
    T is the sum of all sizes.
    """
    total = int(sizes.sum())
    halves = np.pi * np.arange((total + 1) // 2 + 1) / (total + 1)  # ω / 2
    product = np.ones_like(halves)
    for size, count in zip(*np.unique(sizes, return_counts=True), strict=True):
        product *= np.cos(halves * size) ** count
    return np.fft.irfft(product * np.exp(-1j * halves * total), total + 1)
