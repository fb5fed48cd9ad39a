"""A search survives the death of its driver: an intact copy of its state, and a check before it is used.

Tune writes its state files in place and copies them without renaming, so a killed driver can leave one half-written.
From such a file Tune starts the search again from nothing, or hangs. The copy kept here is renamed into place.
"""

from __future__ import annotations

import fnmatch
import pickle
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ray.tune import Callback

from rayjobs.ray_internals.tune_state import EXPERIMENT, GENERATOR, SEARCHER, STATE_PATTERNS, staging_folder, trials_in
from rayjobs.results_layout import COPY_FOLDER

if TYPE_CHECKING:
    from ray.tune.experiment import Trial


class StateKeeper(Callback):
    """Keeps an intact copy of the search's state.

    Args:
        folder: Where the copy is put. Not in Tune's own folder: a restored experiment copies what it finds there
            back over it for as long as it runs.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._seen: dict[str, tuple[int, int]] = {}
        self._listed = 0
        self._files: list[Path] = []

    def on_step_end(self, iteration: int, trials: list[Trial], **info: object) -> None:
        """Copies the state Tune has just written in this process, if it changed."""
        staged = staging_folder(trials)
        if staged is not None:
            self.keep(staged)

    def on_experiment_end(self, trials: list[Trial], **info: object) -> None:
        """Copies the last state."""
        self.on_step_end(0, trials)

    def keep(self, staged: Path) -> None:
        """Copies the state files in `staged`, written by this process and therefore whole."""
        changed = staged.stat().st_mtime_ns if staged.is_dir() else 0
        if changed != self._listed:  # the trials' folders are in it too: with hundreds, to list it takes a while
            self._listed, self._files = changed, state_files(staged)
        files = self._files
        seen = {file.name: (file.stat().st_mtime_ns, file.stat().st_size) for file in files}
        if not files or seen == self._seen:
            return
        # What a killed driver left half-copied is removed, never added to.
        temporary = self._folder / f".{COPY_FOLDER}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for file in files:
            shutil.copyfile(file, temporary / file.name)
        old = self._folder / f".{COPY_FOLDER}.old"
        copy = self._folder / COPY_FOLDER
        shutil.rmtree(old, ignore_errors=True)
        # A folder cannot replace one that is not empty, so the old copy steps aside first. After a kill between the two
        # renames it is still whole under its second name, which `prepare_restore` looks for too.
        if copy.exists():
            copy.rename(old)
        temporary.rename(copy)
        shutil.rmtree(old, ignore_errors=True)
        self._seen = seen


def state_files(folder: Path) -> list[Path]:
    """Returns the newest state file of each kind in `folder`."""
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    return [folder / name for pattern in STATE_PATTERNS for name in fnmatch.filter(names, pattern)[-1:]]


def prepare_restore(folder: Path, keeper_folder: Path) -> tuple[bool, list[str]]:
    """Makes the state in `folder` fit to be restored: damaged files are replaced by those of the copy.

    Args:
        folder: Tune's folder of the experiment.
        keeper_folder: The `StateKeeper`'s.

    Returns:
        Whether there is a state to restore, and messages on what was replaced. Without one (the search was
        killed before its first trial) it starts anew.
    """
    problems = check_state(folder)
    if not problems:
        return True, []
    for name in (COPY_FOLDER, f".{COPY_FOLDER}.old"):
        copy = keeper_folder / name
        if not check_state(copy):
            # The names hold a time, and the newest counts: a damaged file that stayed could win over the copy's.
            for pattern in STATE_PATTERNS:
                for stale in folder.glob(pattern):
                    stale.unlink()
            for file in state_files(copy):
                shutil.copyfile(file, folder / file.name)
            return True, [f"{'; '.join(problems)}: resumed from the intact copy"]
    return False, []


def check_state(folder: Path) -> list[str]:
    """Returns what is wrong with the state files in `folder`; nothing if they can be restored."""
    states, searchers = sorted(folder.glob(EXPERIMENT)), sorted(folder.glob(SEARCHER))
    if not states or not searchers:
        return [f"{folder} holds no state of a search"]
    problems = []
    try:
        if not trials_in(states[-1]):
            problems.append(f"{states[-1].name} holds no trial")
    except (ValueError, KeyError, OSError) as error:
        problems.append(f"{states[-1].name} is damaged ({error})")
    # Only loading shows whether a pickle is whole: a cut one may end anywhere.
    for path in searchers[-1:] + sorted(folder.glob(GENERATOR))[-1:]:
        try:
            with path.open("rb") as file:
                pickle.load(file)  # noqa: S301 - written by this user's own search
        except Exception as error:  # noqa: BLE001 - a damaged pickle raises anything
            problems.append(f"{path.name} is damaged ({error})")
    return problems


def known_trials(folder: Path) -> set[str]:
    """Returns the names of the trials in the state in `folder`."""
    return {name for name in trials_in(max(folder.glob(EXPERIMENT))) if name}


def set_aside_unknown(search_folder: Path, known: set[str]) -> list[str]:
    """Renames trial folders the restored state knows nothing of: its next trials would take their names."""
    moved = []
    for path in sorted(search_folder.glob("trial-[0-9]*")):
        if path.is_dir() and path.name not in known and path.suffix == "":
            path.rename(path.with_name(f"{path.name}.set-aside"))
            moved.append(path.name)
    return moved
