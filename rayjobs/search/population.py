"""Population-based training over a method's own space: weak trials continue from strong ones, with changed settings.

Every `interval` epochs all trials wait for each other; the weakest quarter takes over the weights of one of the
strongest quarter and its settings, changed. Tune's own scheduler of this name is not used: here trials resume from the
checkpoints in their folders (`rayjobs.runs.handover`), no value leaves the range it is searched in, the numbers are
drawn from the search's seed, and a trial that ends or fails does not leave the others waiting.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from mmcore.assembly.config import with_values
from mmcore.assembly.objects import build_method
from mmcore.config.plain import Settings
from mmcore.config.sections import plain
from mmcore.errors import UsageError
from mmcore.seeding import derive_seed
from rayjobs.runs.handover import hand_over
from rayjobs.runs.progress import EPOCH, FATAL, OBJECTIVE
from rayjobs.search.distributions import Distribution
from rayjobs.trials.trial import trial_name

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

    from mmcore.data.spec import DatasetSpec
    from rayjobs.search.searches import Search

QUANTILE = 0.25
"""Share of the trials that give up their weights, and of those they continue from."""
RESAMPLE = 0.25
"""How often a setting is drawn anew instead of changed a little."""
FACTORS = (0.8, 1.25)


@dataclass
class _Standing:
    """How far a trial has come.

    Attributes:
        epoch: The last exchange it came to, as an epoch; 0 before the first.
        objective: What it reported there; None before the first.
    """

    epoch: int = 0
    objective: float | None = None


class Population(TrialScheduler):
    """Population-based training through the trials' folders.

    Args:
        folder: The search's, with the trials' in it.
        space: Path -> what it is searched in, of the settings that change; the others come with the weights.
        size: Trials of the population.
        max_epochs: Length of a trial.
        interval: Epochs from one exchange to the next.
        concurrent: Most trials at once; the others take turns.
        seed: Seed of the changes.
    """

    def __init__(
        self,
        folder: Path,
        space: Mapping[str, Distribution],
        *,
        size: int,
        max_epochs: int,
        interval: int,
        concurrent: int,
        seed: int,
    ):
        super().__init__()  # type: ignore[no-untyped-call]
        self._folder = folder
        self._changing = dict(space)
        self._size = size
        self._max_epochs = max_epochs
        self._interval = interval
        self._concurrent = concurrent
        self._seed = seed
        self._next_exchange = interval
        self._standings: dict[Trial, _Standing] = {}

    @property
    def metric(self) -> str:
        """What trials are compared by; the higher the better."""
        return OBJECTIVE

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Refuses another metric: it is the objective's."""
        return metric is None and mode is None

    def has_room(self) -> bool:
        """Tells whether another trial may run."""
        return sum(trial.status in (Trial.RUNNING, Trial.PENDING) for trial in self._standings) < self._concurrent

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Enters a trial; one of a restored search waits for its turn, and for the exchange it had reached."""
        if trial in self._standings:  # its process was lost, and it is tried again
            return
        standing = self._standings[trial] = _Standing()
        last = trial.last_result or {}
        if last.get(EPOCH) and not trial.is_finished():
            trial.set_status(Trial.PAUSED)
            standing.epoch = int(last[EPOCH]) // self._interval * self._interval
            standing.objective = last.get(OBJECTIVE)
        # Those that have not begun, and those not even entered yet, are waited for as well.
        missing = [0] if len(self._standings) < self._size else []
        live = [standing.epoch for other, standing in self._standings.items() if not other.is_finished()]
        self._next_exchange = min([*live, *missing], default=0) + self._interval

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, float]) -> str:
        """Lets a trial wait when it has reached the next exchange; the last one to come starts it."""
        epoch, standing = int(result.get(EPOCH, 0)), self._standings[trial]
        repeated = epoch <= standing.epoch  # a trial that continues from another's weights reports their epoch again
        if result.get(FATAL) or repeated or epoch < self._next_exchange or epoch >= self._max_epochs:
            return self.CONTINUE
        standing.epoch, standing.objective = epoch, result[OBJECTIVE]
        tune_controller.pause_trial(trial, should_checkpoint=False)
        self._exchange()
        return self.NOOP

    def on_trial_complete(self, tune_controller: TuneController, trial: Trial, result: dict[str, float] | None) -> None:
        """Goes on without a trial that has ended."""
        self._exchange(without=trial)

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        """Goes on without a trial that has failed for good; one that is tried again is an error's already."""
        if trial.status != Trial.ERROR:
            self._exchange(without=trial)

    def on_trial_remove(self, tune_controller: TuneController, trial: Trial) -> None:
        """Goes on without a trial that was ended while it waited."""
        self._exchange(without=trial)

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """Returns the waiting trial that has come least far."""
        waiting = [
            (standing.epoch, trial_name(trial), trial)
            for trial, standing in self._standings.items()
            if trial.status == Trial.PAUSED and standing.epoch < self._next_exchange
        ]
        return min(waiting, key=lambda entry: entry[:2])[2] if waiting and self.has_room() else None

    def debug_string(self) -> str:
        """Returns where the population stands, for Tune's own printing, which is switched off."""
        return f"population of {self._size}, next exchange at epoch {self._next_exchange}"

    def _exchange(self, without: Trial | None = None) -> None:
        """Lets the weakest continue from the strongest, as soon as all that are left wait for it."""
        left = {
            trial: standing
            for trial, standing in self._standings.items()
            if trial is not without and not trial.is_finished()
        }
        if len(self._standings) < self._size or not left:
            return
        if any(standing.epoch < self._next_exchange for standing in left.values()):
            return
        ranked = sorted(left, key=lambda trial: (left[trial].objective, trial_name(trial)))
        number = min(math.ceil(QUANTILE * len(ranked)), len(ranked) // 2)
        for trial in ranked[:number]:
            # By the trial's number, not in the order of the draws: a restored search draws the same.
            generator = np.random.default_rng([self._seed, self._next_exchange, _number(trial)])
            source = ranked[len(ranked) - number :][int(generator.integers(number))]
            self._go_on_from(trial, source, generator)
        self._next_exchange += self._interval

    def _go_on_from(self, trial: Trial, source: Trial, generator: np.random.Generator) -> None:
        before = {path: plain(value) for path, value in source.config.items()}
        values = changed(before, self._changing, generator)
        folders = self._folder / trial_name(source), self._folder / trial_name(trial)
        hand_over(*folders, self._next_exchange, before, values)
        trial.set_config(values)


class Founders(Searcher):
    """Gives a population its first settings: the given points, then random ones; one when there is room for it.

    Args:
        population: Whose trials they are.
        space: Path -> what is searched; all of it, as nothing comes from other trials yet.
        points: Settings tried first, each with a value for every path.
        seed: Seed of the random ones.
    """

    def __init__(
        self,
        population: Population,
        space: Mapping[str, Distribution],
        points: Sequence[Settings],
        seed: int,
    ):
        super().__init__(metric=OBJECTIVE, mode="max")
        self._population = population
        self._ranges = dict(space)
        self._points = [dict(point) for point in points]
        self._num_given = 0
        self._generator = np.random.default_rng(seed)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Returns the next trial's settings, or None where it has to wait."""
        if not self._population.has_room():
            return None
        self._num_given += 1
        if self._num_given <= len(self._points):
            return dict(self._points[self._num_given - 1])
        return {path: distribution.draw(self._generator) for path, distribution in self._ranges.items()}

    def on_trial_complete(
        self,
        trial_id: str,
        result: dict[str, float] | None = None,
        error: bool = False,  # noqa: FBT001, FBT002 - as Tune has it
    ) -> None:
        """Learns nothing: a trial's settings change while it runs."""

    def save(self, checkpoint_path: str) -> None:
        """Writes how many settings were given, and where the random numbers stand."""
        state = {"num_given": self._num_given, "random": self._generator.bit_generator.state}
        Path(checkpoint_path).write_bytes(pickle.dumps(state))

    def restore(self, checkpoint_path: str) -> None:
        """Goes on from what `save` wrote."""
        state = pickle.loads(Path(checkpoint_path).read_bytes())  # noqa: S301 - written by this user's own search
        self._num_given = state["num_given"]
        self._generator.bit_generator.state = state["random"]


def changed(values: Settings, space: Mapping[str, Distribution], generator: np.random.Generator) -> dict[str, Any]:
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


def _shapes(search: Search, values: Settings, spec: DatasetSpec) -> dict[str, tuple[int, ...]]:
    method = build_method(with_values(search.config, values), spec)
    return {name: tuple(tensor.shape) for name, tensor in method.state_dict().items()}


def _number(trial: Trial) -> int:
    return int(trial_name(trial).rpartition("-")[2])


def population_seed(search: Search) -> int:
    """Returns the seed of a population's settings."""
    return derive_seed(search.config.seed, "population", search.name) % 2**32
