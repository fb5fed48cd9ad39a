"""Where a run's teachers come from: its job names their runs, or they are trained first, in the run's own folder.

seed-0/teachers/image/    a run of `unimodal` with the run's own settings; resumes by itself, test is not read
seed-0/teachers/audio/    the next one
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mmcore import distributed
from mmcore.assembly.objects import needs_teachers, used_modalities
from mmcore.assembly.teachers import FrozenTeacher, build_teacher, read_teacher, teacher_config
from mmcore.config.schema import RunConfig
from mmcore.data.prepared.store import PreparedDataset
from mmcore.errors import TrainingError
from rayjobs.results_layout import RESULT_FILE, TEACHERS_FOLDER
from rayjobs.runs.extra_tests import NOTHING_MORE
from rayjobs.runs.job import Job
from rayjobs.runs.result import RunResult


def jobs_of_teachers(job: Job, config: RunConfig, prepared: PreparedDataset) -> dict[str, Job]:
    """Returns modality -> the job that trains its teacher for a run that nobody gave any; none where it needs none."""
    if job.teachers or not needs_teachers(config):
        return {}
    folder = Path(job.run_dir) / TEACHERS_FOLDER
    nothing: dict[str, Any] = {"test": False, "extra": NOTHING_MORE, "alone": {}, "schedule": (), "snapshot_every": 0}
    return {
        name: replace(job, config=teacher_config(config, name).to_dict(), run_dir=str(folder / name), **nothing)
        for name in used_modalities(config, prepared.spec)
    }


def load_teachers(
    job: Job, config: RunConfig, prepared: PreparedDataset, device: torch.device
) -> dict[str, FrozenTeacher]:
    """Returns modality -> teacher of a run; none where its method needs none. A collective: the first rank reads.

    Raises:
        EquipoiseError: A teacher was not trained to its end, cannot be read, or is none for this run.
    """
    if not needs_teachers(config):
        return {}
    folders = {
        name: Path(job.teachers[name]) for name in used_modalities(config, prepared.spec) if name in job.teachers
    }
    states = _on_all_ranks(lambda: {name: _read(job, name, folder) for name, folder in folders.items()})
    return {name: build_teacher(state, name, config, prepared.spec, device) for name, state in states.items()}


def with_teachers(result: RunResult, job: Job) -> RunResult:
    """Returns a run's result that says who taught it; what its own teachers cost is a part of what it cost."""
    if not job.teachers:
        return result
    own = [Path(folder) for folder in job.teachers.values() if _is_own(job, Path(folder))]
    spent = sum(found.device_seconds for folder in own if (found := RunResult.read(folder / RESULT_FILE)))
    total = result.device_seconds + spent
    said = [f"its teachers ({', '.join(job.teachers)}) were trained first, for {spent:.3g} of its {total:.3g} "
            "device-seconds"] if own else []  # fmt: skip
    notices = [*result.notices, *said]
    return replace(result, teachers=dict(job.teachers), device_seconds=total, notices=notices)


def _read(job: Job, modality: str, folder: Path) -> dict[str, Any]:
    if not _is_own(job, folder):
        job.mirror.pull(folder)
    if RunResult.read(folder / RESULT_FILE) is None:
        raise TrainingError(f"the teacher of {modality}, {folder}, was not trained to its end")
    return read_teacher(folder)


def _is_own(job: Job, folder: Path) -> bool:
    return folder.is_relative_to(job.run_dir)


def _on_all_ranks(read: Callable[[], dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Returns what the first rank reads, on every rank; what it raises is raised on all."""
    found: dict[str, dict[str, Any]] | Exception = {}
    if distributed.rank() == 0:
        try:
            found = read()
        except Exception as error:  # noqa: BLE001 - the other ranks wait for its word
            found = error
    found = distributed.broadcast_object(found)
    if isinstance(found, Exception):
        raise found
    return found
