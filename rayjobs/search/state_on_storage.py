"""What the driver of a search exchanges with storage: its state goes there, what trials wrote comes from there.

Trials may run on other nodes, whose files the driver sees in storage alone.
"""

from __future__ import annotations

import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ray.tune import Callback

from mmcore.storage import patiently
from rayjobs.results_layout import CHECKPOINTS, COPY_FOLDER, RUNGS_FILE, STATE_FILE
from rayjobs.storage.mirror import Mirror

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

EVERY_S = 1.0
"""Between two states sent; a step of a search takes milliseconds, an object some tens of them."""
AGAIN_S = 10.0
"""Seconds before storage that is away is asked again; the search continues meanwhile."""


class RunPuller(Callback):
    """Pulls what a trial wrote when it ends, before anybody looks at it.

    Args:
        mirror: Where from.
        run_dir: Trial -> folder of its run.
        notify: Told, in words, when storage is away for longer than is waited.
    """

    def __init__(self, mirror: Mirror, run_dir: Callable[[Trial], Path], notify: Callable[[str], None]):
        self._mirror = mirror
        self._run_dir = run_dir
        self._notify = notify

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """Pulls; a search does not end where storage is away: what a trial reported, Tune has told its driver."""
        run_dir = self._run_dir(trial)
        try:
            self._mirror.pull(run_dir, without=(CHECKPOINTS,))
        except OSError as error:
            self._notify(
                f"storage is away ({error.strerror or error}): the search continues without what {run_dir.name} wrote; "
                "--resume, when storage is back, reads it"
            )

    on_trial_error = on_trial_complete
    on_trial_recover = on_trial_complete


class StatePusher(Callback):
    """Sends the intact copy of a search's state, and ASHA's rungs, whenever they changed.

    Args:
        mirror: Where to.
        folder: The search's folder.
        notify: Told, in words, when storage is away and when it is back.
        clock: Seconds, for tests.
    """

    def __init__(
        self,
        mirror: Mirror,
        folder: Path,
        notify: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._mirror = mirror
        self._folder = folder
        self._notify = notify
        self._clock = clock
        self._sent: list[tuple[str, int]] = []
        self._next = float("-inf")
        self._is_away = False

    def on_step_end(self, iteration: int, trials: list[Trial], **info: object) -> None:
        """Sends the state if it changed, but not at every step; a search does not stop where storage is away."""
        if self._clock() < self._next or self._look() == self._sent:
            return
        try:
            self._send()
        except OSError as error:
            self._next = self._clock() + AGAIN_S
            reason = error.strerror or error
            if not self._is_away:
                self._notify(f"storage is away ({reason}): the search continues, its state is sent later")
            self._is_away = True
            return
        self._next = self._clock() + EVERY_S
        if self._is_away:
            self._notify("storage is back: the search's state was sent")
        self._is_away = False

    def on_experiment_end(self, trials: list[Trial], **info: object) -> None:
        """Sends the last state; waits where storage is away."""
        if self._look() != self._sent:
            patiently(self._send)

    def _look(self) -> list[tuple[str, int]]:
        files = [*(self._folder / COPY_FOLDER).glob("*"), self._folder / RUNGS_FILE]
        return sorted((file.name, file.stat().st_mtime_ns) for file in files if file.is_file())

    def _send(self) -> None:
        """Sends the rungs first: as on a disk, they stand before anything follows from them."""
        found = self._look()
        if not (self._folder / COPY_FOLDER).is_dir():
            return
        self._mirror.push([file for file in (self._folder / RUNGS_FILE,) if file.is_file()])
        temporary = self._folder / f".{STATE_FILE}.tmp"
        with tarfile.open(temporary, "w") as archive:
            for file in sorted((self._folder / COPY_FOLDER).iterdir()):
                archive.add(file, file.name)
        temporary.replace(self._folder / STATE_FILE)
        self._mirror.push([self._folder / STATE_FILE])
        self._sent = found


def unpack_state(folder: Path, tune_folder: Path) -> None:
    """Puts the state that came from storage, if there is one, where Tune looks for it, and the copy beside it."""
    if (folder / STATE_FILE).is_file():
        with tarfile.open(folder / STATE_FILE) as archive:
            for target in (tune_folder, folder / COPY_FOLDER):
                archive.extractall(target, filter="data")
