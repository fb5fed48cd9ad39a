"""Which of the searched settings a search's result hung on, as far as its trials can tell.

Shape legend: T trials, P settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_TRIALS = 20
"""Under so many trials nothing is said: a forest fitted to a dozen points follows their noise."""
NUM_PARTS = 5
NUM_REPEATS = 2
NUM_TREES = 50
NUM_PERMUTATIONS = 5


@dataclass(frozen=True)
class Importance:
    """What was found, or why nothing can be said.

    Attributes:
        num_trials: Trials with a result.
        shares: Setting -> part of the objective's variance that is lost when its values are shuffled, largest first;
            about 0 for one that does not matter. They need not add up to `explained`.
        explained: Part of the variance of trials left out that the forest foretells (R², at most 1).
        reason: Why nothing can be said; "" otherwise.
    """

    num_trials: int
    shares: dict[str, float] = field(default_factory=dict)
    explained: float | None = None
    reason: str = ""


def parameter_importance(
    values: Sequence[Mapping[str, Any]], objectives: Sequence[float], groups: Sequence[Any] | None = None, seed: int = 0
) -> Importance:
    """Estimates how much of a search's result each setting decided: permutation importance of a random forest.

    The forest is fitted to four fifths of the trials and judged by the rest, in turn and twice over: on the trials it
    was fitted to, a setting that does nothing would look important too. The method is Breiman's (Random Forests,
    Machine Learning 45, 2001), on held-out trials.

    Args:
        values: T mappings, setting -> value: a number, or anything else, which is taken for a category.
        objectives: T results.
        groups: T labels of what may differ by itself, as folds do: only differences within one count.
        seed: Seed of the forest, the parts and the shuffles.

    Returns:
        Nothing but a reason for fewer than `MIN_TRIALS` trials or 2 settings that differ, for results all alike, and
        where the forest foretells a trial left out no better than their mean does.
    """
    names = [name for name in (values[0] if values else {}) if len({str(entry[name]) for entry in values}) > 1]
    result = _centred(np.asarray(objectives, dtype=np.float64), groups)
    reason = _too_little(len(result), names, result)
    if reason:
        return Importance(len(result), reason=reason)
    settings = np.column_stack([_codes([entry[name] for entry in values]) for name in names])
    explained, lost = _judge(settings, result, seed)
    if explained <= 0:
        reason = f"the settings do not foretell the result of trials left out (R² {explained:.2f})"
        return Importance(len(result), explained=explained, reason=reason)
    shares = sorted(zip(names, lost.tolist(), strict=True), key=lambda pair: -pair[1])
    return Importance(len(result), dict(shares), explained)


def _too_little(num_trials: int, names: Sequence[str], result: NDArray[np.float64]) -> str:
    if num_trials < MIN_TRIALS:
        return f"{num_trials} trials with a result; at least {MIN_TRIALS} are needed"
    if len(names) < 2:
        return "fewer than two settings differ among the trials" + (f" (only {names[0]})" if names else "")
    return "" if result.std() > 1e-12 else "all trials reached the same result"


def _centred(result: NDArray[np.float64], groups: Sequence[Any] | None) -> NDArray[np.float64]:
    """Returns (T,) results without their group's mean."""
    if groups is None:
        return result
    _, index = np.unique([str(group) for group in groups], return_inverse=True)
    means = np.bincount(index, weights=result) / np.bincount(index)
    return np.asarray(result - means[index])


def _codes(column: Sequence[Any]) -> NDArray[np.float64]:
    """Returns (T,) numbers as they are, anything else numbered: trees need an order, but no distances."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in column):
        return np.asarray(column, dtype=np.float64)
    return np.unique([str(value) for value in column], return_inverse=True)[1].astype(np.float64)


def _judge(settings: NDArray[np.float64], result: NDArray[np.float64], seed: int) -> tuple[float, NDArray[np.float64]]:
    """Returns the explained part of the variance of held-out trials, and (P,) what each setting's shuffling loses."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import RepeatedKFold

    error, lost, total = 0.0, np.zeros(settings.shape[1]), 0.0
    for train, held in RepeatedKFold(n_splits=NUM_PARTS, n_repeats=NUM_REPEATS, random_state=seed).split(settings):
        forest = RandomForestRegressor(NUM_TREES, random_state=seed).fit(settings[train], result[train])
        shuffled = permutation_importance(
            forest,
            settings[held],
            result[held],
            scoring="neg_mean_squared_error",
            n_repeats=NUM_PERMUTATIONS,
            random_state=seed,
        )
        error += float(((forest.predict(settings[held]) - result[held]) ** 2).sum())
        lost += shuffled.importances_mean * len(held)
        total += float(((result[held] - result[train].mean()) ** 2).sum())
    return 1 - error / total, lost / total
