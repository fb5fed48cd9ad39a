"""The whole of `tune`: for each data set one search per method, then the final models, then the ranking.

    results/<experiment>/experiment.json                what was asked for
    results/<experiment>/<dataset>-<method>/search.json  a finished search: every trial, and the best configuration
    results/<experiment>/<dataset>-<method>/trial-001/   a trial: metrics, curves, checkpoints
    results/<experiment>/<dataset>-<method>/final-1/     a final model: the same, and its predictions on test
    results/<experiment>/best-<dataset>-<method>.yaml    for rayjobs.train --config
    results/<experiment>/ranking.json                    what is printed at the end

What is finished is never done again: a finished search is read from its file, a finished final model from its folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from mmcore.config import RunConfig
from mmcore.data.store import PreparedDataset
from mmcore.errors import CheckpointError, EquipoiseError, TrainingError
from rayjobs import cluster
from rayjobs.datasets import open_data
from rayjobs.experiments import Execution, Outcome, run_given, run_search, succeeded
from rayjobs.files import read_json, write_json, write_text
from rayjobs.ledger import open_ledger
from rayjobs.plans import Machine, Plan, final_stage, make_plans, trial_shape
from rayjobs.progress import Display, ProgressCallback
from rayjobs.ranking import build_ranking
from rayjobs.request import RANKING_FILE, Experiment
from rayjobs.search import Search
from rayjobs.trials import GivenRuns, SearchRuns
from rayjobs.worker import RESULT_FILE, DataHandle, Job

SEARCH_FILE = "search.json"
PLAN_FILE = "plan.json"


class Interrupted(EquipoiseError):
    """The user ended the command; what was done is kept."""

    exit_code = 130


def run_tuning(experiment: Experiment, machine: Machine, resume: bool) -> dict[str, Any]:
    """Does what an experiment asks for and returns its ranking, which is also written beside it.

    Args:
        experiment: What to do, and where its results go.
        machine: Where to run it.
        resume: Go on with what an earlier command left.

    Raises:
        UsageError: More is asked for than the cluster has, among others.
        TrainingError: Not one trial of any method succeeded.
        Interrupted: Ctrl-C or SIGTERM; the state is kept.
    """
    try:
        plans = make_plans(experiment.request)
        open_ledger(experiment.folder.parent)
        unfinished = [plan for plan in plans if not (resume and is_finished(plan, experiment))]
        if unfinished:
            _run_plans(unfinished, experiment, machine, resume)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; everything finished so far is kept. To go on:\n"
            f"  python -m rayjobs.tune --resume {experiment.name}{_output_flag(experiment)}"
        ) from None
    ranking = build_ranking(experiment, plans, SEARCH_FILE)
    write_json(experiment.folder / RANKING_FILE, ranking)
    if not any(row["best"] for table in ranking["rankings"] for row in table["rows"]):
        raise TrainingError(_all_failed(ranking))
    return ranking


def is_finished(plan: Plan, experiment: Experiment) -> bool:
    """Tells whether every search of a data set and every final model was finished by an earlier command."""
    folders = [experiment.folder / search.name for search in plan.searches]
    finals = range(1, experiment.request.final_seeds + 1)
    files = [folder / SEARCH_FILE for folder in folders]
    files += [folder / f"final-{number}" / RESULT_FILE for folder in folders for number in finals]
    return all(read_json(file) for file in files)


def _run_plans(plans: Sequence[Plan], experiment: Experiment, machine: Machine, resume: bool) -> None:
    request = experiment.request
    stages = {search.name: search.trials for plan in plans for search in plan.searches}
    if request.final_seeds:
        stages |= {final_stage(plan): request.final_seeds * len(plan.searches) for plan in plans}
    display = Display(stages)
    tuner = _Tuner(experiment, machine, display, resume)
    gpus = request.gpus_per_worker if request.gpus_per_worker is not None else cluster.visible_gpus(machine.gpus)
    needs_dashboard = request.workers > 1 or gpus > 0
    with (
        cluster.start(machine.address, machine.cpus, machine.gpus, machine.verbose, needs_dashboard) as nodes,
        cluster.interruptible() as interruption,
        display.shown(),
    ):
        for plan in plans:
            tuner.run(plan, nodes, interruption)


class _Tuner:
    """Runs the plans of one experiment."""

    def __init__(self, experiment: Experiment, machine: Machine, display: Display, resume: bool):
        self._experiment = experiment
        self._machine = machine
        self._display = display
        self._resume = resume

    def run(self, plan: Plan, nodes: list[cluster.Node], interruption: cluster.Interruption) -> None:
        """Runs one data set's searches, then its final models."""
        shape = self._shape(plan, nodes, streams=False)
        cluster.concurrent_trials(shape, nodes)  # refused before anything is read
        for search in plan.searches:
            self._keep_plan(search, plan.prepared)
        todo = [search for search in plan.searches if not self._skip(search)]
        data = open_data(plan.prepared, self._machine.cache_bytes)
        shape = self._shape(plan, nodes, streams=data.cached is None and not data.in_process)
        concurrent = cluster.concurrent_trials(shape, nodes, self._machine.concurrent)
        execution = Execution(shape, concurrent, self._machine.max_failures, body=self._machine.body)
        for search in todo:
            self._search(search, data, execution, interruption)
        self._finals(plan, data, execution, interruption)

    def _shape(self, plan: Plan, nodes: list[cluster.Node], streams: bool) -> cluster.TrialShape:
        return trial_shape(self._experiment.request, plan.searches[0], nodes, streams)

    def _folder(self, search: Search) -> Path:
        return self._experiment.folder / search.name

    def _keep_plan(self, search: Search, prepared: PreparedDataset) -> None:
        """Writes what a search is, or compares it with what it was when it was started.

        Raises:
            CheckpointError: The data or the search space changed since.
        """
        path = self._folder(search) / PLAN_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        plan = json.loads(json.dumps({**search.to_dict(), "data_fingerprint": prepared.fingerprint}))
        stored = read_json(path)
        if stored is None:
            write_json(path, plan)
        elif stored != plan:
            changed = ", ".join(key for key in plan if stored.get(key) != plan[key])
            raise CheckpointError(
                f"{search.name} was started with another {changed} (kept in {path}): old and new trials cannot be "
                "compared; undo the change, or start a new experiment without --resume"
            )

    def _skip(self, search: Search) -> bool:
        """Tells whether a search was finished by an earlier command."""
        stored = read_json(self._folder(search) / SEARCH_FILE) if self._resume else None
        if not stored:
            return False
        outcomes = [Outcome(**trial) for trial in stored["trials"]]
        failed = sum(outcome.status == "failed" for outcome in outcomes)
        best = max(
            (outcome.objective for outcome in succeeded(outcomes) if outcome.objective is not None), default=None
        )
        epochs = sum(outcome.epochs for outcome in outcomes)
        self._display.skip(search.name, len(outcomes) - failed, failed, best, epochs)
        return True

    def _search(
        self, search: Search, data: DataHandle, execution: Execution, interruption: cluster.Interruption
    ) -> None:
        folder = self._folder(search)
        self._display.start(search.name)
        runs = SearchRuns(search.config.to_dict(), data, folder, self._experiment.command)
        execution = replace(
            execution,
            callbacks=(ProgressCallback(self._display, search.name, search.max_epochs, folder),),
            notify=lambda message: self._display.say(f"{search.name}: {message}"),
        )
        with _interrupting(interruption):
            outcomes = run_search(search, runs, execution, self._resume)
        save_search(folder, search, outcomes, self._experiment)
        self._display.finish(search.name)

    def _finals(self, plan: Plan, data: DataHandle, execution: Execution, interruption: cluster.Interruption) -> None:
        jobs = final_jobs(plan, data, self._experiment)
        if not jobs:
            return
        stage = final_stage(plan)
        waiting = [job for job in jobs if read_json(Path(job.run_dir) / RESULT_FILE) is None]
        self._display.start(stage)
        for _ in range(len(jobs) - len(waiting)):
            self._display.ended(stage, "a final model: finished before", failed=False)
        if waiting:
            run_dirs = [Path(job.run_dir) for job in waiting]
            max_epochs = plan.searches[0].max_epochs
            execution = replace(execution, callbacks=(ProgressCallback(self._display, stage, max_epochs, run_dirs),))
            folder = self._experiment.folder / f"{plan.prepared.directory.name}-finals"
            with _interrupting(interruption):
                run_given(GivenRuns(tuple(waiting)), folder, execution)
        self._display.finish(stage)


def save_search(folder: Path, search: Search, outcomes: Sequence[Outcome], experiment: Experiment) -> None:
    """Writes a finished search and, as a file of its own, its best configuration."""
    best = max(succeeded(outcomes), key=lambda outcome: (outcome.objective, -outcome.objective_loss), default=None)
    config = search.config.with_values(best.values).to_dict() if best else None
    write_json(
        folder / SEARCH_FILE,
        {
            "label": search.label,
            "trials": [outcome.to_dict() for outcome in outcomes],
            "best": best.to_dict() if best else None,
            "config": config,
        },
    )
    if config:
        write_text(experiment.folder / f"best-{search.name}.yaml", yaml.safe_dump(config, sort_keys=False))


def final_jobs(plan: Plan, data: DataHandle, experiment: Experiment) -> list[Job]:
    """Returns a job for each fresh seed of each method whose search found a configuration."""
    jobs = []
    for search in plan.searches:
        folder = experiment.folder / search.name
        stored = read_json(folder / SEARCH_FILE)
        if not stored or not stored["config"]:
            continue
        for number in range(1, experiment.request.final_seeds + 1):
            config = RunConfig.parse(stored["config"]).with_values({"seed": experiment.request.seed + number})
            run_dir = str((folder / f"final-{number}").resolve())
            jobs.append(Job(config.to_dict(), data, run_dir, test=True, command=experiment.command))
    return jobs


@contextmanager
def _interrupting(interruption: cluster.Interruption) -> Iterator[None]:
    """Lets a signal end Tune gracefully, and goes on as an interruption then.

    Tune returns as if it had ended, with the running trials marked as finished: what it returns is not to be used.
    """
    interruption.searching = True
    try:
        yield
    finally:
        interruption.searching = False
    if interruption.requested:
        raise KeyboardInterrupt


def _output_flag(experiment: Experiment) -> str:
    output = str(experiment.folder.parent)
    return "" if output == "results" else f" --output {output}"


def _all_failed(ranking: dict[str, Any]) -> str:
    reasons = [
        f"{table['dataset']}-{row['method']} {failure['trial']}: {failure['reason']}"
        for table in ranking["rankings"]
        for row in table["rows"]
        for failure in row["failures"]
    ]
    return "every trial failed:\n" + "\n".join(f"  - {reason}" for reason in dict.fromkeys(reasons))
