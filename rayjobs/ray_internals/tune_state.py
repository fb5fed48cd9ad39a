"""The files of a search's state as Tune names them, and the signal that makes it save them and end."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

EXPERIMENT = "experiment_state-*.json"
SEARCHER = "searcher-state-*.pkl"
GENERATOR = "search_gen_state-*.json"
"""Tune's count of the searcher's trials: a pickle, whatever its name says."""
STATE_PATTERNS = (EXPERIMENT, SEARCHER, GENERATOR, "callback-states-*.pkl")
"""All files that a search is restored from; a session of Tune's has one of each."""


def staging_folder(trials: list[Trial]) -> Path | None:
    """Returns where the driver writes the state of these trials' search; None before it has a place."""
    storage = trials[0].storage if trials else None
    return Path(storage.experiment_driver_staging_path) if storage is not None else None


def trials_in(state: Path) -> list[str]:
    """Returns the names of the trials in an experiment's state file; a trial without a name counts as "".

    Raises:
        ValueError: The file is damaged.
        KeyError: It is none of Tune's.
    """
    data = json.loads(state.read_text())["trial_data"]
    return [json.loads(trial).get("custom_trial_name") or "" for trial, _ in data]


def end_search() -> None:
    """Makes the search that runs in this process save its state and return."""
    os.kill(os.getpid(), signal.SIGUSR1)
