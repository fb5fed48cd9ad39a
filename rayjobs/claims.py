"""What a worker group claims of the cluster's room, and how it is given back.

Ray deals the room out among worker groups by their claims, the oldest first, and an elastic group takes no more workers
than its claim was given. A group that is ended from outside (its trial stopped early, paused, killed) leaves its claim
standing for three minutes, in which whoever comes after it would wait for room that is free.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

GROUP_FILE = "placement_group"
"""Names the placement group of a worker group that has started, for as long as it may stand."""
CLAIM_FILE = "claim"
"""Names a run's claim, for as long as it may stand."""
COORDINATOR = "AutoscalingCoordinator"
"""Name and namespace of the actor that deals the room out."""


def note_claim(run_dir: Path, trainer: TorchTrainer) -> None:
    """Writes down what a group's claim will be called; to be called before the group starts."""
    context = trainer.train_run_context  # type: ignore[attr-defined]  # of the older trainer, which mypy sees
    (run_dir / CLAIM_FILE).write_text(f"train-{context.run_id}")


def give_back_claim(run_dir: Path) -> None:
    """Takes back what is left of the claim of a group that has ended; does nothing where it left none."""
    path = run_dir / CLAIM_FILE
    if not path.is_file():
        return
    try:
        coordinator: Any = ray.get_actor(COORDINATOR, namespace=COORDINATOR)
    except ValueError:  # another Ray, which knows nothing of it
        pass
    else:
        coordinator.cancel_request.remote(path.read_text())
    path.unlink(missing_ok=True)


class ClaimKeeper(Callback):
    """Gives back the claims of trials that no longer run, however they were ended.

    Args:
        run_dir: Trial -> folder of its run.
    """

    def __init__(self, run_dir: Callable[[Trial], Path]):
        self._run_dir = run_dir
        self._running: set[Trial] = set()

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Looks at the trials that ran at the step before."""
        running = {trial for trial in trials if trial.status == Trial.RUNNING}
        for trial in self._running - running:
            give_back_claim(self._run_dir(trial))
        self._running = running
