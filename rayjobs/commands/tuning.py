"""The whole of `tune`: for each data set one search per method, then the final models, then the ranking.

    results/<experiment>/experiment.json                what was asked for
    results/<experiment>/<dataset>-<method>/search.json  a finished search: every trial, and the best configuration
    results/<experiment>/<dataset>-<method>/trial-001/   a trial: metrics, curves, checkpoints
    results/<experiment>/<dataset>-<method>/final-1/     a final model: the same, and its predictions on test
    results/<experiment>/<dataset>-<method>/fold-0/...   all of it once per fold of a cross-validation
    results/<experiment>/best-<dataset>-<method>.yaml    for rayjobs.train --config
    results/<experiment>/ranking.json                    what is printed at the end

What is finished is never done again: a finished search is read from its file, a finished final model from its folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mmcore.errors import EquipoiseError, TrainingError
from rayjobs.cluster import resources, session, signals
from rayjobs.cluster.autoscaling import wait_for_room
from rayjobs.commands.budget import Budget
from rayjobs.commands.live_table import Display, ProgressCallback
from rayjobs.experiment.experiment import Experiment
from rayjobs.experiment.folder import final_jobs, is_finished, keep_plan, save_search, share
from rayjobs.experiment.machine import Machine, trial_shape
from rayjobs.experiment.plan import Plan, final_stage, grid_stage, make_plans
from rayjobs.experiment.search_result import read_search
from rayjobs.feeding.handle import DataHandle, open_data
from rayjobs.reporting.ranking import build_ranking
from rayjobs.reporting.ranking_table import Ranking
from rayjobs.results_layout import RANKING_FILE
from rayjobs.runs.handover import drop_snapshots
from rayjobs.runs.job import Job
from rayjobs.runs.result import read_result
from rayjobs.runs.test_ledger import open_ledger
from rayjobs.search.grid import grid_jobs, grid_outcomes, grid_trials
from rayjobs.search.outcome import succeeded
from rayjobs.search.searches import Search
from rayjobs.search.tune_run import Execution, run_given, run_search
from rayjobs.storage.files import write_json
from rayjobs.trials.trial import GivenRuns, SearchRuns


class Interrupted(EquipoiseError):
    """The user ended the command; what was done is kept."""

    exit_code = 130


def run_tuning(experiment: Experiment, machine: Machine, *, resume: bool) -> Ranking:
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
        plans = make_plans(experiment.request, machine)
        for plan in plans:
            keep_plan(plan, experiment)
        share(experiment)
        if not experiment.mirror:  # of runs on several nodes, each keeps its own
            open_ledger(experiment.folder.parent)
        unfinished = [plan for plan in plans if not (resume and is_finished(plan, experiment))]
        if unfinished:
            _run_plans(unfinished, experiment, machine, resume=resume)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; everything finished so far is kept. To resume:\n"
            f"  python -m rayjobs.tune --resume {experiment.name}{_output_flag(experiment)}"
        ) from None
    ranking = build_ranking(experiment, plans)
    write_json(experiment.folder / RANKING_FILE, ranking.to_dict())
    share(experiment)
    if not any(row.best for table in ranking.rankings for row in table.rows):
        raise TrainingError(_all_failed(ranking))
    return ranking


def _run_plans(plans: Sequence[Plan], experiment: Experiment, machine: Machine, *, resume: bool) -> None:
    request = experiment.request
    stages: dict[str, int] = {}
    for plan in plans:
        for search in plan.searches:
            stage = grid_stage(plan) if search.is_grid else search.name
            stages[stage] = stages.get(stage, 0) + search.trials
    if request.final_seeds:
        stages |= {final_stage(plan): request.final_seeds * len(plan.labels) * len(plan.folds) for plan in plans}
    display = Display(stages)
    budget = Budget(machine.budget_s, sum(len(plan.searches) for plan in plans))
    tuner = _Tuner(experiment, machine, display, budget, resume=resume)
    gpus = request.gpus_per_worker if request.gpus_per_worker is not None else resources.visible_gpus(machine.gpus)
    needs_dashboard = request.workers > 1 or gpus > 0
    with (
        session.start(
            machine.address,
            num_cpus=machine.cpus,
            num_gpus=machine.gpus,
            verbose=machine.verbose,
            needs_dashboard=needs_dashboard,
        ) as nodes,
        signals.interruptible() as interruption,
        display.shown(),
    ):
        for plan in plans:
            tuner.run(plan, nodes, interruption)


class _Tuner:
    """Runs the plans of one experiment."""

    def __init__(self, experiment: Experiment, machine: Machine, display: Display, budget: Budget, *, resume: bool):
        self._experiment = experiment
        self._machine = machine
        self._display = display
        self._budget = budget
        self._resume = resume

    def run(self, plan: Plan, nodes: list[resources.Node], interruption: signals.Interruption) -> None:
        """Runs one data set's searches, then its final models."""
        shape = self._shape(plan, nodes, streams=False)
        if self._machine.address and self._machine.concurrent:
            nodes = wait_for_room(shape, self._machine.concurrent, self._display.say)
        resources.concurrent_trials(shape, nodes)  # refused before anything is read
        todo = [search for search in plan.searches if not self._skip(plan, search)]
        self._budget.skip(len(plan.searches) - len(todo))
        data = open_data(plan.prepared, self._machine.cache_bytes)
        shape = self._shape(plan, nodes, streams=data.cached is None and not data.in_process)
        concurrent = resources.concurrent_trials(shape, nodes, self._machine.concurrent)
        machine = self._machine
        execution = Execution(shape, concurrent, machine.max_failures, machine.hang_limit_s, body=machine.body)
        for search in todo:
            if not search.is_grid:
                self._search(search, data, replace(execution, budget_s=self._budget.share()), interruption)
        self._grids(plan, [search for search in todo if search.is_grid], data, execution, interruption)
        self._finals(plan, data, execution, interruption)

    def _shape(self, plan: Plan, nodes: list[resources.Node], *, streams: bool) -> resources.TrialShape:
        return trial_shape(self._experiment.request, plan.searches[0], nodes, streams=streams)

    def _folder(self, search: Search) -> Path:
        return (self._experiment.folder / search.name).resolve()  # workers have other working directories

    def _skip(self, plan: Plan, search: Search) -> bool:
        """Tells whether a search was finished by an earlier command."""
        stored = read_search(self._folder(search)) if self._resume else None
        if not stored:
            return False
        outcomes = stored.trials
        failed = sum(outcome.status == "failed" for outcome in outcomes)
        best = max(
            (outcome.objective for outcome in succeeded(outcomes) if outcome.objective is not None), default=None
        )
        epochs = sum(outcome.epochs for outcome in outcomes)
        if search.is_grid:
            for outcome in outcomes:
                self._display.ended(grid_stage(plan), "a trial: finished before", failed=outcome.status == "failed")
        else:
            self._display.skip(search.name, len(outcomes) - failed, failed, best, epochs)
        return True

    def _search(
        self, search: Search, data: DataHandle, execution: Execution, interruption: signals.Interruption
    ) -> None:
        folder = self._folder(search)
        self._display.start(search.name)
        experiment = self._experiment
        exchange = search.grace_epochs if search.scheduler == "pbt" else 0
        runs = SearchRuns(search.config.to_dict(), data, folder, experiment.command, exchange, experiment.mirror)
        execution = replace(
            execution,
            callbacks=(ProgressCallback(self._display, search.name, search.max_epochs, folder),),
            notify=lambda message: self._display.say(f"{search.name}: {message}"),
        )
        with _interrupting(interruption):
            outcomes = run_search(search, runs, execution, resume=self._resume)
        drop_snapshots(folder)  # an interrupted search, which does not come here, needs them to resume
        save_search(folder, search, outcomes, experiment)
        share(experiment)
        self._display.finish(search.name)

    def _grids(
        self,
        plan: Plan,
        searches: Sequence[Search],
        data: DataHandle,
        execution: Execution,
        interruption: signals.Interruption,
    ) -> None:
        """Runs the trials of all grids of a data set as one list, each method's before the next one's."""
        if not searches:
            return
        trials = {search.name: grid_trials(search, self._folder(search)) for search in searches}
        jobs = [
            job
            for search in searches
            for job in grid_jobs(search, trials[search.name], data, self._experiment.command, self._experiment.mirror)
        ]
        self._given(grid_stage(plan), jobs, sum(map(len, trials.values())), execution, interruption)
        for search in searches:
            save_search(self._folder(search), search, grid_outcomes(trials[search.name]), self._experiment)
        share(self._experiment)

    def _finals(self, plan: Plan, data: DataHandle, execution: Execution, interruption: signals.Interruption) -> None:
        jobs = final_jobs(plan, data, self._experiment)
        if not jobs:
            return
        waiting = [job for job in jobs if read_result(Path(job.run_dir)) is None]
        self._given(final_stage(plan), waiting, len(jobs), execution, interruption)

    def _given(
        self, stage: str, jobs: Sequence[Job], total: int, execution: Execution, interruption: signals.Interruption
    ) -> None:
        """Runs jobs as one stage; those of its `total` that are missing among them were finished before."""
        self._display.start(stage)
        for _ in range(total - len(jobs)):
            self._display.ended(stage, "a run: finished before", failed=False)
        if jobs:
            max_epochs = max(job.max_epochs for job in jobs)
            run_dirs = [Path(job.run_dir) for job in jobs]
            execution = replace(execution, callbacks=(ProgressCallback(self._display, stage, max_epochs, run_dirs),))
            folder = self._experiment.folder.resolve() / stage.replace(" ", "-")
            with _interrupting(interruption):
                run_given(GivenRuns(tuple(jobs)), folder, execution)
        self._display.finish(stage)


@contextmanager
def _interrupting(interruption: signals.Interruption) -> Iterator[None]:
    """Lets a signal end Tune gracefully, and raises it as an interruption afterwards.

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
    output = experiment.mirror.address or str(experiment.folder.parent)
    return "" if output == "results" else f" --output {output}"


def _all_failed(ranking: Ranking) -> str:
    reasons = [
        f"{table.dataset}-{row.method} {failure.trial}: {failure.reason}"
        for table in ranking.rankings
        for row in table.rows
        for failure in row.failures
    ]
    if not reasons:
        return "the time was over before any trial had finished an epoch: give a longer --time-budget"
    return "every trial failed:\n" + "\n".join(f"  - {reason}" for reason in dict.fromkeys(reasons))
