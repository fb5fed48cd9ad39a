"""How a method does over data sets of different difficulty, beside the reference: the whole distribution of its runs.

A run's score is put on one scale for all data sets: 0 is chance, 1 the reference. Data sets count alike, then folds in
a set, then seeds in a fold, however many there are. Source: Agarwal et al. 2021 (performance profiles, interquartile
mean, bootstrap within each set); here folds are drawn and not runs, since the seeds of a fold share its test samples.

Shape legend: N runs of all sets, R resamples, X levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmcore.analysis.intervals import CONFIDENCE, Interval, finite


@dataclass(frozen=True)
class Profile:
    """What one method's runs over all data sets come to.

    Attributes:
        middle: The interquartile mean: of the runs between the first quarter and the last.
        levels: (X,) levels of the common scale.
        above: Level -> share of the runs above it.
    """

    middle: Interval
    levels: tuple[float, ...]
    above: tuple[Interval, ...]


def common_scale(scores: ArrayLike, chance: float, reference: float) -> NDArray[np.float64]:
    """Returns (scores - chance) / (reference - chance), of any shape.

    Args:
        scores: Of one data set.
        chance: What answering without looking scores there.
        reference: What the reference scores there.

    Raises:
        ValueError: A number is not finite, or the reference is not above chance: it is no measure there.
    """
    values, ends = finite(scores, "scores"), finite([chance, reference], "chance and reference")
    if ends[1] <= ends[0]:
        raise ValueError(
            f"the reference must score above chance, got {reference} and {chance}: leave this data set out"
        )
    scaled: NDArray[np.float64] = (values - ends[0]) / (ends[1] - ends[0])
    return scaled


def profile(
    runs: Sequence[Sequence[ArrayLike]], levels: ArrayLike, num_resamples: int = 2000, seed: int = 0
) -> Profile:
    """Returns a method's interquartile mean and performance profile, each with a 95 % interval.

    Args:
        runs: Data set -> fold -> scores (S,) of its seeds, on the common scale.
        levels: (X,) where the profile is taken.
        num_resamples: R; each draws every set's folds with replacement.
        seed: Of the draws.

    Raises:
        ValueError: A number is not finite, or a data set or fold is empty.
    """
    if not runs or not all(len(folds) for folds in runs):
        raise ValueError("a profile needs at least one data set, and each a fold")
    folds = [finite(scores, "scores of a fold") for of_set in runs for scores in of_set]
    values, at = np.concatenate(folds), finite(levels, "levels")
    order = np.argsort(values, kind="stable")
    of_fold = np.arange(len(folds)).repeat([len(scores) for scores in folds])
    shares = 1 / np.array([len(scores) for scores in folds], dtype=np.float64)
    drawn = _fold_weights([len(of_set) for of_set in runs], num_resamples, np.random.default_rng(seed))
    weights = (drawn * shares)[:, of_fold][:, order]
    middles, above = _middle(values[order], weights), weights @ (values[order][:, None] > at)
    return Profile(
        middle=_interval(middles),
        levels=tuple(at.tolist()),
        above=tuple(_interval(column) for column in above.T),
    )


def _fold_weights(counts: Sequence[int], num_resamples: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Returns the weight of each fold, (1 + R, all folds), of sum 1; first as they are, then as they are drawn."""
    parts = []
    for count in counts:
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=num_resamples)
        parts.append(np.concatenate([np.ones((1, count)), drawn]) / (count * len(counts)))
    return np.concatenate(parts, axis=1)


def _middle(ordered: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the mean (1 + R,) of what lies between the quarters, by weights (1 + R, N) of ascending values (N,)."""
    until = np.cumsum(weights, axis=1)
    inside = np.clip(until, 0.25, 0.75) - np.clip(until - weights, 0.25, 0.75)
    means: NDArray[np.float64] = (inside @ ordered) / inside.sum(axis=1)
    return means


def _interval(first_and_resampled: NDArray[np.float64]) -> Interval:
    """Returns the first number with the percentile interval of the others."""
    low, high = np.quantile(first_and_resampled[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(first_and_resampled[0]), float(low), float(high))
