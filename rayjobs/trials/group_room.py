"""The room a worker group holds on the cluster, and how it is given back.

It holds a placement group, and a claim: Ray deals the room out by the claims, the oldest first, and an elastic group
takes no more workers than its claim was given. A group that is ended from outside (its trial stopped early, paused,
killed) may leave both. The claim expires after three minutes; the placement group is removed through the dashboard, if
that works at all. Whoever comes next would wait for room that nobody uses.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.util.placement_group import PlacementGroup, remove_placement_group

from rayjobs.ray_internals.groups import cancel_claim, claim_of
from rayjobs.results_layout import CLAIM_FILE, GROUP_FILE
from rayjobs.storage.files import write_text

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer


def note_claim(run_dir: Path, trainer: TorchTrainer) -> None:
    """Writes down what a group's claim will be called; to be called before the group starts."""
    write_text(run_dir / CLAIM_FILE, claim_of(trainer))


def give_back_room(run_dir: Path) -> None:
    """Takes back what a group that has ended left of its room: its placement group and its claim, where they stand."""
    group, claim = run_dir / GROUP_FILE, run_dir / CLAIM_FILE
    if group.is_file():
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group.read_text()))))
        group.unlink(missing_ok=True)
    if claim.is_file():
        cancel_claim(claim.read_text())
        claim.unlink(missing_ok=True)


class RoomKeeper(Callback):
    """Gives back the room of trials that no longer run, however they were ended.

    Args:
        run_dir: Trial -> folder of its run.
    """

    def __init__(self, run_dir: Callable[[Trial], Path]):
        self._run_dir = run_dir
        self._running: set[Trial] = set()

    def on_step_end(self, iteration: int, trials: list[Trial], **info: object) -> None:
        """Looks at the trials that ran at the step before."""
        running = {trial for trial in trials if trial.status == Trial.RUNNING}
        for trial in self._running - running:
            give_back_room(self._run_dir(trial))
        self._running = running
