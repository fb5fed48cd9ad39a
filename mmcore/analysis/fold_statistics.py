"""What differences between two methods over the folds of one data set say, and how surely.

Folds share training samples, so their differences are not independent. The estimate has the plain Student interval
("over these folds"); everything that decides a word has the corrected variance of Nadeau and Bengio (2003).

Shape legend: k folds, S seeds, N test samples of a fold. Differences are A - B of any one unit; A is better above 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from mmcore.analysis.intervals import CONFIDENCE, Interval, finite

MIN_FOLDS = 3
"""Under so many folds there are differences, but no interval and no test."""
MIN_FOLDS_FOR_A_WORD = 5
"""Under so many folds nothing is decided, whatever the numbers."""
OFTEN_BETTER = 0.75
"""Which share of folds won is marked: the usual bound for P(A > B)."""
DECIMALS = 9
"""Differences that agree in so many decimals are ties: what is left is rounding."""


@dataclass(frozen=True)
class Disagreement:
    """On how many of a fold's test samples A and B differ.

    Attributes:
        only_a: Right answers of A alone (b), summed over seeds.
        only_b: Right answers of B alone (c), summed over seeds.
        num_samples: N.
        num_seeds: S.
        variance: Of the fold's difference in accuracy (a fraction) over draws of its test samples.
    """

    only_a: int
    only_b: int
    num_samples: int
    num_seeds: int
    variance: float


@dataclass(frozen=True)
class Probabilities:
    """How probable it is that A is worse than B by more than the margin, within it, or better by more."""

    worse: float
    within: float
    better: float


@dataclass(frozen=True)
class FoldTests:
    """What 3 folds or more allow to say.

    Attributes:
        plain: d ± t·s/√k, the estimate's interval, over these folds.
        corrected: d ± t·s·√(1/k + rho), over training sets of this size.
        p: Two-sided, that there is no difference.
        p_equivalent: That the difference is the margin or more, either way (two one-sided tests).
        p_not_worse: That A is worse by the margin or more.
        posterior: The Bayesian reading of the same numbers; None where the folds do not differ at all.
        floored: Whether the spread was under what the test sets can resolve, and McNemar's variance was taken.
    """

    plain: Interval
    corrected: Interval
    p: float
    p_equivalent: float
    p_not_worse: float
    posterior: Probabilities | None
    floored: bool


@dataclass(frozen=True)
class FoldComparison:
    """A against B over folds.

    Attributes:
        difference: Mean over folds, A - B.
        deviation: Standard deviation over folds (divisor k - 1), as it is; 0 for one fold.
        num_folds: k.
        rho: Test samples (or groups) for each training sample.
        share_won: P(A > B): folds won plus half the ties, as a share; None under 5 folds.
        tests: None under 3 folds.
        disagreement: Summed over folds; None where it is not known.
    """

    difference: float
    deviation: float
    num_folds: int
    rho: float
    share_won: float | None
    tests: FoldTests | None
    disagreement: Disagreement | None

    @property
    def identical(self) -> bool:
        """Whether A and B are known to have answered every test sample alike."""
        return self.disagreement is not None and not self.disagreement.only_a + self.disagreement.only_b

    @property
    def often_better(self) -> bool:
        """Whether A won so many folds that its share is marked; False where no share is given."""
        return self.share_won is not None and self.share_won >= OFTEN_BETTER


def mean_rho(test_sizes: ArrayLike, train_sizes: ArrayLike) -> float:
    """Returns the mean over folds of n_test / n_train, (k,) counts each; of groups where there are groups.

    Raises:
        ValueError: A count is under 1, or the folds are not the same.
    """
    tests, trains = finite(test_sizes, "test sizes"), finite(train_sizes, "train sizes")
    if tests.shape != trains.shape or min(tests.min(), trains.min()) < 1:
        raise ValueError(f"sizes must be counts from 1, one a fold, got {tests.tolist()} and {trains.tolist()}")
    return float((tests / trains).mean())


def fold_disagreement(correct_a: ArrayLike, correct_b: ArrayLike) -> Disagreement:
    """Counts where A and B differ in one fold.

    With one seed the variance is McNemar's (b + c - (b - c)²/n) / n²; with more, that of the seeds' mean answers.

    Args:
        correct_a: (S, N) bool, whether each model of A answered each sample rightly.
        correct_b: The same of B.

    Raises:
        ValueError: The shapes differ, or there are no samples.
    """
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if a.shape != b.shape or a.ndim != 2 or not a.size:
        raise ValueError(f"answers must be (S, N) for both methods, got {a.shape} and {b.shape}")
    of_sample = (a.astype(np.float64) - b).mean(axis=0)
    num_seeds, num_samples = a.shape
    variance = ((of_sample**2).sum() - of_sample.sum() ** 2 / num_samples) / num_samples**2
    return Disagreement(int((a & ~b).sum()), int((b & ~a).sum()), num_samples, num_seeds, max(float(variance), 0.0))


def compare_folds(
    differences: ArrayLike,
    rho: float,
    margin: float,
    disagreements: Sequence[Disagreement] | None = None,
    scale: float = 1.0,
) -> FoldComparison:
    """Returns all that differences paired by fold say.

    Source: Nadeau and Bengio 2003, equation 9 (the corrected t test); Schuirmann 1987 (two one-sided tests); Corani
    and Benavoli 2015 (the Bayesian correlated t test: a Student posterior of the same centre, scale and degrees).

    Args:
        differences: (k,) mean over seeds of A - B in each fold.
        rho: Test size by training size, 0 or more (`mean_rho`); 0 gives the plain t test.
        margin: How large a difference does not matter, above 0, in the differences' unit.
        disagreements: One a fold, in accuracy. Where the folds differ by less than one answer would move a fold,
            the variance is taken from them: a spread of 0 is no certainty.
        scale: The differences' unit in fractions of accuracy: 100 for points.

    Raises:
        ValueError: A number is not finite, or out of its range.
    """
    values = finite(differences, "differences")
    if values.ndim != 1 or not 0 <= rho < np.inf or not 0 < margin < np.inf or not 0 < scale < np.inf:
        raise ValueError(
            "compare_folds needs differences (k,), rho >= 0, margin > 0 and scale > 0, all finite, got "
            f"shape {values.shape}, rho {rho}, margin {margin}, scale {scale}"
        )
    if disagreements is not None and len(disagreements) != len(values):
        raise ValueError(f"disagreements must be one a fold, got {len(disagreements)} for {len(values)} folds")
    won = (np.sign(values.round(DECIMALS)).mean() + 1) / 2
    return FoldComparison(
        difference=float(values.mean()),
        deviation=_deviation(values),
        num_folds=len(values),
        rho=rho,
        share_won=float(won) if len(values) >= MIN_FOLDS_FOR_A_WORD else None,
        tests=_tests(values, rho, margin, disagreements, scale) if len(values) >= MIN_FOLDS else None,
        disagreement=_summed(disagreements) if disagreements else None,
    )


def _tests(
    values: NDArray[np.float64],
    rho: float,
    margin: float,
    disagreements: Sequence[Disagreement] | None,
    scale: float,
) -> FoldTests:
    count, mean, deviation = len(values), float(values.mean()), _deviation(values)
    spread = _floored(deviation, disagreements, scale) if disagreements else deviation
    error, degrees = spread * np.sqrt(1 / count + rho), count - 1
    if error > 0:
        posterior = _posterior(mean, error, degrees, margin)
        p = 2 * float(stdtr(degrees, -abs(mean) / error))
        too_low, too_high = _one_sided(mean, error, degrees, margin)
    else:
        posterior, p = None, 1.0
        too_low = too_high = _p_without_spread(disagreements, margin / scale)
    return FoldTests(
        plain=student_interval(mean, spread / np.sqrt(count), degrees),
        corrected=student_interval(mean, error, degrees),
        p=p,
        p_equivalent=max(too_low, too_high),
        p_not_worse=too_low,
        posterior=posterior,
        floored=spread > deviation,
    )


def student_interval(mean: float, error: float, degrees: int) -> Interval:
    """Returns the 95 % interval of a mean with this standard error and these degrees of freedom."""
    half_width = float(stdtrit(degrees, (1 + CONFIDENCE) / 2)) * error
    return Interval(mean, float(mean - half_width), float(mean + half_width))


def _one_sided(mean: float, error: float, degrees: int, margin: float) -> tuple[float, float]:
    """Returns the p of "worse by the margin or more" and of "better by the margin or more"."""
    return float(stdtr(degrees, -(mean + margin) / error)), float(stdtr(degrees, (mean - margin) / error))


def _posterior(mean: float, error: float, degrees: int, margin: float) -> Probabilities:
    worse = float(stdtr(degrees, (-margin - mean) / error))
    better = float(stdtr(degrees, (mean - margin) / error))
    return Probabilities(worse, 1 - worse - better, better)


def _p_without_spread(disagreements: Sequence[Disagreement] | None, margin: float) -> float:
    """Returns the p of a difference of the margin (a fraction) or more where the folds differ by nothing at all.

    Without counts nothing is known of what the spread hides: 1. Methods that answered N samples alike may still
    differ on others; were it on a share of `margin` or more, none of N would show it in at most (1 - margin)^N.
    """
    total = _summed(disagreements) if disagreements else None
    if total is None or total.only_a + total.only_b:
        return 1.0
    return float(max(1 - margin, 0) ** total.num_samples)


def _floored(deviation: float, disagreements: Sequence[Disagreement], scale: float) -> float:
    """Returns the spread of the folds, or the test sets' own where the folds differ by less than one answer."""
    resolution = np.mean([1 / (fold.num_samples * fold.num_seeds) for fold in disagreements]) * scale
    if deviation >= resolution:
        return deviation
    return max(deviation, float(np.sqrt(np.mean([fold.variance for fold in disagreements])) * scale))


def _summed(folds: Sequence[Disagreement]) -> Disagreement:
    count = len(folds)
    return Disagreement(
        only_a=sum(fold.only_a for fold in folds),
        only_b=sum(fold.only_b for fold in folds),
        num_samples=sum(fold.num_samples for fold in folds),
        num_seeds=max(fold.num_seeds for fold in folds),
        variance=sum(fold.variance for fold in folds) / count**2,
    )


def _deviation(values: NDArray[np.float64]) -> float:
    """Returns the standard deviation with divisor k - 1, 0 where it is rounding alone or there is one fold."""
    if len(values) < 2 or np.ptp(values) < 10.0**-DECIMALS:
        return 0.0
    return float(values.std(ddof=1))


@dataclass(frozen=True)
class Components:
    """Variance of one difference d_{i,s} of fold i and seed s: what folds add, and what seeds inside a fold add."""

    fold: float
    seed: float


def variance_components(differences: Sequence[ArrayLike]) -> Components | None:
    """Splits the variance of differences by a one-way layout (analysis of variance, unequal numbers allowed).

    Args:
        differences: k arrays (S_i,), A - B of each seed of each fold.

    Returns:
        None for a single fold, or where no fold has two seeds: they cannot be told apart then.

    Raises:
        ValueError: A number is not finite, or a fold has none.
    """
    folds = [finite(of_fold, "differences of a fold") for of_fold in differences]
    sizes = np.array([len(of_fold) for of_fold in folds], dtype=np.float64)
    total, count = sizes.sum(), len(folds)
    if count < 2 or total == count:
        return None
    means = np.array([of_fold.mean() for of_fold in folds])
    within = sum(float(((of_fold - of_fold.mean()) ** 2).sum()) for of_fold in folds) / (total - count)
    between = float((sizes * (means - np.concatenate(folds).mean()) ** 2).sum()) / (count - 1)
    usual_size = (total - (sizes**2).sum() / total) / (count - 1)
    return Components(fold=float(max((between - within) / usual_size, 0)), seed=float(within))


@dataclass(frozen=True)
class Outlook:
    """Half-widths of the 95 % interval that are to be expected: as it is, with one more fold, with one more seed."""

    now: float
    one_more_fold: float
    one_more_seed: float

    @property
    def narrows_more(self) -> Literal["fold", "seed", "neither"]:
        """Which of one more fold and one more seed makes the interval narrower."""
        if self.one_more_fold == self.one_more_seed:
            return "neither"
        return "fold" if self.one_more_fold < self.one_more_seed else "seed"


def outlook(
    components: Components, num_folds: int, num_seeds: int, rho: float = 0.0, rho_with_one_more: float | None = None
) -> Outlook:
    """Returns what another fold or another seed would make of the interval t·√((σ²_fold + σ²_seed/S)(1/k + rho)).

    Args:
        components: What varies (`variance_components`).
        num_folds: k, from 2.
        num_seeds: S, from 1.
        rho: Test size by training size; 0 for the plain interval.
        rho_with_one_more: The same with k + 1 folds; None: as it is.

    Raises:
        ValueError: Fewer than two folds, or no seed.
    """
    if num_folds < 2 or num_seeds < 1:
        raise ValueError(f"an interval over folds needs 2 folds and 1 seed, got {num_folds} and {num_seeds}")

    def half_width(folds: int, seeds: int, ratio: float) -> float:
        error = np.sqrt((components.fold + components.seed / seeds) * (1 / folds + ratio))
        return student_interval(0, float(error), folds - 1).high

    more = rho if rho_with_one_more is None else rho_with_one_more
    return Outlook(
        now=half_width(num_folds, num_seeds, rho),
        one_more_fold=half_width(num_folds + 1, num_seeds, more),
        one_more_seed=half_width(num_folds, num_seeds + 1, rho),
    )
