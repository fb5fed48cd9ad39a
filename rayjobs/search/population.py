"""Population-based training over a method's own space: weak trials continue from strong ones, with changed settings.

Every `interval` epochs all trials wait for each other; the weakest quarter takes over the weights of one of the
strongest quarter and its settings, changed. Tune's own scheduler of this name is not used: here trials resume from the
checkpoints in their folders (`rayjobs.runs.handover`), no value leaves the range it is searched in, the numbers are
drawn from the search's seed, and a trial that ends or fails does not leave the others waiting.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmcore.assembly.config import with_values
from mmcore.assembly.objects import build_method
from mmcore.config.plain import Plain, Settings
from mmcore.errors import UsageError
from rayjobs.search.distributions import Distribution
from rayjobs.search.halving import Decision

if TYPE_CHECKING:
    from mmcore.data.spec import DatasetSpec
    from rayjobs.search.searches import Search

QUANTILE = 0.25
"""Share of the trials that give up their weights, and of those they continue from."""
RESAMPLE = 0.25
"""How often a setting is drawn anew instead of changed a little."""
FACTORS = (0.8, 1.25)


@dataclass(frozen=True)
class Change:
    """What an exchange does to a weak trial.

    Attributes:
        trial: Its number.
        source: Whose weights it continues from.
        values: Settings it continues with.
    """

    trial: int
    source: int
    values: dict[str, Plain]


class Population:
    """Who waits, and who continues from whom; a function of the reports.

    Args:
        changing: Path -> what it is searched in, of the settings that change; the others come with the weights.
        max_epochs: Length of a trial.
        interval: Epochs from one exchange to the next.
        seed: Seed of the changes.
    """

    def __init__(self, changing: Mapping[str, Distribution], *, max_epochs: int, interval: int, seed: int):
        self._changing = dict(changing)
        self._max_epochs = max_epochs
        self._interval = interval
        self._seed = seed
        self._arrived: dict[int, float] = {}
        self.next_exchange = interval
        """The epoch all trials wait at."""

    def decide(self, trial: int, epoch: int, objective: float) -> Decision:
        """Lets a trial wait when it has come to the next exchange; at its end nothing is exchanged."""
        if epoch < self.next_exchange or epoch >= self._max_epochs:
            return "go"
        self._arrived[trial] = objective
        return "wait"

    def is_waiting(self, trial: int) -> bool:
        """Tells whether a trial waits for the others."""
        return trial in self._arrived

    def changes(self, left: Mapping[int, Settings]) -> list[Change] | None:
        """Returns what the next exchange does; None as long as somebody is still on the way.

        Args:
            left: Number -> settings of each trial that has not ended.
        """
        if not left or set(left) - set(self._arrived):
            return None
        ranked = sorted(left, key=lambda trial: (self._arrived[trial], trial))
        number = min(math.ceil(QUANTILE * len(ranked)), len(ranked) // 2)
        changes = []
        for trial in ranked[:number]:
            # By the trial's number, not in the order of the draws: a resumed search draws the same.
            generator = np.random.default_rng([self._seed, self.next_exchange, trial])
            source = ranked[len(ranked) - number :][int(generator.integers(number))]
            changes.append(Change(trial, source, changed(left[source], self._changing, generator)))
        return changes

    def exchanged(self) -> None:
        """Lets all go on to the next exchange."""
        self._arrived.clear()
        self.next_exchange += self._interval


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
