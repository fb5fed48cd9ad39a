"""Tune's controller, of which Ray keeps to itself what is changed here: how often a search's state is saved."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ray.tune.execution.tune_controller import TuneController

REST = 4
"""A fifth of the time, at most, goes into saving."""


class ThriftyController(TuneController):
    """Tune's controller, but it saves its state when a trial began, ended or came to wait, and else every second.

    Tune knows only a period. With none, it saves at every step, ten a second where nothing happens: the state of 400
    trials took most of a core. With any, a trial that was stopped early just before a kill would be trained on. A large
    state waits for REST times as long as it took to save before.
    """

    _statuses: Mapping[str, str] = MappingProxyType({})
    _not_before = 0.0

    def checkpoint(self, force: bool = False, wait: bool = False) -> None:
        """Saves if it is time to."""
        start = time.monotonic()
        statuses = {trial.trial_id: trial.status for trial in self.get_trials()}
        if statuses != self._statuses and start >= self._not_before:
            self._statuses = statuses
            self._checkpoint_manager._last_save_time = float("-inf")
        super().checkpoint(force, wait)
        took = time.monotonic() - start
        self._not_before = max(self._not_before, start + took + REST * took)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key not in {"_statuses", "_not_before"}}
