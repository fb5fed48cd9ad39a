"""What a search and its final models leave in an experiment's folder, and what that says about what is left to do."""

from __future__ import annotations

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
from rayjobs.experiment.search_result import SearchResult, read_search
from rayjobs.experiment.unimodal_references import searched_accuracies
from rayjobs.feeding.handle import DataHandle
from rayjobs.results_layout import EXPERIMENT_FILE, PLAN_FILE, RANKING_FILE, RESULT_FILE, SEARCH_FILE
from rayjobs.runs.job import Job
from rayjobs.search.outcome import Outcome, succeeded
from rayjobs.search.searches import Search
from rayjobs.storage.files import read_json, write_json, write_text


def keep_plan(plan: Plan, experiment: Experiment) -> None:
    """Writes what each search is, or compares it with what it was when it was started.

    Raises:
        CheckpointError: The data or the search space changed since.
    """
    for search in plan.searches:
        path = experiment.folder / search.name / PLAN_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        content = json.loads(json.dumps({**search.to_dict(), "data_fingerprint": plan.prepared.fingerprint}))
        stored = read_json(path)
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
    places = ("", "*/", "*/fold-*/")
    files = [file for place in places for name in names for file in experiment.folder.glob(place + name)]
    patiently(lambda: experiment.mirror.push(files))


def is_finished(plan: Plan, experiment: Experiment) -> bool:
    """Tells whether every search of a data set and every final model was finished by an earlier command."""
    files = [experiment.folder / search.name / SEARCH_FILE for search in plan.searches]
    rows = itertools.product(plan.labels, plan.folds)
    files += [run_dir / RESULT_FILE for row in rows for run_dir in final_dirs(plan, experiment, *row)]
    return all(read_json(file) for file in files)


def final_dirs(plan: Plan, experiment: Experiment, label: str, fold: int | None) -> list[Path]:
    """Returns the folders of a row's final models on a fold, one per seed."""
    folder = experiment.folder / replace(plan.search_of(label, fold), fold=fold).name
    return [folder / f"final-{number}" for number in range(1, experiment.request.final_seeds + 1)]


def save_search(folder: Path, search: Search, outcomes: Sequence[Outcome], experiment: Experiment) -> None:
    """Writes a finished search and, as a file of its own, its best configuration."""
    best = max(succeeded(outcomes), key=lambda outcome: (outcome.objective, -outcome.objective_loss), default=None)
    config = with_values(search.config, best.values).to_dict() if best else None
    at_once = experiment.per_search if search.depends_on_timing(experiment.per_search) else None
    result = SearchResult(label=search.label, trials=list(outcomes), best=best, config=config, at_once=at_once)
    write_json(folder / SEARCH_FILE, result.to_dict())
    if config:
        write_text(best_file(search, experiment), yaml.safe_dump(config, sort_keys=False))


def best_file(search: Search, experiment: Experiment) -> Path:
    """Returns the file of a search's best configuration, which `rayjobs.train --config` takes."""
    return experiment.folder / f"best-{search.name.replace('/', '-')}.yaml"


def final_jobs(plan: Plan, label: str, fold: int | None, data: DataHandle, experiment: Experiment) -> list[Job]:
    """Returns a job for each fresh seed of a row on a fold; none where its search found no configuration."""
    stored = read_search(experiment.folder / plan.search_of(label, fold).name)
    if not stored or not stored.config or not stored.best:
        return []
    alone = searched_accuracies(plan, experiment, fold)
    jobs = []
    values: dict[str, Plain] = {} if fold is None else {"protocol.fold": fold}
    for number, run_dir in enumerate(final_dirs(plan, experiment, label, fold), start=1):
        values["seed"] = experiment.request.seed + number
        config = with_values(parse_config(stored.config), values).to_dict()
        jobs.append(
            Job(
                config,
                data,
                str(run_dir.resolve()),
                test=True,
                command=experiment.command,
                alone=alone,
                schedule=stored.best.schedule,
                mirror=experiment.mirror,
            )
        )
    return jobs
