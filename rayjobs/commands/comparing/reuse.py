"""Takes cells from other studies, and goes on from a study's own earlier ones: nothing is trained twice."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmcore.errors import DataError, UsageError
from mmcore.training.trainer import completed
from rayjobs.commands.comparing.planning import StudyPlan
from rayjobs.experiment.plan import Plan
from rayjobs.results_layout import CELL_FILE, CELLS, CHECKPOINTS, PLAN_FILE, SEARCH_FILE, STUDY_FILE, SUPERSEDED
from rayjobs.runs.job import Job
from rayjobs.runs.result import read_result
from rayjobs.search.searches import Search
from rayjobs.storage.files import json_or_set_aside
from rayjobs.storage.mirror import NO_MIRROR, Mirror
from rayjobs.study.cell import Cell
from rayjobs.study.results import load_cell


def take_cells(plan: StudyPlan) -> int:
    """Copies finished cells of the studies named by `use` that are the same as this one's; returns how many.

    Raises:
        UsageError: What is named is no study.
    """
    check_use(plan.study.use)
    wanted = {cell.identity: cell for cell in plan.cells}
    taken = 0
    for name in plan.study.use:
        for path in sorted((Path(name) / CELLS).rglob(CELL_FILE)):
            there = _cell_of_another(path)
            if there is None or there.identity not in wanted:
                continue
            folder = wanted[there.identity].folder(plan.folder)
            if folder.exists() or load_cell(path.parent, there, plan.study.seeds).status != "done":
                continue
            _copy(path.parent, folder)
            taken += 1
    return taken


def check_use(studies: Sequence[str]) -> None:
    """Raises a UsageError where one of the folders that cells are taken from holds no study."""
    for name in studies:
        if not (Path(name) / STUDY_FILE).is_file():
            raise UsageError(f"use: {name} holds no study ({STUDY_FILE} is missing)")


def _cell_of_another(path: Path) -> Cell | None:
    """Returns a cell of another study; one that is damaged there is none, and that is said."""
    try:
        return Cell.read(path)
    except DataError as error:
        logging.getLogger(__name__).warning("%s; it is not taken", error)
        return None


def _copy(source: Path, folder: Path) -> None:
    """Copies a cell, whole or not at all; its trials' checkpoints stay where they are."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, partial, ignore=_of_no_use)
    partial.rename(folder)


def _of_no_use(folder: str, names: list[str]) -> list[str]:
    """Returns what of a cell another study has no use for; final models may be teachers, so they stay whole."""
    is_trial = Path(folder).name.startswith("trial-")
    return [name for name in names if name == SUPERSEDED or (name == CHECKPOINTS and is_trial)]


def extend_searches(plans: Sequence[Plan], experiment_folder: Path, mirror: Mirror = NO_MIRROR) -> None:
    """Lets searches that were begun with fewer trials go on: what they tried stays, and the same seed tries more.

    A search that is wanted with fewer trials than it was begun with is refused where it is compared with its plan.

    Raises:
        UsageError: The study lies on object storage, where the shorter search's result would stay, and be taken for it.
    """
    for plan in plans:
        for search in plan.searches:
            folder = experiment_folder / search.name
            stored = json_or_set_aside(folder / PLAN_FILE)
            if stored is not None and _has_fewer(stored, search):
                if mirror:
                    raise UsageError(
                        f"{search.name} was begun with {stored['trials']} trials, and on object storage a search "
                        f"cannot go on to {search.trials}: put trials back in study.yaml, or begin a new study"
                    )
                # The finished search goes first: with the old plan and no result it is merely one to be resumed.
                (folder / SEARCH_FILE).unlink(missing_ok=True)
                (folder / PLAN_FILE).unlink()


def _has_fewer(stored: dict[str, Any], search: Search) -> bool:
    wanted = search.to_dict()
    others = {key: value for key, value in stored.items() if key not in {"trials", "data_fingerprint"}}
    same = all(wanted.get(key) == value for key, value in others.items())
    return same and isinstance(stored.get("trials"), int) and stored["trials"] < wanted["trials"]


def supersede(jobs: Sequence[Job]) -> None:
    """Sets final models aside whose configuration is not the search's best any more; the new ones take their names."""
    for job in jobs:
        run_dir = Path(job.run_dir)
        result = read_result(run_dir)
        if result is None or completed(dict(result.config)) == job.config:
            continue
        old = run_dir.parent / SUPERSEDED
        old.mkdir(exist_ok=True)
        number = 1 + len(list(old.glob(f"{run_dir.name}-*")))
        aside = old / f"{run_dir.name}-{number}"
        job.mirror.rename(run_dir, aside)
        run_dir.rename(aside)
