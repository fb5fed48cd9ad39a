"""How a trial continues from another one's checkpoint: what population-based training keeps in the trials' folders.

    trial-002/snapshots/epoch-000007/   as the trial stood at that epoch: checkpoints (hard links) and its summary
    trial-005/handed-over/              the same, put here by the driver, and the schedule; taken over at the next start
    trial-005/schedule.json             the settings the weights in this folder were trained with, epoch by epoch

A hand-over becomes visible by one rename and is taken over by steps that may be repeated: a kill between any two of
them loses nothing.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from mmcore.assembly.config import with_values
from mmcore.config.plain import Settings
from mmcore.config.schema import RunConfig
from mmcore.errors import CheckpointError
from mmcore.storage import patiently
from rayjobs.results_layout import CHECKPOINTS, HANDED_OVER, PROGRESS_FILE, SCHEDULE_FILE, SNAPSHOTS
from rayjobs.storage.files import read_json, write_json
from rayjobs.storage.json_record import JsonRecord

NUM_KEPT = 2
"""Snapshots of a trial: a worker group may be an epoch ahead of what was decided on."""


@dataclass(frozen=True)
class Segment(JsonRecord):
    """A part of a run with settings of its own.

    Attributes:
        epoch: Finished epochs when it begins.
        values: Path -> searched value.
        source: The trial whose weights it began with; "" for a run's own first ones.
    """

    epoch: int
    values: Settings
    source: str = ""


Schedule = tuple[Segment, ...]


def read_schedule(run_dir: Path) -> Schedule:
    """Returns a run's schedule; empty where its settings never changed."""
    return tuple(Segment.from_dict(segment) for segment in read_json(run_dir / SCHEDULE_FILE, list) or [])


def parts_of(config: RunConfig, schedule: Schedule) -> list[tuple[RunConfig, int | None]]:
    """Returns each part's configuration and the epoch it ends at (None: the last one); without a schedule the whole."""
    if not schedule:
        return [(config, None)]
    ends = [*(segment.epoch for segment in schedule[1:]), None]
    return [(with_values(config, segment.values), end) for segment, end in zip(schedule, ends, strict=True)]


def keep_snapshot(run_dir: Path, epoch: int) -> None:
    """Keeps a run as it stands at the end of an epoch, before it continues; called by rank 0.

    Raises:
        CheckpointError: The run has checkpoints, but not that epoch's.
    """
    folder = run_dir / SNAPSHOTS / f"epoch-{epoch:06d}"
    patiently(lambda: _copy(run_dir, folder), folder)
    for stale in sorted(folder.parent.glob("epoch-*"))[:-NUM_KEPT]:
        shutil.rmtree(stale, ignore_errors=True)


def _copy(run_dir: Path, folder: Path) -> None:
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    checkpoints = run_dir / CHECKPOINTS
    if checkpoints.is_dir():
        if not (checkpoints / folder.name).is_dir():
            raise CheckpointError(f"{checkpoints} holds no {folder.name}: no other trial could resume from it")
        for path in (checkpoints / folder.name, *checkpoints.glob("best-*")):
            _link_tree(path, temporary / CHECKPOINTS / path.name)
    shutil.copyfile(run_dir / PROGRESS_FILE, temporary / PROGRESS_FILE)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def drop_snapshots(folder: Path) -> None:
    """Removes the snapshots of all trials in a search's folder: they keep deleted checkpoints on the disk."""
    for path in folder.glob(f"*/{SNAPSHOTS}"):
        shutil.rmtree(path, ignore_errors=True)


def hand_over(source: Path, target: Path, epoch: int, before: Settings, values: Settings) -> None:
    """Makes the run in `target` continue, when it starts the next time, from where `source` stood at an epoch.

    Args:
        source: Folder of the trial to continue from.
        target: Folder of the trial whose own weights are given up.
        epoch: At which the source's snapshot was taken.
        before: The source's settings.
        values: Settings to continue with.
    """
    temporary = target / f".{HANDED_OVER}.tmp"
    snapshot = source / SNAPSHOTS / f"epoch-{epoch:06d}"

    def copy() -> None:
        shutil.rmtree(temporary, ignore_errors=True)
        _link_tree(snapshot, temporary)

    patiently(copy, target)
    so_far = read_schedule(source) or (Segment(0, dict(before)),)
    schedule = (*so_far, Segment(epoch, dict(values), source.name))
    write_json(temporary / SCHEDULE_FILE, [segment.to_dict() for segment in schedule])
    shutil.rmtree(target / HANDED_OVER, ignore_errors=True)
    temporary.rename(target / HANDED_OVER)


def take_over(run_dir: Path) -> None:
    """Puts what was handed over in the place of the run's own checkpoints; does nothing where there is none.

    The seconds spent stay the run's own: they were spent, whatever became of the weights.
    """
    handed = run_dir / HANDED_OVER
    if not handed.is_dir():
        return
    if (handed / CHECKPOINTS).is_dir():
        shutil.rmtree(run_dir / CHECKPOINTS, ignore_errors=True)
        (handed / CHECKPOINTS).rename(run_dir / CHECKPOINTS)
    if theirs := read_json(handed / PROGRESS_FILE):
        own = read_json(run_dir / PROGRESS_FILE) or {}
        write_json(run_dir / PROGRESS_FILE, {**theirs, "device_seconds": own.get("device_seconds", 0.0)})
    if (handed / SCHEDULE_FILE).is_file():
        (handed / SCHEDULE_FILE).replace(run_dir / SCHEDULE_FILE)
    shutil.rmtree(handed)


def _link_tree(source: Path, target: Path) -> None:
    """Copies a folder by hard links where the storage has them; checkpoints are replaced, never written again."""
    # Not by `shutil.copytree`, whose error has no number: a full disk could not be told from a damaged one.
    target.mkdir(parents=True)
    for path in sorted(source.rglob("*")):  # a folder before what is in it
        if path.is_dir():
            (target / path.relative_to(source)).mkdir()
        else:
            _link(path, target / path.relative_to(source))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
