"""Population-based training over a method's own space: weak trials go on from strong ones, with changed settings.

Tune's scheduler, synchronous: every `interval` epochs all trials wait for each other, the weakest quarter takes over
the weights of one of the strongest quarter and its settings, changed. What differs from Tune's own: trials go on from
the checkpoints in their folders (`rayjobs.runs.handover`), no value leaves the range it is searched in, the numbers are
drawn from the search's seed, and a trial that ends or fails does not leave the others waiting.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from mmcore.assembly.config import with_values
from mmcore.assembly.objects import build_method
from mmcore.config.sections import plain
from mmcore.errors import UsageError
from mmcore.seeding import derive_seed
from rayjobs.runs.handover import hand_over
from rayjobs.runs.progress import EPOCH, FATAL, OBJECTIVE
from rayjobs.search.distributions import Distribution, decoded, encoded
from rayjobs.trials.trial import trial_name

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

    from mmcore.data.spec import DatasetSpec
    from rayjobs.search.searches import Search

QUANTILE = 0.25
"""Share of the trials that give up their weights, and of those they go on from."""
RESAMPLE = 0.25
"""How often a setting is drawn anew instead of changed a little."""
FACTORS = (0.8, 1.25)


class Population(PopulationBasedTraining):
    """Population-based training through the trials' folders.

    Args:
        folder: The search's, with the trials' in it.
        space: Path -> what it is searched in, of the settings that change; the others come with the weights.
        size: Trials of the population.
        max_epochs: Length of a trial.
        interval: Epochs from one exchange to the next.
        concurrent: Most trials at once; the others take turns.
        seed: Of the changes.
    """

    def __init__(
        self,
        folder: Path,
        space: Mapping[str, Distribution],
        size: int,
        max_epochs: int,
        interval: int,
        concurrent: int,
        seed: int,
    ):
        super().__init__(
            time_attr=EPOCH,
            metric=OBJECTIVE,
            mode="max",
            perturbation_interval=interval,
            burn_in_period=interval,
            custom_explore_fn=dict,  # one must be given; `changed` is what is used
            synch=True,
        )
        self._folder = folder
        self._space = dict(space)
        self._size = size
        self._max_epochs = max_epochs
        self._interval = interval
        self._concurrent = concurrent
        self._seed = seed
        self._next_sync = interval

    def has_room(self) -> bool:
        """Tells whether another trial may run."""
        return sum(trial.status in (Trial.RUNNING, Trial.PENDING) for trial in self._trial_state) < self._concurrent

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Enters a trial; one of a restored search waits for its turn, and for the exchange it had reached."""
        if trial in self._trial_state:  # its process was lost, and it is tried again
            return
        super().on_trial_add(tune_controller, trial)
        last = trial.last_result or {}
        if last.get(EPOCH) and not trial.is_finished():
            trial.set_status(Trial.PAUSED)
            reached = int(last[EPOCH]) // self._interval * self._interval
            state = self._trial_state[trial]
            state.last_train_time, state.last_score = reached, last.get(OBJECTIVE)
        # Those that have not begun, and those not even entered yet, are waited for as well.
        missing = [0] if len(self._trial_state) < self._size else []
        live = [self._trial_state[other].last_train_time for other in self._trial_state if not other.is_finished()]
        self._next_sync = min([*live, *missing], default=0) + self._interval

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        """Lets a trial wait when it has reached the next exchange; the last one to come starts it."""
        epoch, state = int(result.get(EPOCH, 0)), self._trial_state[trial]
        repeated = epoch <= state.last_train_time
        if result.get(FATAL) or repeated or epoch < self._next_sync or epoch >= self._max_epochs:
            return TrialScheduler.CONTINUE
        self._save_trial_state(state, epoch, result, trial)
        tune_controller.pause_trial(trial, should_checkpoint=False)
        self._exchange(tune_controller, None)
        return TrialScheduler.NOOP

    def on_trial_complete(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> None:
        """Goes on without a trial that has ended."""
        self._exchange(tune_controller, trial)

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        """Goes on without a trial that has failed for good; one that is tried again is an error's already."""
        if trial.status != Trial.ERROR:
            self._exchange(tune_controller, trial)

    def on_trial_remove(self, tune_controller: TuneController, trial: Trial) -> None:
        """Goes on without a trial that was ended while it waited."""
        self._exchange(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """Returns the waiting trial that has come least far."""
        waiting = [
            (state.last_train_time, trial_name(trial), trial)
            for trial, state in self._trial_state.items()
            if trial.status == Trial.PAUSED and state.last_train_time < self._next_sync
        ]
        return min(waiting, key=lambda entry: entry[:2])[2] if waiting and self.has_room() else None

    def _exchange(self, tune_controller: TuneController, gone: Trial | None) -> None:
        """Lets the weakest go on from the strongest, as soon as all that are left wait for it."""
        left = {
            trial: state for trial, state in self._trial_state.items() if trial is not gone and not trial.is_finished()
        }
        if len(self._trial_state) < self._size or not left:
            return
        if any(state.last_train_time < self._next_sync for state in left.values()):
            return
        ranked = sorted(left, key=lambda trial: (left[trial].last_score, trial_name(trial)))
        number = min(math.ceil(QUANTILE * len(ranked)), len(ranked) // 2)
        for trial in ranked[:number]:
            generator = np.random.default_rng([self._seed, self._next_sync, _number(trial)])
            source = ranked[len(ranked) - number :][int(generator.integers(number))]
            self._go_on_from(trial, source, generator)
        self._next_sync += self._interval

    def _go_on_from(self, trial: Trial, source: Trial, generator: np.random.Generator) -> None:
        before = {path: plain(value) for path, value in source.config.items()}
        values = changed(before, self._space, generator)
        folders = self._folder / trial_name(source), self._folder / trial_name(trial)
        hand_over(*folders, self._next_sync, before, values)
        trial.set_config(values)


class Founders(BasicVariantGenerator):
    """Draws the first settings of a population: the given points, then random ones; one when there is room for it."""

    def __init__(
        self,
        population: Population,
        space: Mapping[str, Distribution],
        points: Sequence[Mapping[str, Any]],
        seed: int,
    ):
        super().__init__(points_to_evaluate=[encoded(point, space) for point in points], random_state=seed)
        self._population = population
        self._space = dict(space)
        self._total_samples = 1  # trials are counted from 1, as in every other search

    def next_trial(self) -> Trial | None:
        """Returns the next trial, or None where it has to wait."""
        trial = super().next_trial() if self._population.has_room() else None
        if trial is not None:
            trial.set_config(decoded({path: plain(code) for path, code in trial.config.items()}, self._space))
        return trial

    def get_state(self) -> dict[str, Any]:
        """Returns what a restored search goes on with."""
        state = super().get_state()
        return {key: value for key, value in state.items() if key not in {"_population", "_space"}}


def changed(
    values: Mapping[str, Any], space: Mapping[str, Distribution], generator: np.random.Generator
) -> dict[str, Any]:
    """Returns settings with each of the space's changed: a little, or drawn anew; never out of its range."""
    result = dict(values)
    for path, distribution in space.items():
        anew = generator.random() < RESAMPLE
        result[path] = distribution.draw(generator) if anew else distribution.near(values[path], FACTORS, generator)
    return result


def changeable(search: Search, spec: DatasetSpec) -> dict[str, Distribution]:
    """Returns the part of a search's space that may change while a model is trained.

    The optimizer's settings and the method's, but for those that another model would be built from.

    Raises:
        UsageError: There is none.
    """
    space = {
        path: distribution
        for path, distribution in search.space.items()
        if path.split(".")[0] in {"optimizer", "method"} and path not in {"optimizer.name", "method.name"}
    }
    shapes = _shapes(search, {}, spec)
    kept = {
        path: distribution
        for path, distribution in space.items()
        if not path.startswith("method.")
        or all(_shapes(search, {path: value}, spec) == shapes for value in distribution.ends())
    }
    if not kept:
        raise UsageError(
            f"--scheduler pbt: of {search.label}'s searched settings ({', '.join(search.space)}) none can change "
            "while a model is trained; choose --scheduler asha or fifo"
        )
    return kept


def _shapes(search: Search, values: Mapping[str, Any], spec: DatasetSpec) -> dict[str, tuple[int, ...]]:
    method = build_method(with_values(search.config, values), spec)
    return {name: tuple(tensor.shape) for name, tensor in method.state_dict().items()}


def _number(trial: Trial) -> int:
    return int(trial_name(trial).rpartition("-")[2])


def population_seed(search: Search) -> int:
    """Returns the seed of a population's settings."""
    return derive_seed(search.config.seed, "population", search.name) % 2**32
