"""Tune's controller, of which Ray keeps to itself what is changed here: how often a search's state is saved."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import ray.tune.tune as tune_loop
from ray.tune.execution import class_cache
from ray.tune.execution.tune_controller import TuneController

if TYPE_CHECKING:
    from ray.tune.schedulers import AsyncHyperBandScheduler

REST = 4
"""A fifth of the time, at most, goes into saving."""


OF_THIS_RUN = frozenset({"_statuses", "_not_before", "_max_pending_trials"})
"""Not of a search's state: a restored one may start as many trials at once as its new machine has room for."""


class ThriftyController(TuneController):
    """Tune's controller, but it saves its state when a trial began, ended or came to wait, and else every second.

    Tune knows only a period. With none, it saves at every step, ten a second where nothing happens: the state of 400
    trials took most of a core. With any, a trial that was stopped early just before a kill would be trained on. A large
    state waits for REST times as long as it took to save before.
    """

    _statuses: Mapping[str, str] = MappingProxyType({})
    _not_before = 0.0

    def checkpoint(self, force: bool = False, wait: bool = False) -> None:  # noqa: FBT001, FBT002 - as Tune has it
        """Saves if it is time to."""
        start = time.monotonic()
        statuses = {trial.trial_id: trial.status for trial in self.get_trials()}  # type: ignore[no-untyped-call]
        if statuses != self._statuses and start >= self._not_before:
            self._statuses = statuses
            self._checkpoint_manager._last_save_time = float("-inf")
        super().checkpoint(force, wait)
        took = time.monotonic() - start
        self._not_before = max(self._not_before, start + took + REST * took)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()  # type: ignore[no-untyped-call]
        return {key: value for key, value in state.items() if key not in OF_THIS_RUN}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        own = {key: value for key, value in state.items() if key not in OF_THIS_RUN}
        super().__setstate__(own)  # type: ignore[no-untyped-call]


@contextmanager
def thrifty_saving() -> Iterator[None]:
    """Makes `tune.run`, which takes no controller, use `ThriftyController` for the time of a `with` block."""
    before = tune_loop.TuneController  # type: ignore[attr-defined]
    tune_loop.TuneController = ThriftyController  # type: ignore[attr-defined]
    try:
        yield
    finally:
        tune_loop.TuneController = before  # type: ignore[attr-defined]


@contextmanager
def keys_kept() -> Iterator[None]:
    """Keeps Tune from passing AWS's keys on to trials for the time of a `with` block.

    Ray would write the values into a log of each node. Every process has its own environment's anyway.
    """
    keys = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(keys)
    try:
        yield
    finally:
        class_cache.ENV_VARS_TO_PROPAGATE.update(keys)


def rungs_of(scheduler: AsyncHyperBandScheduler) -> list[tuple[float, dict[str, float]]]:
    """Returns ASHA's rungs: the epoch of each, and trial id -> value recorded there, which may be written to."""
    return [rung for bracket in scheduler._brackets for rung in bracket._rungs]
