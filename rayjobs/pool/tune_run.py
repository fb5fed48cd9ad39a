"""The pool as Ray Tune sees it: one run of Tune's, whose trials are the tickets that the pool deals out.

The searcher deals, the scheduler passes reports on and ends what is overdue, a callback enters the ends. Tune's own
state is not kept: what an experiment is resumed from are its searches' journals and its runs' folders.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ray import tune
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from rayjobs.feeding.handle import DataHandle
from rayjobs.pool.pool import Key, Pool
from rayjobs.pool.storage import DiskWatch, JournalPusher, RunPuller, disk_fault
from rayjobs.ray_internals.controller import keys_kept, pool_controller
from rayjobs.ray_internals.environment import pending_trials
from rayjobs.ray_internals.signals import end_search
from rayjobs.results_layout import JOURNAL_FILE, TUNE_FOLDER
from rayjobs.runs.epochs.progress import OBJECTIVE
from rayjobs.runs.job import Body
from rayjobs.storage.mirror import NO_MIRROR, Mirror
from rayjobs.trials.failures import FailureRules, failure_reason
from rayjobs.trials.group_room import RoomKeeper
from rayjobs.trials.hang_limits import DEFAULT_LIMIT_S
from rayjobs.trials.ticket import KEY, Ticket, run_dir_of, ticket_of
from rayjobs.trials.trial import make_trainable
from rayjobs.trials.watchdog import Watchdog

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

T = TypeVar("T")
MOST_TRIALS = 10**9
"""Tune wants to know how many there will be; a population's run in several parts, so nobody does."""


@dataclass(frozen=True)
class Execution:
    """How runs are run, whatever they are.

    Attributes:
        max_failures: How often a run whose process was lost is tried again.
        hang_limit_s: A running trial without a sign of life for so long is ended, and tried again; 0: never.
        callbacks: Told of what happens, before the pool is.
        body: What a trial runs; default: the worker's.
        notify: Told, in words, what a person should know.
        mirror: Where the experiment's folder has its twin.
    """

    max_failures: int = 2
    hang_limit_s: float = DEFAULT_LIMIT_S
    callbacks: tuple[Callback, ...] = ()
    body: Body | None = None
    notify: Callable[[str], None] = print
    mirror: Mirror = NO_MIRROR


def run_pool(pool: Pool, data: Mapping[str, DataHandle], folder: Path, execution: Execution) -> None:
    """Runs what a pool deals out, until it is over or a signal ends it.

    Args:
        pool: What is to be run.
        data: Directory of a prepared data set -> its handle.
        folder: The experiment's.
        execution: How it is run.

    Raises:
        EquipoiseError: What a stage refused as it was finished, among others.
    """
    if pool.is_over:
        return
    desk = _Desk(pool)
    tune_folder = folder.resolve() / TUNE_FOLDER
    shutil.rmtree(tune_folder, ignore_errors=True)  # of an earlier command, and of no use to this one
    pusher = _pusher(pool, folder, execution)
    with keys_kept(), _controller(), pending_trials(pool.places), pusher.sending(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tune.run(
                make_trainable(data, execution.body),
                name=tune_folder.name,
                storage_path=str(tune_folder.parent),
                num_samples=MOST_TRIALS,
                search_alg=_Dealer(desk),
                scheduler=_Referee(desk),
                callbacks=_callbacks(desk, pusher, folder, execution),
                max_failures=execution.max_failures,
                raise_on_failed_trial=False,
                reuse_actors=True,
                trial_name_creator=lambda trial: str(ticket_of(trial)),
                trial_dirname_creator=lambda trial: trial.trial_id,
                verbose=0,
            )
        except Exception:
            desk.raise_error()  # what came first: Tune's own files may be on the same full disk
            raise
    shutil.rmtree(tune_folder, ignore_errors=True)
    desk.raise_error()


def _controller() -> Any:
    return pool_controller(lambda trial: not ticket_of(trial).shape.worker_group)


def _pusher(pool: Pool, folder: Path, execution: Execution) -> JournalPusher:
    journals = [folder / name / JOURNAL_FILE for name, stage in pool.stages.items() if stage.is_search]
    return JournalPusher(execution.mirror, journals, execution.notify)


def _callbacks(desk: _Desk, pusher: JournalPusher, folder: Path, execution: Execution) -> list[Callback]:
    mirror = execution.mirror
    rules: list[Callback] = [RunPuller(execution.notify)] if mirror else []
    rules += [FailureRules(), *execution.callbacks, _Ends(desk, folder)]
    rules += [pusher if mirror else DiskWatch(folder, execution.notify)]
    if any(stage.shape.worker_group for stage in desk.pool.stages.values()):
        rules.append(RoomKeeper(run_dir_of))
    if execution.hang_limit_s:
        rules.append(Watchdog(execution.hang_limit_s, run_dir_of, mirror, in_group=_in_group))
    return rules


def _in_group(trial: Trial) -> bool:
    return ticket_of(trial).shape.worker_group


class _Desk:
    """Passes on to the pool; what goes wrong there ends the run and is raised when Tune has returned.

    Tune itself would wrap it in text, or go on without.
    """

    def __init__(self, pool: Pool):
        self.pool = pool
        self._error: BaseException | None = None

    def ask(self, call: Callable[[], T], otherwise: T) -> T:
        """Returns what a call returns; once something went wrong, the other value."""
        if self._error is None:
            try:
                return call()
            except Exception as error:  # noqa: BLE001 - raised by `raise_error`
                self._error = error
                end_search()
        return otherwise

    @property
    def has_error(self) -> bool:
        """Whether something went wrong."""
        return self._error is not None

    def raise_error(self) -> None:
        """Raises what went wrong."""
        if self._error is not None:
            raise self._error


class _Dealer(Searcher):
    """Gives Tune the pool's tickets as trials."""

    def __init__(self, desk: _Desk):
        super().__init__(metric=OBJECTIVE, mode="max")
        self._desk = desk

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Returns the next ticket; None where there is none for now, FINISHED when all is over."""
        pool = self._desk.pool
        ticket = self._desk.ask(pool.deal, None)
        if ticket is None:
            # Tune would wait ten minutes for a trial where nothing runs any more.
            return self.FINISHED if pool.is_over or self._desk.has_error else None
        return {KEY: ticket}

    def on_trial_complete(self, trial_id: str, result: dict[str, float] | None = None, error: bool = False) -> None:  # noqa: FBT001, FBT002 - as Tune has it
        """Learns nothing: the ends are entered by a callback, which knows the trial."""

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Is never asked to."""
        raise NotImplementedError


class _Referee(TrialScheduler):
    """Passes reports on to the pool, and ends the trials whose search has spent its budget."""

    def __init__(self, desk: _Desk):
        super().__init__()  # type: ignore[no-untyped-call]
        self._desk = desk
        self._trials: dict[Key, Trial] = {}

    @property
    def metric(self) -> str:
        """What trials are compared by."""
        return OBJECTIVE

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: object) -> bool:
        """Refuses another metric: it is the objective's."""
        return metric is None and mode is None

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Notes whose trial a ticket is."""
        self._trials[_key(trial)] = trial

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, float]) -> str:
        """Lets a trial go on, or ends it; a known epoch is decided as before."""
        ticket = ticket_of(trial)
        decision = self._desk.ask(lambda: self._desk.pool.report(ticket, result), "go")
        return self.CONTINUE if decision == "go" else self.STOP

    def on_trial_complete(self, tune_controller: TuneController, trial: Trial, result: dict[str, float]) -> None:
        """Forgets the trial."""
        self._trials.pop(_key(trial), None)

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        """Forgets the trial."""
        self._trials.pop(_key(trial), None)

    def on_trial_remove(self, tune_controller: TuneController, trial: Trial) -> None:
        """Forgets the trial."""
        self._trials.pop(_key(trial), None)

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """Ends what is overdue; chooses nothing: Tune starts every trial that it was given."""
        none: list[Key] = []
        for key in self._desk.ask(self._desk.pool.overdue, none):
            trial = self._trials.get(key)
            if trial is not None:
                tune_controller.stop_trial(trial)
        return None

    def debug_string(self) -> str:
        """Returns how many trials there are, for Tune's own printing, which is switched off."""
        return f"{len(self._trials)} trials"


def _key(trial: Trial) -> Key:
    ticket = ticket_of(trial)
    return ticket.stage, ticket.name


class _Ends(Callback):
    """Enters the starts and the ends of trials in the pool."""

    def __init__(self, desk: _Desk, folder: Path):
        self._desk = desk
        self._folder = folder

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """Enters that a process has the run."""
        self._desk.ask(lambda: self._desk.pool.started(ticket_of(trial)), None)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """Enters an end."""
        self._desk.ask(lambda: self._desk.pool.end(ticket_of(trial)), None)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """Enters that a run failed for good."""
        ticket = ticket_of(trial)
        self._desk.ask(lambda: self._fail(ticket), None)

    def _fail(self, ticket: Ticket) -> None:
        """Enters a failure, unless it is the disk's: then all would fail, and none be tried again when it is back."""
        fault = disk_fault(self._folder)
        if fault is not None:
            raise fault
        self._desk.pool.end(ticket, failure_reason(ticket.run_dir))
