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

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from mmcore.build import build_method
from mmcore.config import RunConfig
from mmcore.data.store import PreparedDataset
from mmcore.errors import EquipoiseError, TrainingError
from rayjobs import cluster
from rayjobs.datasets import open_data, options_of, prepare_datasets, source_modalities
from rayjobs.experiments import Execution, Outcome, run_given, run_search, succeeded
from rayjobs.files import read_json, write_json, write_text
from rayjobs.ledger import open_ledger
from rayjobs.progress import Display, ProgressCallback
from rayjobs.ranking import build_ranking
from rayjobs.request import RANKING_FILE, Experiment, Request
from rayjobs.search import Search, SearchOptions, build_searches, load_space, space_file
from rayjobs.trials import Body, GivenRuns, SearchRuns
from rayjobs.worker import RESULT_FILE, DataHandle, Job

SEARCH_FILE = "search.json"


@dataclass(frozen=True)
class Machine:
    """Where and how fast a request is computed; another one gives the same kind of result.

    Attributes:
        address: None: a local Ray; else the cluster to join.
        cpus: CPUs of a local Ray; None: all.
        gpus: GPUs of a local Ray; None: all.
        concurrent: Most trials at once; None: as many as fit.
        max_failures: How often a lost process is tried again.
        cache_bytes: Data sets up to this size are held in the object store; None: a share of it; 0: all are streamed.
        verbose: Show Ray's own log.
        body: What a trial runs; None: the worker's.
    """

    address: str | None = None
    cpus: int | None = None
    gpus: int | None = None
    concurrent: int | None = None
    max_failures: int = 2
    cache_bytes: int | None = None
    verbose: bool = False
    body: Body | None = None


class Interrupted(EquipoiseError):
    """The user ended the command; what was done is kept."""

    exit_code = 130


@dataclass(frozen=True)
class Plan:
    """What is to be done for one data set."""

    prepared: PreparedDataset
    searches: tuple[Search, ...]


def plan_searches(request: Request, dataset: str, folder_name: str, modalities: Sequence[str]) -> list[Search]:
    """Returns the searches of one data set.

    Raises:
        ConfigError: The search-space file, or what the command line adds to it, breaks a rule.
    """
    space = load_space(space_file(dataset, Path(request.space) if request.space else None))
    options = SearchOptions(request.seed, request.protocol, request.values, request.trials, request.max_epochs)
    section = {"name": dataset, "options": options_of(request, dataset)}
    return build_searches(space, section, folder_name, modalities, request.methods, options)


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
    plans = make_plans(experiment.request)
    open_ledger(experiment.folder.parent)
    stages = {search.name: search.trials for plan in plans for search in plan.searches}
    stages |= {final_stage(plan): experiment.request.final_seeds * len(plan.searches) for plan in plans}
    if experiment.request.final_seeds == 0:
        stages = {name: total for name, total in stages.items() if total}
    display = Display(stages)
    tuner = _Tuner(experiment, machine, display, resume)
    with _running(experiment, machine, display) as (nodes, interruption):
        for plan in plans:
            tuner.run(plan, nodes, interruption)
    ranking = build_ranking(experiment, plans, SEARCH_FILE)
    write_json(experiment.folder / RANKING_FILE, ranking)
    if not any(row["best"] for table in ranking["rankings"] for row in table["rows"]):
        raise TrainingError(_all_failed(ranking))
    return ranking


def check_request(request: Request) -> None:
    """Checks a request as far as the data is not needed for it; raises what `plan_searches` raises."""
    for dataset in request.datasets:
        plan_searches(request, dataset, dataset, source_modalities(request, dataset))


def make_plans(request: Request) -> list[Plan]:
    """Prepares the data sets and plans their searches; builds each model once, so that what cannot work fails here."""
    plans = []
    for dataset, prepared in prepare_datasets(request).items():
        searches = plan_searches(request, dataset, prepared.directory.name, prepared.spec.modality_names)
        for search in searches:
            prepared.assign(search.config.protocol)
            build_method(search.config, prepared.spec)
        plans.append(Plan(prepared, tuple(searches)))
    return plans


def final_stage(plan: Plan) -> str:
    """Returns what the training of a data set's final models is called."""
    return f"{plan.prepared.directory.name} final models"


def trial_shape(request: Request, search: Search, nodes: Sequence[cluster.Node], streams: bool) -> cluster.TrialShape:
    """Returns what a trial asks for; where nothing is said, a GPU a worker if the cluster has any."""
    gpus = request.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if any(node.gpus for node in nodes) else 0.0
    return cluster.TrialShape(request.workers, search.config.trainer.threads, gpus, streams)


@contextmanager
def _running(
    experiment: Experiment, machine: Machine, display: Display
) -> Iterator[tuple[list[cluster.Node], cluster.Interruption]]:
    """Starts Ray and the display; an interruption becomes one exception, with what to do next."""
    request = experiment.request
    gpus = request.gpus_per_worker if request.gpus_per_worker is not None else cluster.visible_gpus(machine.gpus)
    groups = request.workers > 1 or gpus > 0
    try:
        with (
            cluster.start(machine.address, machine.cpus, machine.gpus, machine.verbose, needs_dashboard=groups) as nodes,
            cluster.interruptible() as interruption,
            display.shown(),
        ):
            yield nodes, interruption
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; everything finished so far is kept. To go on:\n"
            f"  python -m rayjobs.tune --resume {experiment.name}{_output_flag(experiment)}"
        ) from None


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
        todo = [search for search in plan.searches if not self._skip(search)]
        data = open_data(plan.prepared, self._machine.cache_bytes)
        shape = self._shape(plan, nodes, streams=data.cached is None and not data.in_process)
        concurrent = cluster.concurrent_trials(shape, nodes, self._machine.concurrent)
        execution = Execution(shape, concurrent, self._machine.max_failures, body=self._machine.body)
        for search in todo:
            with _interrupting(interruption):
                self._search(search, data, execution)
        with _interrupting(interruption):
            self._finals(plan, data, execution)

    def _shape(self, plan: Plan, nodes: list[cluster.Node], streams: bool) -> cluster.TrialShape:
        return trial_shape(self._experiment.request, plan.searches[0], nodes, streams)

    def _folder(self, search: Search) -> Path:
        return self._experiment.folder / search.name

    def _skip(self, search: Search) -> bool:
        """Tells whether a search was finished by an earlier command."""
        stored = read_json(self._folder(search) / SEARCH_FILE) if self._resume else None
        if not stored:
            return False
        outcomes = [Outcome(**trial) for trial in stored["trials"]]
        failed = sum(outcome.status == "failed" for outcome in outcomes)
        best = max((outcome.objective for outcome in succeeded(outcomes) if outcome.objective is not None), default=None)
        epochs = sum(outcome.epochs for outcome in outcomes)
        self._display.skip(search.name, len(outcomes) - failed, failed, best, epochs)
        return True

    def _search(self, search: Search, data: DataHandle, execution: Execution) -> None:
        folder = self._folder(search)
        folder.mkdir(parents=True, exist_ok=True)
        self._display.start(search.name)
        runs = SearchRuns(search.config.to_dict(), data, folder, self._experiment.command)
        execution = replace(
            execution,
            callbacks=(ProgressCallback(self._display, search.name, search.max_epochs, folder),),
            notify=lambda message: self._display.say(f"{search.name}: {message}"),
        )
        outcomes = run_search(search, runs, execution, self._resume)
        if any(outcome.status == "unfinished" for outcome in outcomes) or len(outcomes) < search.trials:
            raise KeyboardInterrupt
        save_search(folder, search, outcomes, self._experiment)
        self._display.finish(search.name)

    def _finals(self, plan: Plan, data: DataHandle, execution: Execution) -> None:
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
            outcomes = run_given(GivenRuns(tuple(waiting)), folder, execution)
            if any(outcome.status == "unfinished" for outcome in outcomes) or len(outcomes) < len(waiting):
                raise KeyboardInterrupt
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
    """Lets a signal end Tune gracefully, and goes on as an interruption then."""
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
