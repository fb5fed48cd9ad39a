"""What each modality contributes to a prediction: exact Shapley values over all subsets of the modalities.

Source: Shapley, "A value for n-person games", 1953. The value of a subset is the accuracy of the method's own fused
prediction when every sample has these modalities alone; how a method predicts then stands in its docstring. The empty
subset is worth what always answering the most frequent class of the training labels is worth. The contributions sum to
v(all) - v(none).

Shape legend: M modalities.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from mmcore.errors import UsageError

MAX_MODALITIES = 4
"""Most modalities that are valued: with more, the 2^M evaluations would take too long."""


def subsets(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """Returns all 2^M subsets, the empty one first, in the modalities' order.

    Raises:
        UsageError: There are more than four modalities.
    """
    if len(modalities) > MAX_MODALITIES:
        raise UsageError(f"Shapley values are exact for at most {MAX_MODALITIES} modalities, got {len(modalities)}")
    return [subset for size in range(len(modalities) + 1) for subset in itertools.combinations(modalities, size)]


def shapley_values(values: Mapping[tuple[str, ...], float], modalities: Sequence[str]) -> dict[str, float]:
    """Returns each modality's contribution: the mean, over all orders of joining, of what it adds when it joins.

    φ_m = Σ over subsets S without m of |S|! (M - |S| - 1)! / M! · (v(S and m) - v(S)).

    Args:
        values: v of each of `subsets(modalities)`.
        modalities: In their order.
    """
    count = len(modalities)
    found = dict.fromkeys(modalities, 0.0)
    for subset in subsets(modalities):
        weight = math.factorial(len(subset)) * math.factorial(count - len(subset) - 1) if len(subset) < count else 0
        for name in set(modalities) - set(subset):
            joined = tuple(other for other in modalities if other in subset or other == name)
            found[name] += weight / math.factorial(count) * (values[joined] - values[subset])
    return found
