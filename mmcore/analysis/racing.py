"""Which methods may be left out of the folds to come without a false word being added."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mmcore.analysis.fold_statistics import compare_folds
from mmcore.analysis.intervals import finite
from mmcore.analysis.words import ALPHA

FIRST_LOOK = 3
"""Whole folds before a method may leave."""


def can_still_win(differences: ArrayLike, num_folds: int, rho: float, margin: float, alpha: float = ALPHA) -> bool:
    """Returns whether a method could still end as better or equivalent, were the folds left as good as its best.

    The folds left are thought equal to its largest difference for "better", to the one nearest to 0 for
    "equivalent"; the tests are those of the whole study, at level α, the most that Holm may leave to one. A method
    that leaves gets no word and counts in the family with p = 1. The others are tested once, after all folds, so
    that looking early adds no false word: it can only lose some.

    Args:
        differences: (j,) of the whole folds so far, A - B.
        num_folds: k, as many as the study has, j or more.
        rho: Test size by training size with k folds.
        margin: δ, above 0.
        alpha: In (0, 1).

    Raises:
        ValueError: A number is not finite or out of its range.
    """
    seen = finite(differences, "differences")
    if len(seen) > num_folds:
        raise ValueError(f"num_folds must be {len(seen)} or more, as many as were seen, got {num_folds}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be in (0, 1), got {alpha}")
    if len(seen) < FIRST_LOOK:
        return True
    rest = num_folds - len(seen)
    as_best = compare_folds(np.append(seen, np.full(rest, seen.max())), rho, margin)
    as_nearest = compare_folds(np.append(seen, np.full(rest, seen[np.abs(seen).argmin()])), rho, margin)
    if as_best.tests is None or as_nearest.tests is None or not as_best.deviation:  # no spread decides nothing yet
        return True
    better = as_best.difference > 0 and as_best.tests.p < alpha
    return bool(better or min(as_best.tests.p_equivalent, as_nearest.tests.p_equivalent) < alpha)
