"""What choosing the best of several adds to its score by luck alone: of trials in a search, of methods in a table.

Shape legend: T trials, M methods, U units (test clusters or folds), R draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import quad
from scipy.special import gammaln, log_ndtr

from mmcore.analysis.fold_statistics import DECIMALS
from mmcore.analysis.intervals import finite

MOST_NUMBERS = 2_000_000
"""Of draws times units held at once: 16 MB an array."""


def expected_maximum(count: int) -> float:
    """Returns the expected maximum of so many independent standard normals: 0 for 1, 1.42 for 8, 2.51 for 100.

    E = ∫ over x > 0 of P(maximum > x) - P(maximum < -x).

    Raises:
        ValueError: There are none.
    """
    if count < 1:
        raise ValueError(f"count must be 1 or more, got {count}")

    def integrand(x: float) -> float:
        return float(-np.expm1(count * log_ndtr(x)) - np.exp(count * log_ndtr(-x)))

    return float(quad(integrand, 0, 4)[0] + quad(integrand, 4, 12)[0])


def expected_best(values: ArrayLike) -> NDArray[np.float64]:
    """Returns the expected best of n of N trials drawn without replacement, (N,) for n = 1..N.

    Σ over i >= n of v_(i)·C(i-1, n-1) / C(N, n), v ascending: unbiased, but only where trials are exchangeable (random
    search or a grid, without early stopping). Never beyond N.

    Source: Dodge et al. 2019 (expected validation performance), in the unbiased form of Tang et al. 2020.

    Args:
        values: (N,) validation score of each trial, higher is better.

    Raises:
        ValueError: A score is not finite, or there are none.
    """
    ordered = np.sort(finite(values, "scores of trials"))
    total = len(ordered)
    rank, drawn = np.arange(1, total + 1), np.arange(1, total + 1)[:, None]
    logs = np.where(rank >= drawn, _log_choose(rank - 1, drawn - 1) - _log_choose(total, drawn), -np.inf)
    best: NDArray[np.float64] = np.exp(logs) @ ordered
    return best


def _log_choose(n: ArrayLike, k: ArrayLike) -> NDArray[np.float64]:
    n, k = np.asarray(n), np.asarray(k)
    return np.asarray(gammaln(n + 1) - gammaln(k + 1) - gammaln(np.maximum(n - k, 0) + 1))


@dataclass(frozen=True)
class Shrinkage:
    """How much a search's best score fell when its configuration was trained again.

    Attributes:
        fall: Best trial's validation score - mean of its final seeds', on the same samples.
        by_noise: What the best of T equal configurations falls by: σ_seed times the expected maximum of T normals;
            None where fewer than two seeds tell σ_seed.
    """

    fall: float
    by_noise: float | None

    @property
    def fits_validation(self) -> bool | None:
        """Whether the search fits its validation samples: more fell than noise explains; None: unknown."""
        return None if self.by_noise is None else self.fall > self.by_noise


def shrinkage(best_score: float, final_scores: Sequence[float], num_trials: int) -> Shrinkage:
    """Returns what a search's best trial owed to luck.

    Args:
        best_score: Validation score of the best trial.
        final_scores: Validation scores (S,) of its final models, in the same unit.
        num_trials: T, from 1.

    Raises:
        ValueError: A score is not finite, or there are no trials.
    """
    best, finals = float(finite([best_score], "best score")[0]), finite(final_scores, "final scores")
    expected = expected_maximum(num_trials)
    noise = float(finals.std(ddof=1)) * expected if len(finals) > 1 else None
    return Shrinkage(fall=best - float(finals.mean()), by_noise=noise)


@dataclass(frozen=True)
class BestOf:
    """The best of M methods, and what remains of its score where it was not chosen by.

    Attributes:
        observed: Its score on all units, which the choice made too high.
        corrected: Mean score, on units not drawn, of the method best on the drawn.
        chosen: (M,) share of the draws in which each method was best; ties are shared.
    """

    observed: float
    corrected: float
    chosen: tuple[float, ...]


def best_of(scores: ArrayLike, sizes: ArrayLike, num_draws: int = 2000, seed: int = 0) -> BestOf | None:
    """Corrects the score of "the best of M" for having been chosen, by the bootstrap.

    Units are drawn with replacement; the method with the highest score on the drawn is scored on those not drawn.

    Source: Tsamardinos, Greasidou and Borboudakis 2018 (bootstrap bias corrected cross-validation).

    Args:
        scores: (M, U) mean score of each method on each unit, higher is better.
        sizes: (U,) weight of each unit: its samples, or 1 for folds.
        num_draws: R.
        seed: Of the draws.

    Returns:
        None for a single unit: nothing is left to score on.

    Raises:
        ValueError: A score is not finite, the shapes do not match, or a size is not above 0.
    """
    values, weights = finite(scores, "scores"), finite(sizes, "sizes")
    if values.ndim != 2 or weights.shape != values.shape[1:] or weights.min() <= 0 or num_draws < 1:
        raise ValueError(
            "best_of needs scores (M, U), sizes (U,) above 0 and a draw, got "
            f"{values.shape}, {weights.tolist()}, {num_draws}"
        )
    num_units = len(weights)
    if num_units < 2:
        return None
    shares, kept = _drawn(values, weights, num_draws, np.random.default_rng(seed))
    if not len(kept):
        return None
    return BestOf(
        observed=float((values @ weights).max() / weights.sum()),
        corrected=float(kept.mean()),
        chosen=tuple(shares.mean(axis=0).tolist()),
    )


def _drawn(
    values: NDArray[np.float64], weights: NDArray[np.float64], num_draws: int, generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns each draw's shares of the best (R, M), and their score on the units not drawn (R,).

    Draws are made in parts, so that 10,000 units need no array of all draws.
    """
    num_units = len(weights)
    at_once = max(1, MOST_NUMBERS // num_units)
    shares, kept = [], []
    for start in range(0, num_draws, at_once):
        size = min(at_once, num_draws - start)
        draws = generator.multinomial(num_units, np.full(num_units, 1 / num_units), size=size)
        draws = draws[(draws == 0).any(axis=1)]  # where all were drawn, none is left to score on
        drawn, left = draws * weights, (draws == 0) * weights
        inside = (drawn @ values.T) / drawn.sum(axis=1, keepdims=True)
        outside = (left @ values.T) / left.sum(axis=1, keepdims=True)
        best = inside >= inside.max(axis=1, keepdims=True) - 10.0**-DECIMALS
        shares.append(best / best.sum(axis=1, keepdims=True))
        kept.append((shares[-1] * outside).sum(axis=1))
    return np.concatenate(shares), np.concatenate(kept)
