"""Checkpoints: one file beside a manifest with its checksum, written whole or not at all.

    checkpoints/epoch-000003/checkpoint.pt    loadable with torch.load(weights_only=True)
    checkpoints/epoch-000003/manifest.json    format version, size, sha256, epoch, step
    checkpoints/best-000002/...               the same, weights and structure only

The number counts finished epochs. A directory is written under a temporary name, synced and renamed; an older one
is deleted only after the newer stands. Loading goes back to the newest *valid* one.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmcore.config.sections import minutes_of
from mmcore.errors import CheckpointError
from mmcore.storage import WholeWriter, check_folder, patiently, sha256, write_synced

FORMAT_VERSION = 1
WEIGHTS_FILE = "checkpoint.pt"
MANIFEST_FILE = "manifest.json"
AUTO = "auto"
MOST_SHARE = 0.05
"""Seconds of writing per second of training: what `auto` keeps to."""
MOST_EPOCHS_APART = 10
"""What a kill may repeat under `auto`, however slow the storage is."""


def save_checkpoint(directory: Path, state: dict[str, Any]) -> None:
    """Writes `state` as the checkpoint `directory`; a valid one of that name stays (it is of the same run and epoch).

    Args:
        directory: Where the checkpoint shall be; the folder of all of them is made, the run's must be there.
        state: Tensors and plain values only; must hold "epoch" and "step".

    Raises:
        OSError: It could not be written, after some minutes of waiting where storage was full or away.
    """

    def write() -> None:
        if not is_valid(directory):
            _write(directory, state)

    patiently(write, directory)


def _write(directory: Path, state: dict[str, Any]) -> None:
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
    check_folder(directory.parent)
    shutil.rmtree(temporary, ignore_errors=True)
    directory.parent.mkdir(exist_ok=True)
    temporary.mkdir()
    try:
        _write_files(temporary, state)
        _replace_directory(temporary, directory)
    except Exception:  # half a checkpoint would take the space that is waited for
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_files(folder: Path, state: dict[str, Any]) -> None:
    weights = folder / WEIGHTS_FILE
    with weights.open("wb", buffering=0) as file:
        writer = WholeWriter(file)
        torch.save({**state, "format_version": FORMAT_VERSION}, writer)  # type: ignore[arg-type]  # it only writes
        writer.end(synced=True)
    manifest = {
        "format_version": FORMAT_VERSION,
        "epoch": state["epoch"],
        "step": state["step"],
        "bytes": weights.stat().st_size,
        "sha256": sha256(weights),
    }
    write_synced(folder / MANIFEST_FILE, json.dumps(manifest).encode())


def load_checkpoint(directory: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads a checkpoint back.

    Raises:
        CheckpointError: It is missing, truncated, changed since it was written or of another format version.
    """
    _check(directory)
    state: dict[str, Any] = torch.load(directory / WEIGHTS_FILE, map_location=device, weights_only=True)
    return state


def is_valid(directory: Path) -> bool:
    """Tells whether `directory` holds a checkpoint that can be read."""
    try:
        _check(directory)
    except CheckpointError:
        return False
    return True


def _check(directory: Path) -> None:
    manifest_path, weights = directory / MANIFEST_FILE, directory / WEIGHTS_FILE
    for path in (manifest_path, weights):
        if not path.is_file():
            raise CheckpointError(f"checkpoint {directory}: {path.name} is missing")
    try:
        manifest = json.loads(manifest_path.read_text())
        version, size, checksum = manifest["format_version"], manifest["bytes"], manifest["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {directory}: {MANIFEST_FILE} is damaged ({error})") from None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint {directory} has format version {version}, this release reads {FORMAT_VERSION}: "
            "resume it with the release that wrote it, or start the run anew"
        )
    if weights.stat().st_size != size:
        raise CheckpointError(f"checkpoint {directory}: {weights.stat().st_size} bytes instead of {size} (truncated)")
    if sha256(weights) != checksum:
        raise CheckpointError(f"checkpoint {directory}: the checksum of {WEIGHTS_FILE} does not agree (damaged)")


@dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints of one run.

    Attributes:
        path: The folder that holds them.
        keep: Resume points kept; the newest ones.
    """

    path: Path
    keep: int = 2

    def save(self, state: dict[str, Any]) -> Path:
        """Writes a resume point and deletes those older than the newest `keep`."""
        suffix = f"-step-{state['step']:09d}" if state["mid_epoch"] else ""
        return self._save(f"epoch-{state['epoch']:06d}{suffix}", "epoch-*", self.keep, state)

    def save_best(self, state: dict[str, Any]) -> Path:
        """Writes the best model so far and deletes the one before."""
        return self._save(f"best-{state['epoch']:06d}", "best-*", 1, state)

    def newest_resume_point(self, device: torch.device | str = "cpu") -> tuple[dict[str, Any] | None, list[str]]:
        """Returns the newest resume point that can be read (None: there is none) and why newer ones could not."""
        return self._newest("epoch-*", device)

    def best(self, device: torch.device | str = "cpu") -> dict[str, Any]:
        """Returns the best model.

        Raises:
            CheckpointError: There is none that can be read.
        """
        state, refused = self._newest("best-*", device)
        if state is None:
            if refused:
                raise CheckpointError(f"{'; '.join(refused)}: the best model can only be made by training anew")
            raise CheckpointError(f"{self.path} holds no best model: has the run ended an epoch?")
        return state

    def selected(self, select: str, device: torch.device | str = "cpu") -> dict[str, Any]:
        """Returns the model that a run is tested by.

        Args:
            select: "best" or "last".
            device: Where its tensors go.

        Raises:
            CheckpointError: There is none that can be read.
        """
        if select == "best":
            return self.best(device)
        state, refused = self.newest_resume_point(device)
        if state is None:
            raise CheckpointError("; ".join(refused) or "there is no checkpoint yet")
        return state

    def _save(self, name: str, pattern: str, keep: int, state: dict[str, Any]) -> Path:
        for leftover in self.path.glob(".*.tmp"):  # of a process that was killed while it wrote
            shutil.rmtree(leftover, ignore_errors=True)
        save_checkpoint(self.path / name, state)
        for stale in self._newest_first(pattern)[keep:]:
            shutil.rmtree(stale, ignore_errors=True)
        return self.path / name

    def _newest_first(self, pattern: str) -> list[Path]:
        return sorted((path for path in self.path.glob(pattern) if path.is_dir()), reverse=True)

    def _newest(self, pattern: str, device: torch.device | str) -> tuple[dict[str, Any] | None, list[str]]:
        refused: list[str] = []
        for path in self._newest_first(pattern):
            try:
                return load_checkpoint(path, device), refused
            except CheckpointError as error:
                refused.append(str(error))
        return None, refused


class Spacing:
    """Decides after which epochs a process writes a resume point; times are of this process alone.

        3        every third epoch
        10m      the first epoch to end ten minutes after the last resume point, or after the process began
        auto     every epoch, as long as all writing takes less than a twentieth of the training; at least every tenth

    The last epoch of a run is always due, which is the trainer's matter.

    Args:
        every: `trainer.checkpoint_every`.
        always_every: Every so many epochs one is due in any case; 0: never.
        clock: Seconds that never go back.
    """

    def __init__(self, every: int | str, always_every: int = 0, clock: Callable[[], float] = time.monotonic):
        self._every = every
        self._always_every = always_every
        self._clock = clock
        self._training_s = self._writing_s = 0.0
        self.written(0)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Counts the time of a `with` block as spent on writing."""
        start = self._clock()
        try:
            yield
        finally:
            self.spent(self._clock() - start)

    def spent(self, seconds: float) -> None:
        """Counts seconds as spent on writing, or on sending what was written."""
        self._writing_s += seconds

    def trained(self, seconds: float) -> None:
        """Counts the seconds of an epoch, its validation included."""
        self._training_s += seconds

    def written(self, epoch: int) -> None:
        """Notes that there is a resume point at the end of an epoch (0: the beginning)."""
        self._last_epoch, self._last_time = epoch, self._clock()

    def is_due(self, epoch: int) -> bool:
        """Tells whether one is written at the end of an epoch (from 1)."""
        if self._always_every and epoch % self._always_every == 0:
            return True
        if isinstance(self._every, int):
            return epoch % self._every == 0
        if self._every == AUTO:
            is_cheap = self._writing_s <= MOST_SHARE * self._training_s
            return is_cheap or epoch - self._last_epoch >= MOST_EPOCHS_APART
        return self._clock() - self._last_time >= 60 * minutes_of(self._every)


def _replace_directory(temporary: Path, directory: Path) -> None:
    """Renames `temporary` to `directory`; what stood there was not valid."""
    shutil.rmtree(directory, ignore_errors=True)
    temporary.rename(directory)
    _sync_directory(directory.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
