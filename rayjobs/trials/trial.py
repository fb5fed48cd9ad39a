"""A trial: one run of the worker's body, in a process that trials share in turn, or in a Ray Train worker group.

What is pickled into a search's state is defined here, never in a program's `__main__`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from ray import tune

from mmcore.assembly.config import parse_config, with_values
from mmcore.config.plain import Plain, Settings
from mmcore.config.sections import plain
from rayjobs.cluster.resources import TrialShape, tune_resources
from rayjobs.results_layout import FAILURE_FILE, HANDED_OVER, NOTES, PROCESS_FILES, PROGRESS_FILE
from rayjobs.runs.handover import read_schedule, take_over
from rayjobs.runs.job import Body
from rayjobs.runs.progress import FATAL
from rayjobs.runs.reporters import TuneReporter
from rayjobs.storage.files import read_json
from rayjobs.storage.follower import Follower, following
from rayjobs.storage.mirror import NO_MIRROR, Mirror
from rayjobs.trials.failures import is_fatal, record_failure
from rayjobs.trials.watchdog import announce, end_workers

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

    from rayjobs.runs.job import Job


class Runs(Protocol):
    """What the trials of one experiment are made from."""

    @property
    def mirror(self) -> Mirror:
        """Where the runs' folders have their twins."""

    def run_dir(self, name: str, values: Settings) -> Path:
        """Returns the folder of the trial `name`, given the values Tune chose for it."""

    def job(self, run_dir: Path, values: Settings) -> Job:
        """Returns the trial's job."""


@dataclass(frozen=True)
class SearchRuns:
    """Trials of a search: one configuration, with searched values put in.

    Attributes:
        config: The configuration.
        data: Handle of the prepared data.
        folder: The search's folder; each trial has one in it.
        command: For the ledger.
        snapshot_every: Epochs between the exchanges of a population; 0: trials are on their own.
        mirror: Where the folder has its twin.
    """

    config: dict[str, Any]
    data: Any
    folder: Path
    command: str
    snapshot_every: int = 0
    mirror: Mirror = NO_MIRROR

    def run_dir(self, name: str, values: Settings) -> Path:
        """Returns the folder of a trial."""
        return self.folder / name

    def job(self, run_dir: Path, values: Settings) -> Job:
        """Returns a trial's job."""
        from rayjobs.runs.job import Job

        schedule = read_schedule(run_dir)  # rather than Tune's values: a driver may have been killed between the two
        values = schedule[-1].values if schedule else {path: plain(value) for path, value in values.items()}
        config = with_values(parse_config(self.config), values).to_dict()
        return Job(
            config,
            self.data,
            str(run_dir),
            command=self.command,
            schedule=schedule,
            snapshot_every=self.snapshot_every,
            mirror=self.mirror,
        )


@dataclass(frozen=True)
class GivenRuns:
    """Trials that are given one by one: the final models."""

    jobs: tuple[Job, ...]

    @property
    def mirror(self) -> Mirror:
        """Where the runs' folders have their twins."""
        return self.jobs[0].mirror

    def run_dir(self, name: str, values: Settings) -> Path:
        """Returns the folder of the job whose number Tune chose."""
        return Path(self.jobs[int(cast(int, values["run"]))].run_dir)

    def job(self, run_dir: Path, values: Settings) -> Job:
        """Returns the job whose number Tune chose."""
        return self.jobs[int(cast(int, values["run"]))]


def make_trainable(runs: Runs, shape: TrialShape, body: Body | None = None) -> Callable[[dict[str, Plain]], None]:
    """Returns the function Tune runs for each trial, with the resources it needs.

    Args:
        runs: What the trials are made from; reaches them through the object store.
        shape: Which form a trial takes, and what it asks for.
        body: What is run; default: the worker's.
    """
    trainable = tune.with_parameters(run_trial, runs=runs, shape=shape, body=body)
    placed: Callable[[dict[str, Plain]], None] = tune.with_resources(trainable, tune_resources(shape))
    return placed


def run_trial(values: dict[str, Plain], runs: Runs, shape: TrialShape, body: Body | None) -> None:
    """Runs one trial inside the process Tune started for it.

    Tune retries a trial after every exception alike. That is right for a lost process; an error that would come again
    is recorded with its reason and reported as fatal before the exception goes up, so that the trial stops.
    """
    run_dir = runs.run_dir(tune.get_context().get_trial_name(), values)
    # In a worker group the first worker pushes what the run itself writes: two writers of one file would race.
    own = (PROCESS_FILES, *NOTES) if shape.worker_group else ()
    with following(runs.mirror, run_dir, own) as follower:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / FAILURE_FILE).unlink(missing_ok=True)  # an earlier attempt's: it would be taken for this one's
        # The watchdog must know of the process before anything in it can hang.
        announce(run_dir, "trial")
        follower.push()
        _run_body(run_dir, values, runs, shape, body=body, follower=follower)


def _run_body(
    run_dir: Path, values: dict[str, Plain], runs: Runs, shape: TrialShape, *, body: Body | None, follower: Follower
) -> None:
    try:
        if shape.worker_group and (run_dir / HANDED_OVER).is_dir():
            end_workers(run_dir)  # those of the weights that are given up, which might still write
        # Before the job is made, whose settings come with the weights.
        take_over(run_dir)
        job = runs.job(run_dir, values)
        if shape.worker_group:
            from rayjobs.trials.worker_group import run_group

            run_group(job, shape, body or worker_body())
        else:
            (body or worker_body())(job, TuneReporter(run_dir, job.select, job.snapshot_every, follower.push))
    except Exception as error:
        # Written and pushed before the exception goes up: after it, Tune may end this process at any moment.
        record_failure(run_dir, error)
        with contextlib.suppress(OSError):  # storage that is away must not hide what went wrong
            follower.push()
        if is_fatal(error):
            tune.report({**(read_json(run_dir / PROGRESS_FILE) or {"epoch": 0}), FATAL: True})
        raise


def worker_body() -> Body:
    """Returns the worker's body; imported late, since it brings torch with it."""
    from rayjobs.runs.worker import run

    return run


def trial_name(trial: Trial) -> str:
    """Returns `trial-003` for the third trial of an experiment: its name and that of its folder."""
    # Tune's tag begins with the trial's number in the experiment: "3_lr=0.1".
    number = (trial.experiment_tag or "0").partition("_")[0]
    return f"trial-{int(number):03d}"
