"""What differences over several data sets say: signed ranks, average ranks, and who differs from whom.

The units are data sets, not their variants. Shape legend: D data sets, M methods.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc, fdtrc

from mmcore.analysis.fold_statistics import DECIMALS, Probabilities
from mmcore.analysis.intervals import finite
from mmcore.analysis.sign_flips import sign_flip_p
from mmcore.analysis.words import ALPHA, holm

MIN_SETS_FOR_PROBABILITIES = 5
"""Under so many data sets signs and differences are listed, and nothing else."""
PRIOR_AT_ZERO = 0.5
"""Weight of the pseudo-difference of 0, in data sets."""


def doubled_ranks(values: ArrayLike) -> NDArray[np.int64]:
    """Returns twice the mid-ranks (n,) of values, 2 for the smallest; ties have the mean of their places.

    Doubled they are integers. Values that agree in 9 decimals are ties.

    Raises:
        ValueError: A value is not finite.
    """
    rounded = finite(values, "ranked values").round(DECIMALS)
    _, place, counts = np.unique(rounded, return_inverse=True, return_counts=True)
    ranks: NDArray[np.int64] = (2 * np.cumsum(counts) - counts + 1)[place]
    return ranks


def wilcoxon(differences: ArrayLike) -> float:
    """Returns the two-sided p of Wilcoxon's signed-rank test, exact, with ties and zeros.

    Zeros take part in the ranking and are left out of the sum (Pratt 1959); ties have mid-ranks. The p counts all
    2^n signs of the n ranks left, so that it is exact whatever ties there are, which tables and libraries are not.

    Args:
        differences: (D,) one a data set.

    Raises:
        ValueError: A difference is not finite.
    """
    values = finite(differences, "differences").round(DECIMALS)
    return sign_flip_p(np.sign(values).astype(np.int64) * doubled_ranks(np.abs(values)))


def datasets_needed(family_size: int, alpha: float = ALPHA) -> int:
    """Returns how many data sets there must be for any p of Wilcoxon's test under Holm to be under α.

    The smallest p is 2^(1 - D), and Holm multiplies it by the family's size m: D > 1 + log2(m / α).

    Raises:
        ValueError: The family is empty or α out of (0, 1).
    """
    if family_size < 1 or not 0 < alpha < 1:
        raise ValueError(f"family_size must be 1 or more and alpha in (0, 1), got {family_size} and {alpha}")
    return math.floor(1 + math.log2(family_size / alpha)) + 1


def signed_rank_probabilities(
    differences: ArrayLike, margin: float, num_draws: int = 50_000, seed: int = 0
) -> Probabilities | None:
    """Returns how probable it is that, on data sets like these, A is worse, alike within the margin, or better.

    Each draw weights the data sets, and a pseudo-difference of 0, by a Dirichlet distribution; it is won by the region
    where the mean of two differences drawn by these weights most probably lies.

    Source: Benavoli, Corani, Demšar and Zaffalon 2017, section 4.2 (the Bayesian signed-rank test).

    Args:
        differences: (D,) A - B, one a data set.
        margin: Above 0, in the unit of the differences.
        num_draws: R.
        seed: Of the draws.

    Returns:
        None for fewer than 5 data sets.

    Raises:
        ValueError: A difference is not finite, or the margin out of range.
    """
    values = finite(differences, "differences")
    if not 0 < margin < np.inf:
        raise ValueError(f"margin must be above 0 and finite, got {margin}")
    if len(values) < MIN_SETS_FOR_PROBABILITIES:
        return None
    values = np.concatenate([[0.0], values])
    sums = values[:, None] + values
    strengths = np.ones(len(values))
    strengths[0] = PRIOR_AT_ZERO
    weights = np.random.default_rng(seed).dirichlet(strengths, num_draws)
    worse = ((weights @ (sums < -2 * margin)) * weights).sum(axis=1)
    better = ((weights @ (sums > 2 * margin)) * weights).sum(axis=1)
    winners = np.argmax([1 - worse - better, worse, better], axis=0)  # a tie is no difference: within comes first
    within, below, above = np.bincount(winners, minlength=3) / num_draws
    return Probabilities(float(below), float(within), float(above))


@dataclass(frozen=True)
class Friedman:
    """Whether the methods' ranks differ at all.

    Attributes:
        mean_ranks: (M,) as a tuple; 1 is the best.
        chi2: Friedman's statistic, corrected for ties.
        p_chi2: Its p by the χ² distribution of M - 1 degrees.
        f: Iman and Davenport's F.
        p: Its p, by M - 1 and (M - 1)(D - 1) degrees; at least that of all data sets agreeing by chance.
    """

    mean_ranks: tuple[float, ...]
    chi2: float
    p_chi2: float
    f: float
    p: float


def mean_ranks(scores: ArrayLike) -> NDArray[np.float64]:
    """Returns the mean rank (M,) of each method over data sets, 1 for the best; ties have mid-ranks.

    Args:
        scores: (D, M), higher is better.

    Raises:
        ValueError: The shape is another, or a score is not finite.
    """
    means: NDArray[np.float64] = _ranks(scores).mean(axis=0)
    return means


def friedman(scores: ArrayLike) -> Friedman:
    """Tests whether M methods rank differently over D data sets.

    Source: Friedman 1937; Iman and Davenport 1980, as in Demšar 2006, section 3.2.2; the correction for ties is
    Conover's, which equals theirs where there are none.

    Args:
        scores: (D, M), D and M from 2, higher is better.

    Raises:
        ValueError: The shape is another, or a score is not finite.
    """
    ranks = _ranks(scores)
    num_sets, num_methods = ranks.shape
    if num_sets < 2 or num_methods < 2:
        raise ValueError(f"friedman needs scores of 2 data sets and 2 methods or more, got {ranks.shape}")
    between = ((ranks.sum(axis=0) - num_sets * (num_methods + 1) / 2) ** 2).sum()
    spread = (ranks**2).sum() - num_sets * num_methods * (num_methods + 1) ** 2 / 4
    chi2 = float((num_methods - 1) * between / spread) if spread > 0 else 0.0
    rest = num_sets * (num_methods - 1) - chi2
    f = (num_sets - 1) * chi2 / rest if rest > 1e-9 * num_sets else math.inf
    degrees = num_methods - 1
    smallest = math.factorial(num_methods) ** -float(num_sets - 1)
    p = max(float(fdtrc(degrees, degrees * (num_sets - 1), f)), smallest)
    return Friedman(tuple(ranks.mean(axis=0).tolist()), chi2, float(chdtrc(degrees, chi2)), float(f), p)


def pairwise_wilcoxon(scores: ArrayLike) -> NDArray[np.float64]:
    """Returns the p (M, M) of each pair by Wilcoxon's test over data sets, corrected over all pairs by Holm.

    The diagonal is 1.

    Args:
        scores: (D, M).

    Raises:
        ValueError: The shape is another, there is one method alone, or a score is not finite.
    """
    values = _table(scores)
    rows, columns = np.triu_indices(values.shape[1], 1)
    corrected = holm([wilcoxon(values[:, a] - values[:, b]) for a, b in zip(rows, columns, strict=True)])
    table = np.ones((values.shape[1],) * 2)
    table[rows, columns] = table[columns, rows] = corrected
    return table


def alike_runs(scores: ArrayLike, alpha: float = ALPHA) -> list[tuple[int, ...]] | None:
    """Returns the bars of a critical-difference diagram: each maximal run of rank neighbours no two of whom differ.

    Pairs are compared by Wilcoxon's test, so that no method's bar depends on which others are in the pool (Benavoli,
    Corani and Mangili 2016), and a bar never spans a method that differs from one under it.

    Args:
        scores: (D, M), higher is better.
        alpha: In (0, 1).

    Returns:
        Columns of each run, by rank, runs of one left out; None with fewer than 3 methods, or so few data sets that
        no p could be under α: one bar over all would say nothing then.

    Raises:
        ValueError: The shape is another, or a score is not finite.
    """
    values = _table(scores)
    num_sets, num_methods = values.shape
    if num_methods < 3 or num_sets < datasets_needed(math.comb(num_methods, 2), alpha):
        return None
    order = np.argsort(mean_ranks(values), kind="stable")
    alike = pairwise_wilcoxon(values)[np.ix_(order, order)] >= alpha
    runs, reached = [], 0
    for first in range(num_methods):
        end = first + 1
        while end < num_methods and alike[first : end + 1, end].all():
            end += 1
        if end - first > 1 and end > reached:
            runs.append(tuple(order[first:end].tolist()))
            reached = end
    return runs


def _ranks(scores: ArrayLike) -> NDArray[np.float64]:
    return np.array([doubled_ranks(-row) / 2 for row in _table(scores)])


def _table(scores: ArrayLike) -> NDArray[np.float64]:
    values = finite(scores, "scores")
    if values.ndim != 2:
        raise ValueError(f"scores must be (D, M), data sets by methods, got shape {values.shape}")
    return values
