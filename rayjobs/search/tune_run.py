"""One Tune experiment, started or restored: the trials of a search, or a list of given runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from mmcore.config.sections import plain
from mmcore.seeding import derive_seed
from rayjobs.cluster.resources import TrialShape
from rayjobs.ray_internals.controller import keys_kept, thrifty_saving
from rayjobs.ray_internals.environment import pending_trials
from rayjobs.results_layout import RUNGS_FILE, TUNE_FOLDER
from rayjobs.runs.handover import read_schedule
from rayjobs.runs.job import Body
from rayjobs.runs.progress import OBJECTIVE
from rayjobs.search import saved_state, state_on_storage
from rayjobs.search.asha import RestorableASHA
from rayjobs.search.outcome import Outcome
from rayjobs.search.population import Founders, Population, population_seed
from rayjobs.search.searches import Search
from rayjobs.search.suggestions import Limited, Suggestions
from rayjobs.trials.failures import FailureRules, failure_reason
from rayjobs.trials.group_room import RoomKeeper
from rayjobs.trials.hang_limits import DEFAULT_LIMIT_S
from rayjobs.trials.trial import GivenRuns, Runs, SearchRuns, make_trainable, trial_name
from rayjobs.trials.watchdog import Watchdog


@dataclass(frozen=True)
class Execution:
    """How trials are run, whatever they are.

    Attributes:
        shape: What each asks for.
        concurrent: How many at once.
        max_failures: How often a trial whose process was lost is tried again.
        hang_limit_s: A running trial without a sign of life for so long is ended, and tried again; 0: never.
        budget_s: When a search ends although it has trials left; None: never.
        callbacks: Told of what happens, beside the rules.
        body: What a trial runs; default: the worker's.
        notify: Told, in words, what a restore had to mend.
    """

    shape: TrialShape
    concurrent: int
    max_failures: int = 2
    hang_limit_s: float = DEFAULT_LIMIT_S
    budget_s: float | None = None
    callbacks: tuple[Callback, ...] = ()
    body: Body | None = None
    notify: Callable[[str], None] = print


def run_search(search: Search, runs: SearchRuns, execution: Execution, *, resume: bool) -> list[Outcome]:
    """Runs a search, or resumes it.

    Args:
        search: What is searched.
        runs: What its trials are made from.
        execution: How they are run.
        resume: Continue from the state in the folder, if there is one.

    Returns:
        What became of each trial, those of before a restore included.
    """
    folder = runs.folder / TUNE_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    state_on_storage.unpack_state(runs.folder, folder)
    restored = resume and _prepare(folder, runs, execution.notify)
    rungs = runs.folder / RUNGS_FILE
    if not restored:
        rungs.unlink(missing_ok=True)
    trials = _run(
        runs,
        execution,
        folder,
        **_choosing(search, runs.folder, execution.concurrent),
        num_samples=search.trials,
        time_budget_s=execution.budget_s,
        callbacks=[
            saved_state.StateKeeper(runs.folder),
            *([state_on_storage.StatePusher(runs.mirror, runs.folder, execution.notify)] if runs.mirror else []),
        ],
        resume="AUTO+ERRORED" if restored else None,
    )
    return [_outcome(trial, runs.folder, search.max_epochs) for trial in trials]


def run_given(runs: GivenRuns, folder: Path, execution: Execution) -> list[Outcome]:
    """Runs jobs, several at once; each resumes by itself, so that nothing of this need be restored."""
    trials = _run(
        runs,
        execution,
        folder / TUNE_FOLDER,
        config={"run": tune.grid_search(list(range(len(runs.jobs))))},
        max_concurrent_trials=execution.concurrent,
    )
    outcomes = []
    for trial in sorted(trials, key=lambda trial: trial.config["run"]):
        job = runs.jobs[trial.config["run"]]
        max_epochs = job.config["trainer"]["max_epochs"]
        outcomes.append(_outcome(trial, Path(job.run_dir).parent, max_epochs, Path(job.run_dir).name))
    return outcomes


def _run(
    runs: Runs, execution: Execution, folder: Path, callbacks: Sequence[Callback] = (), **settings: Any
) -> list[Trial]:
    def run_dir(trial: Trial) -> Path:
        return runs.run_dir(trial_name(trial), trial.config)

    pullers = [state_on_storage.RunPuller(runs.mirror, run_dir, execution.notify)] if runs.mirror else []
    rules: list[Callback] = [*pullers, *callbacks, FailureRules(), *execution.callbacks]
    in_groups = execution.shape.worker_group
    if in_groups:
        rules.append(RoomKeeper(run_dir))
    if execution.hang_limit_s:
        rules.append(Watchdog(execution.hang_limit_s, run_dir, runs.mirror, in_groups=in_groups))
    with keys_kept(), thrifty_saving(), pending_trials(execution.concurrent), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        analysis = tune.run(
            make_trainable(runs, execution.shape, execution.body),
            name=folder.name,
            storage_path=str(folder.parent.resolve()),
            max_failures=execution.max_failures,
            raise_on_failed_trial=False,
            reuse_actors=not in_groups,
            trial_name_creator=trial_name,
            trial_dirname_creator=trial_name,
            verbose=0,
            callbacks=rules,
            **settings,
        )
    return list(analysis.trials)


def _choosing(search: Search, folder: Path, concurrent: int) -> dict[str, Any]:
    """Returns what chooses a search's trials, and which of them go on, as Tune's settings."""
    if search.scheduler == "pbt":
        changes = {path: search.space[path] for path in search.changeable}
        seed = population_seed(search)
        population = Population(
            folder,
            changes,
            size=search.trials,
            max_epochs=search.max_epochs,
            interval=search.grace_epochs,
            concurrent=concurrent,
            seed=seed,
        )
        return {
            "search_alg": Founders(population, search.space, search.points, seed),
            "scheduler": population,
        }
    searcher = _searcher(search)
    return {
        "config": {path: distribution.to_tune() for path, distribution in search.space.items()},
        "search_alg": Limited(searcher, concurrent)
        if searcher
        else None,  # None: one trial, of which there is nothing to choose
        "scheduler": _scheduler(search, folder / RUNGS_FILE),
    }


def _scheduler(search: Search, rungs: Path) -> TrialScheduler:
    if search.scheduler == "fifo":
        return FIFOScheduler()
    return RestorableASHA(rungs, search.max_epochs, search.grace_epochs, search.reduction_factor)


def _searcher(search: Search) -> Suggestions | None:
    """Returns the searcher; None where nothing is searched."""
    if not search.space:
        return None
    return Suggestions(
        search.space,
        search.points,
        metric=OBJECTIVE,
        mode="max",
        # By default the first 20 trials are random: in a search of 8 nothing would be learned from the others.
        # Random search is the one of which all are: it restores like the other.
        n_initial_points=(
            search.trials + 1 if search.algorithm == "random" else max(len(search.points) + 2, search.trials // 4)
        ),
        random_state_seed=derive_seed(search.config.seed, "search", search.name) % 2**32,
    )


def _prepare(folder: Path, runs: SearchRuns, notify: Callable[[str], None]) -> bool:
    restored, messages = saved_state.prepare_restore(folder, runs.folder)
    known = saved_state.known_trials(folder) if restored else set()
    for name in saved_state.set_aside_unknown(runs.folder, known):
        runs.mirror.rename(runs.folder / name, runs.folder / f"{name}.set-aside")
        messages.append(f"{name} was lost with the state: set aside")
    for message in messages:
        notify(message)
    return restored


def _outcome(trial: Trial, folder: Path, max_epochs: int, name: str = "") -> Outcome:
    last = trial.last_result or {}
    name = name or trial_name(trial)
    epochs = int(last.get("epoch", 0))
    failed = trial.status == Trial.ERROR
    ended = trial.status in (Trial.TERMINATED, Trial.PAUSED)  # one may wait for its turn when the time is over
    status = "failed" if failed else "done" if ended else "unfinished"
    schedule = read_schedule(folder / name)
    values = schedule[-1].values if schedule else trial.config or {}
    if status == "done" and epochs < max_epochs:
        status = "stopped"
    return Outcome(
        name=name,
        values={path: plain(value) for path, value in values.items()},
        status=status,
        epochs=epochs,
        objective=last.get(OBJECTIVE),
        objective_loss=float(last.get("objective_loss", 0.0)),
        device_seconds=float(last.get("device_seconds", 0.0)),
        reason=failure_reason(folder / name) if failed else "",
        schedule=schedule,
    )
