"""Many searches in one run of Ray Tune as it comes: a searcher and a scheduler that deal out to those of each search.

The other side of `driver.py`: nothing of this project's pool, journals or controller is in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.hyperopt import HyperOptSearch

from mmcore.seeding import derive_seed
from rayjobs.search.searches import Search

EPOCH, OBJECTIVE = "epoch", "objective"


class Dealer(Searcher):
    """Gives Tune the next trial of the first search that runs none, until each has had all of its trials."""

    def __init__(self, searches: Sequence[Search]):
        super().__init__(metric=OBJECTIVE, mode="max")
        self._searches = list(searches)
        self._searchers = [_searcher(search) for search in searches]
        self._left = {number: search.trials for number, search in enumerate(searches)}
        self._running: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        busy = set(self._running.values())
        free = (number for number, left in self._left.items() if left and number not in busy)
        number = next(free, None)
        if number is None:
            return None
        self._left[number] -= 1
        self._running[trial_id] = number
        values = self._searchers[number].suggest(trial_id)
        return {**values, "search": number, "epochs": self._searches[number].max_epochs}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._searchers[self._running.pop(trial_id)].on_trial_complete(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        for number, searcher in enumerate(self._searchers):
            searcher.save(f"{checkpoint_path}.{number}")

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError


class Referee(TrialScheduler):
    """Passes the reports of a trial on to its search's ASHA."""

    def __init__(self, searches: Sequence[Search]):
        super().__init__()
        self._halving = [_halving(search) for search in searches]

    @property
    def metric(self) -> str:
        return OBJECTIVE

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        return self._of(trial).on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        self._of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self._of(trial).on_trial_error(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        self._of(trial).on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        return self._halving[0].choose_trial_to_run(tune_controller)  # it looks at all trials alike

    def debug_string(self) -> str:
        return f"{len(self._halving)} searches"

    def _of(self, trial: Trial) -> AsyncHyperBandScheduler:
        return self._halving[trial.config["search"]]


def _searcher(search: Search) -> HyperOptSearch:
    random = max(len(search.points) + 2, search.trials // 4)
    seed = derive_seed(search.config.seed, "search", search.name) % 2**32
    searcher = HyperOptSearch(points_to_evaluate=search.points or None, n_initial_points=random, random_state_seed=seed)
    space = {path: distribution.to_tune() for path, distribution in search.space.items()}
    searcher.set_search_properties(OBJECTIVE, "max", space)
    return searcher


def _halving(search: Search) -> AsyncHyperBandScheduler:
    return AsyncHyperBandScheduler(
        time_attr=EPOCH,
        metric=OBJECTIVE,
        mode="max",
        max_t=search.max_epochs,
        grace_period=search.grace_epochs,
        reduction_factor=search.reduction_factor,
    )
