"""What a search and its final models leave in an experiment's folder, and what that says about what is left to do."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from mmcore.assembly.config import parse_config, with_values
from mmcore.config.plain import Plain
from mmcore.errors import CheckpointError
from mmcore.storage import patiently
from rayjobs.experiment.experiment import Experiment
from rayjobs.experiment.plan import Plan
from rayjobs.experiment.search_result import SearchResult, drop_checkpoints, read_search
from rayjobs.experiment.unimodal_references import searched_accuracies
from rayjobs.feeding.handle import DataHandle
from rayjobs.results_layout import EXPERIMENT_FILE, PLAN_FILE, RANKING_FILE, SEARCH_FILE, final_name
from rayjobs.runs.job import Job
from rayjobs.runs.result import read_result
from rayjobs.search.outcome import Outcome, succeeded
from rayjobs.search.searches import Search
from rayjobs.search.teachers import folder_of, teachers_of
from rayjobs.storage.files import json_or_set_aside, write_json, write_text
from rayjobs.trials.failures import failure_reason


def keep_plan(plan: Plan, experiment: Experiment) -> None:
    """Writes what each search is, or compares it with what it was when it was started.

    Raises:
        CheckpointError: The data or the search space changed since.
    """
    for search in plan.searches:
        path = experiment.folder / search.name / PLAN_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        content = json.loads(json.dumps({**search.to_dict(), "data_fingerprint": plan.prepared.fingerprint}))
        stored = json_or_set_aside(path)
        if stored is None:
            write_json(path, content)
        elif stored != content:
            changed = ", ".join(key for key in content if stored.get(key) != content[key])
            raise CheckpointError(
                f"{search.name} was started with another {changed} (kept in {path}): old and new trials cannot be "
                "compared; undo the change, or start a new experiment without --resume"
            )


def share(experiment: Experiment) -> None:
    """Sends what a command itself wrote of an experiment to its twin, if there is one."""
    if not experiment.mirror:
        return
    names = (EXPERIMENT_FILE, RANKING_FILE, "best-*.yaml", PLAN_FILE, SEARCH_FILE)
    places = ("", "*/", "*/fold-*/", "*/part-*/", "*/fold-*/part-*/")
    files = [file for place in places for name in names for file in experiment.folder.glob(place + name)]
    patiently(lambda: experiment.mirror.push(files))


def is_finished(plan: Plan, experiment: Experiment) -> bool:
    """Tells whether every search of a data set and every final model was finished by an earlier command."""
    rows = itertools.product(plan.labels, plan.folds)
    run_dirs = [run_dir for row in rows for run_dir in final_dirs(plan, experiment, *row)]
    # All are read, so that one command says of every damaged file that it is made again.
    searched = [read_search(experiment.folder / search.name) is not None for search in plan.searches]
    return all([*searched, *(read_result(run_dir) is not None for run_dir in run_dirs)])


def final_dirs(plan: Plan, experiment: Experiment, label: str, fold: int | None) -> list[Path]:
    """Returns the folders of a row's final models on a fold, one per seed."""
    folder = experiment.folder / replace(plan.searches_of(label, fold)[0], fold=fold).row_name
    return [folder / final_name(number) for number in range(1, experiment.request.final_seeds + 1)]


def teacher_dirs(search: Search, fold: int | None, plan: Plan, experiment: Experiment) -> dict[str, Path]:
    """Returns modality -> folder of the final model that teaches a search's runs on a fold, if they learn from any."""
    found = teachers_of(search, fold, plan.searches)
    return {name: (experiment.folder / folder_of(teacher)).resolve() for name, teacher in found.items()}


def lacking_teacher(search: Search, fold: int | None, plan: Plan, experiment: Experiment) -> str:
    """Returns which of a search's teachers on a fold was not trained, and why; "" where all are there."""
    for name, run_dir in teacher_dirs(search, fold, plan, experiment).items():
        if read_result(run_dir) is None:
            why = failure_reason(run_dir) if run_dir.exists() else "it was never begun"
            where = run_dir.relative_to(experiment.folder.resolve())
            return f"it learns from a model of {name} alone, and {where} was not trained: {why}"
    return ""


def save_search(folder: Path, search: Search, outcomes: Sequence[Outcome], experiment: Experiment) -> None:
    """Writes a finished search and, as a file of its own, its best configuration; drops checkpoints of no more use."""
    best = max(succeeded(outcomes), key=lambda outcome: (outcome.objective, -outcome.objective_loss), default=None)
    config = with_values(search.config, best.values).to_dict() if best else None
    at_once = experiment.per_search if search.depends_on_timing(experiment.per_search) else None
    result = SearchResult(label=search.label, trials=list(outcomes), best=best, config=config, at_once=at_once)
    write_json(folder / SEARCH_FILE, result.to_dict())
    if config:
        write_text(best_file(search, experiment), yaml.safe_dump(config, sort_keys=False))
    # Last: a search whose file stands is not searched again, whatever becomes of its trials' checkpoints.
    with contextlib.suppress(OSError):  # storage that is away keeps them: `rayjobs.clean` removes them
        drop_checkpoints(folder, result, experiment.keep, experiment.mirror)


def best_file(search: Search, experiment: Experiment) -> Path:
    """Returns the file of a search's best configuration, which `rayjobs.train --config` takes."""
    return experiment.folder / f"best-{search.name.replace('/', '-')}.yaml"


def final_jobs(plan: Plan, label: str, fold: int | None, data: DataHandle, experiment: Experiment) -> list[Job]:
    """Returns a job for each fresh seed of a row on a fold; none where a search of it found no configuration."""
    searches = plan.searches_of(label, fold)
    found = [read_search(experiment.folder / search.name) for search in searches]
    best = [entry for entry in found if entry and entry.config and entry.best]
    if len(best) < len(searches):
        return []
    alone = searched_accuracies(plan, experiment, fold)
    teachers = {name: str(path) for name, path in teacher_dirs(searches[0], fold, plan, experiment).items()}
    jobs = [
        _final_job(searches, best, fold, number, run_dir, data=data, experiment=experiment)
        for number, run_dir in enumerate(final_dirs(plan, experiment, label, fold), start=1)
    ]
    return [replace(job, alone=alone, teachers=teachers) for job in jobs]


def _final_job(
    searches: Sequence[Search],
    best: Sequence[SearchResult],
    fold: int | None,
    number: int,
    run_dir: Path,
    *,
    data: DataHandle,
    experiment: Experiment,
) -> Job:
    values: dict[str, Plain] = {} if fold is None else {"protocol.fold": fold}
    values["seed"] = experiment.request.seed + number
    configs = [with_values(parse_config(entry.config or {}), values).to_dict() for entry in best]
    parts = {search.part: config for search, config in zip(searches, configs, strict=True) if search.part}
    return Job(
        configs[0],
        data,
        str(run_dir.resolve()),
        home=str(experiment.folder.resolve()),
        test=True,
        command=experiment.command,
        schedule=(best[0].best.schedule if best[0].best and not parts else ()),
        mirror=experiment.mirror,
        parts=parts,
    )
