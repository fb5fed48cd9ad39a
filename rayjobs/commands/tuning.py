"""The whole of `tune`: every search and every final model of an experiment in one pool, then the ranking.

    results/<experiment>/experiment.json                what was asked for
    results/<experiment>/<dataset>-<method>/journal.jsonl  a search as it goes: what it is resumed from
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
from dataclasses import dataclass

from mmcore.errors import EquipoiseError, TrainingError
from mmcore.storage import name_of, storage_fault
from rayjobs.cluster import resources, session, signals
from rayjobs.cluster.autoscaling import wait_for_room
from rayjobs.commands.live_table import Display
from rayjobs.experiment.experiment import Experiment, fix_per_search
from rayjobs.experiment.folder import is_finished, keep_plan, share
from rayjobs.experiment.machine import Machine, trial_shape
from rayjobs.experiment.paces import check_budget, known_pace
from rayjobs.experiment.plan import Plan, make_plans
from rayjobs.experiment.stages import NO_HOOKS, Hooks, Planned, data_of, make_stages, per_search_default, row_of
from rayjobs.feeding.cached import default_budget_bytes
from rayjobs.feeding.handle import DataHandle, open_data
from rayjobs.pool.budget import Budget
from rayjobs.pool.pace import Pace
from rayjobs.pool.pool import Pool
from rayjobs.pool.storage import disk_fault
from rayjobs.pool.tune_run import Execution, run_pool
from rayjobs.reporting.ranking import build_ranking
from rayjobs.reporting.ranking_table import Ranking
from rayjobs.results_layout import RANKING_FILE
from rayjobs.runs.test_ledger import open_ledger
from rayjobs.storage.files import write_json


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
        TrainingError: Not one trial of any method succeeded, or storage did not come back.
        Interrupted: Ctrl-C or SIGTERM; the state is kept.
    """
    try:
        plans = make_plans(experiment.request, machine)
        for plan in plans:
            keep_plan(plan, experiment)
        share(experiment)
        if not experiment.mirror:  # of runs on several nodes, each keeps its own
            open_ledger(experiment.folder.parent)
        if not (resume and all(is_finished(plan, experiment) for plan in plans)):
            run_plans(plans, experiment, machine, resume=resume)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {_kept(experiment)}") from None
    except OSError as error:
        fault = disk_fault(experiment.folder)
        if storage_fault(error) is None or fault is None:
            raise
        raise TrainingError(f"{fault}: storage is still {name_of(fault)}; {_kept(experiment)}") from error
    ranking = build_ranking(experiment, plans)
    write_json(experiment.folder / RANKING_FILE, ranking.to_dict())
    share(experiment)
    if not any(row.best for table in ranking.rankings for row in table.rows):
        raise TrainingError(_all_failed(ranking))
    return ranking


def run_plans(
    plans: Sequence[Plan], experiment: Experiment, machine: Machine, *, resume: bool, hooks: Hooks = NO_HOOKS
) -> None:
    """Runs what is left of all searches and final models, in one pool.

    Args:
        plans: What is to be done.
        experiment: Whose it is.
        machine: Where to run it.
        resume: Whether an earlier command may have finished some.
        hooks: What the command does beside.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; the state is kept.
        UsageError: More is asked for than the cluster has, among others.
    """
    request = experiment.request
    gpus = request.gpus_per_worker if request.gpus_per_worker is not None else resources.visible_gpus(machine.gpus)
    with (
        session.start(
            machine.address,
            num_cpus=machine.cpus,
            num_gpus=machine.gpus,
            verbose=machine.verbose,
            needs_dashboard=request.workers > 1 or gpus > 0,
        ) as nodes,
        signals.interruptible() as interruption,
    ):
        display = Display(verbose=machine.verbose)
        runner = _Runner(experiment, machine, nodes, display)
        planned = runner.open(plans)
        budget = Budget(machine.budget_s, machine.device_budget_s)
        runner.check_budget(budget, planned)
        experiment = runner.fix_per_search(planned)
        stages = make_stages(planned, experiment, display.say, resume=resume, hooks=hooks)
        pool = Pool(stages, runner.capacity, budget, runner.known_pace(planned))
        execution = Execution(
            machine.max_failures,
            machine.hang_limit_s,
            callbacks=(display,),
            body=machine.body,
            notify=display.say,
            mirror=experiment.mirror,
        )
        with display.shown(pool), _interrupting(interruption):
            run_pool(pool, data_of(planned), experiment.folder.resolve(), execution)


@dataclass
class _Runner:
    """What an experiment is run on."""

    experiment: Experiment
    machine: Machine
    nodes: list[resources.Node]
    display: Display

    def open(self, plans: Sequence[Plan]) -> list[Planned]:
        """Returns the plans with their data open and the shape of their runs; waits for machines that were asked for.

        Raises:
            UsageError: A run asks for more than there is.
        """
        for plan in plans:
            shape = self._shape(plan, streams=False)
            if self.machine.address and self.machine.concurrent:
                self.nodes = wait_for_room(shape, self.machine.concurrent, self.display.say)
            resources.concurrent_trials(shape, self.nodes)  # refused before anything is read
        room = default_budget_bytes() if self.machine.cache_bytes is None else self.machine.cache_bytes
        planned = []
        for plan in plans:
            data = open_data(plan.prepared, room)
            room -= plan.prepared.num_bytes if data.cached is not None else 0
            planned.append(Planned(plan, data, self._shape(plan, streams=_streams(data))))
        return planned

    def fix_per_search(self, planned: Sequence[Planned]) -> Experiment:
        """Returns the experiment with the number of trials of each search at a time."""
        places = max(self.capacity(each.shape) for each in planned)
        fixed = fix_per_search(self.experiment, self.machine.per_search, per_search_default(planned, places))
        share(fixed)
        return fixed

    def check_budget(self, budget: Budget, planned: Sequence[Planned]) -> None:
        """Refuses a budget that is known to be too small.

        Raises:
            UsageError: Not every search could train one trial.
        """
        searches = [search for each in planned for search in each.plan.searches]
        places = max(self.capacity(each.shape) for each in planned)
        check_budget(budget, searches, self.experiment.folder.parent, places, self.experiment.request.workers)

    def known_pace(self, planned: Sequence[Planned]) -> Pace:
        """Returns how long an epoch of each row took in earlier experiments."""
        known = {}
        for each in planned:
            for search in each.plan.searches:
                pace = known_pace(search, self.experiment.folder.parent)
                if pace is not None:
                    known[row_of(each.plan, search.label, search.part)] = (
                        pace.device_s / self.experiment.request.workers
                    )
        return Pace(known)

    def capacity(self, shape: resources.TrialShape) -> int:
        """Returns how many runs of a shape fit at once, where nothing else runs."""
        return resources.concurrent_trials(shape, self.nodes, self.machine.concurrent)

    def _shape(self, plan: Plan, *, streams: bool) -> resources.TrialShape:
        return trial_shape(self.experiment.request, plan.searches[0], self.nodes, streams=streams)


def _streams(data: DataHandle) -> bool:
    return data.cached is None and not data.in_process


@contextmanager
def _interrupting(interruption: signals.Interruption) -> Iterator[None]:
    """Lets a signal end Tune gracefully, and raises it as an interruption afterwards.

    Tune returns as if it had ended, with the running trials marked as finished.
    """
    interruption.searching = True
    try:
        yield
    except Exception:
        if not interruption.requested:  # else it comes of Ray's processes, which were ended by the same signal
            raise
    finally:
        interruption.searching = False
    if interruption.requested:
        raise KeyboardInterrupt


def _kept(experiment: Experiment) -> str:
    """Returns what becomes of an experiment that ends early, and the command that goes on with it."""
    command = f"python -m rayjobs.tune --resume {experiment.name}{_output_flag(experiment)}"
    return f"everything finished so far is kept. To resume:\n  {command}"


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
