"""How small a difference a plan can show, before anything is spent."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import nctdtr, stdtrit

from mmcore.analysis.intervals import CONFIDENCE, finite
from mmcore.analysis.words import ALPHA

POWER = 0.8
"""How surely a difference that is there is to be shown."""
CERTAIN = 8.0
"""Standard deviations beyond which nothing lies. For t to be under c its normal part must be 8 below its mean or the
estimated deviation over 1 + 8 / √degrees: under 1e-13 together, and scipy's function may give NaN there."""
NO_OTHER_TAIL = 4.0
"""Above this noncentrality under 1e-6 lies in the tail of the other sign, where it gives NaN too."""


def power_over_folds(
    difference: float, deviation: float, num_folds: int, rho: float, *, family_size: int = 1, alpha: float = ALPHA
) -> float:
    """Returns how probable it is that the corrected t test shows a difference, in [0, 1].

    The test's t has a noncentral Student distribution of k - 1 degrees around Δ / (σ·√(1/k + rho)), and is compared
    at level α / m, which is what Holm asks of the first of m.

    Args:
        difference: Δ, the true one, in any unit.
        deviation: σ_d, standard deviation of a fold's difference, above 0, in the same unit.
        num_folds: k, from 2.
        rho: Test size by training size, 0 or more.
        family_size: m, from 1.
        alpha: In (0, 1).

    Raises:
        ValueError: A number is out of its range.
    """
    _check(deviation, num_folds, rho, family_size, alpha)
    if not math.isfinite(difference):
        raise ValueError(f"difference must be finite, got {difference}")
    return _power(abs(difference) / (deviation * math.sqrt(1 / num_folds + rho)), num_folds - 1, alpha / family_size)


def smallest_difference(
    deviation: float,
    num_folds: int,
    rho: float,
    *,
    family_size: int = 1,
    alpha: float = ALPHA,
    power: float = POWER,
) -> float:
    """Returns the smallest true difference that a plan shows with this power, in the deviation's unit.

    Args:
        deviation: As `power_over_folds`; measured, never guessed.
        num_folds: As `power_over_folds`.
        rho: As `power_over_folds`.
        family_size: As `power_over_folds`.
        alpha: As `power_over_folds`.
        power: In (α / m, 1): at a difference of 0 it is α / m.

    Raises:
        ValueError: A number is out of its range.
    """
    _check(deviation, num_folds, rho, family_size, alpha)
    level, degrees = alpha / family_size, num_folds - 1
    if not level < power < 1:
        raise ValueError(f"power must be in ({level}, 1), got {power}")
    highest = 1.0
    while _power(highest, degrees, level) < power:
        highest *= 2
    shift = brentq(lambda noncentrality: _power(noncentrality, degrees, level) - power, 0, highest, xtol=1e-9)
    return float(shift) * deviation * math.sqrt(1 / num_folds + rho)


def pooled_deviation(deviations: ArrayLike) -> float:
    """Returns the root mean square (a number) of several methods' deviations (m,), which the largest of them decide.

    Raises:
        ValueError: One is not finite, or there are none.
    """
    return float(np.sqrt((finite(deviations, "deviations") ** 2).mean()))


def deviation_behind(half_width: float, num_folds: int) -> float:
    """Returns the standard deviation over folds that a plain 95 % interval of their mean was made from.

    Args:
        half_width: Of the interval, 0 or more.
        num_folds: k, from 2.

    Raises:
        ValueError: A number is out of its range.
    """
    if num_folds < 2 or not 0 <= half_width < np.inf:
        raise ValueError(f"an interval over folds needs 2 folds and a width, got {num_folds} and {half_width}")
    return half_width * math.sqrt(num_folds) / float(stdtrit(num_folds - 1, (1 + CONFIDENCE) / 2))


def cv_rho(num_folds: int) -> float:
    """Returns test size by training size of a cross-validation in which one fold tests and one validates.

    Raises:
        ValueError: Fewer than 3 folds: none would train.
    """
    if num_folds < 3:
        raise ValueError(f"a cross-validation needs 3 folds or more, got {num_folds}")
    return 1 / (num_folds - 2)


def _power(noncentrality: float, degrees: int, level: float) -> float:
    critical = float(stdtrit(degrees, 1 - level / 2))
    if noncentrality > CERTAIN + critical * (1 + CERTAIN / math.sqrt(degrees)):
        return 1.0
    above = 1 - float(nctdtr(degrees, noncentrality, critical))
    if noncentrality > NO_OTHER_TAIL:
        return above
    return above + float(nctdtr(degrees, noncentrality, -critical))


def _check(deviation: float, num_folds: int, rho: float, family_size: int, alpha: float) -> None:
    """Raises a ValueError that names all that is out of its range."""
    wrong = [
        f"{name} must be {rule}, got {value}"
        for name, rule, value, right in [
            ("deviation", "above 0 and finite", deviation, 0 < deviation < np.inf),
            ("num_folds", "2 or more", num_folds, num_folds >= 2),
            ("rho", "0 or more and finite", rho, 0 <= rho < np.inf),
            ("family_size", "1 or more", family_size, family_size >= 1),
            ("alpha", "in (0, 1)", alpha, 0 < alpha < 1),
        ]
        if not right
    ]
    if wrong:
        raise ValueError("; ".join(wrong))
