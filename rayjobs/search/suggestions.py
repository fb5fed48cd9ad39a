"""What a search tries next: points first, then what HyperOpt or chance draws.

Of HyperOpt's suggestions, what it draws are codes (`rayjobs.search.distributions`). Ray's adapter takes a choice's
options for HyperOpt expressions. It finds the place of a given point among the plain ones alone: of [[1, 2], 3] the
point 3 is tried as [1, 2], and a list is not found at all. Its whole numbers are rounded, so that the ends of a
logarithmic range are drawn half as often as they should be. Of codes it sees neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from ray.tune.search.hyperopt import HyperOptSearch

from mmcore.config.plain import Plain, Settings
from mmcore.config.sections import plain
from mmcore.seeding import derive_seed
from rayjobs.runs.epochs.progress import OBJECTIVE
from rayjobs.search.distributions import Distribution, decoded, encoded
from rayjobs.search.searches import Search


class Suggestions(Protocol):
    """Gives a search its trials' values; a function of the seed and of what it was told, in that order."""

    def suggest(self, trial: int) -> dict[str, Plain]:
        """Returns the values of the trial of that number."""

    def complete(self, trial: int, objective: float | None) -> None:
        """Tells what became of a trial; None: it failed, or finished no epoch."""


def suggestions_of(search: Search) -> Suggestions:
    """Returns what gives a search its trials."""
    seed = search.config.seed
    if search.is_grid or not search.space:
        return Given(search.points or [{}])
    if search.scheduler == "pbt":
        return Drawn(search.space, search.points, derive_seed(seed, "population", search.name) % 2**32)
    # By default the first 20 trials are random: in a search of 8 nothing would be learned from the others.
    # Random search is the one of which all are.
    random = search.trials + 1 if search.algorithm == "random" else max(len(search.points) + 2, search.trials // 4)
    return HyperOpt(search.space, search.points, random, derive_seed(seed, "search", search.name) % 2**32)


class Given:
    """Values that are known beforehand, one after the other.

    Args:
        points: Of each trial.
    """

    def __init__(self, points: Sequence[Settings]):
        self._points = [dict(point) for point in points]

    def suggest(self, trial: int) -> dict[str, Plain]:
        """Returns the trial's point."""
        return self._points[trial - 1]

    def complete(self, trial: int, objective: float | None) -> None:
        """Learns nothing."""


class Drawn:
    """Points, then values drawn at random: a population's first settings.

    Args:
        space: Path -> what is searched.
        points: Values tried first, each with one for every path.
        seed: Of the random ones.
    """

    def __init__(self, space: Mapping[str, Distribution], points: Sequence[Settings], seed: int):
        self._space = dict(space)
        self._points = [dict(point) for point in points]
        self._generator = np.random.default_rng(seed)

    def suggest(self, trial: int) -> dict[str, Plain]:
        """Returns the next values."""
        if trial <= len(self._points):
            return self._points[trial - 1]
        return {path: distribution.draw(self._generator) for path, distribution in self._space.items()}

    def complete(self, trial: int, objective: float | None) -> None:
        """Learns nothing."""


class HyperOpt:
    """HyperOpt's tree of Parzen estimators over a space of this project's own.

    Args:
        space: Path -> what is searched; HyperOpt is given the codes' (`Distribution.to_tune`).
        points: Values tried first, each with one for every path.
        num_random: How many are drawn at random before it learns from the others.
        seed: Of its random numbers.
    """

    def __init__(self, space: Mapping[str, Distribution], points: Sequence[Settings], num_random: int, seed: int):
        self._space = dict(space)
        self._searcher = HyperOptSearch(
            points_to_evaluate=[encoded(point, space) for point in points] or None,
            n_initial_points=num_random,
            random_state_seed=seed,
        )
        codes = {path: distribution.to_tune() for path, distribution in space.items()}
        self._searcher.set_search_properties(OBJECTIVE, "max", codes)

    def suggest(self, trial: int) -> dict[str, Plain]:
        """Returns the next values."""
        codes: dict[str, Any] = self._searcher.suggest(str(trial))  # type: ignore[assignment]
        return {path: plain(value) for path, value in decoded(codes, self._space).items()}

    def complete(self, trial: int, objective: float | None) -> None:
        """Tells HyperOpt."""
        result = None if objective is None else {OBJECTIVE: objective}
        self._searcher.on_trial_complete(str(trial), result, error=objective is None)
