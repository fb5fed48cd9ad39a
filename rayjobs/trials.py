"""A trial: one run of the worker's body, in a process that trials share in turn, or in a Ray Train worker group.

What is pickled into a search's state is defined here, never in a program's `__main__`.
"""

from __future__ import annotations

import contextlib
import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ray import tune
from ray.exceptions import RayError, RayTaskError
from ray.tune import Callback

from mmcore.config import RunConfig
from mmcore.errors import EquipoiseError
from rayjobs.cluster import TrialShape, tune_resources
from rayjobs.files import read_json, write_json
from rayjobs.lineage import HANDED_OVER, PROGRESS_FILE, read_schedule, take_over
from rayjobs.mirror import NO_MIRROR, NOTES, Follower, Mirror
from rayjobs.reporters import FATAL, TuneReporter
from rayjobs.watchdog import FAILURE_FILE, PROCESS_FILES, announce, end_workers

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

    from mmcore.reporting import Reporter
    from rayjobs.worker import Job

Body = Callable[["Job", "Reporter"], dict[str, Any]]
"""`rayjobs.worker.run`, or a stand-in of a test."""


class LostWorkers(OSError):
    """Workers of a group went away; the run can go on from its last checkpoint."""


class Runs(Protocol):
    """What the trials of one experiment are made from."""

    @property
    def mirror(self) -> Mirror:
        """Where the runs' folders have their twins."""

    def run_dir(self, name: str, values: Mapping[str, Any]) -> Path:
        """Returns the folder of the trial `name`, given the values Tune chose for it."""

    def job(self, run_dir: Path, values: Mapping[str, Any]) -> Job:
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

    def run_dir(self, name: str, values: Mapping[str, Any]) -> Path:
        """Returns the folder of a trial."""
        return self.folder / name

    def job(self, run_dir: Path, values: Mapping[str, Any]) -> Job:
        """Returns a trial's job."""
        from rayjobs.worker import Job

        schedule = read_schedule(run_dir)  # rather than Tune's values: a driver may have been killed between the two
        values = schedule[-1].values if schedule else {path: plain(value) for path, value in values.items()}
        config = RunConfig.parse(self.config).with_values(values).to_dict()
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

    def run_dir(self, name: str, values: Mapping[str, Any]) -> Path:
        """Returns the folder of the job whose number Tune chose."""
        return Path(self.jobs[int(values["run"])].run_dir)

    def job(self, run_dir: Path, values: Mapping[str, Any]) -> Job:
        """Returns the job whose number Tune chose."""
        return self.jobs[int(values["run"])]


def make_trainable(runs: Runs, shape: TrialShape, body: Body | None = None) -> Callable[[dict[str, Any]], None]:
    """Returns the function Tune runs for each trial, with the resources it needs.

    Args:
        runs: What the trials are made from; reaches them through the object store.
        shape: Which form a trial takes, and what it asks for.
        body: What is run; default: the worker's.
    """
    trainable = tune.with_parameters(run_trial, runs=runs, shape=shape, body=body)
    return tune.with_resources(trainable, tune_resources(shape))


def run_trial(values: dict[str, Any], runs: Runs, shape: TrialShape, body: Body | None) -> None:
    """Runs one trial inside the process Tune started for it.

    A lost process is Tune's to retry. What would fail again is recorded with its reason and reported as fatal
    before the exception goes up, since Tune retries every exception alike.
    """
    run_dir = runs.run_dir(tune.get_context().get_trial_name(), values)
    # Of a worker group, what the run itself writes is the first worker's to push.
    own = (PROCESS_FILES, *NOTES) if shape.worker_group else ()
    with runs.mirror.following(run_dir, own) as follower:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / FAILURE_FILE).unlink(missing_ok=True)
        announce(run_dir, "trial")
        follower.push()
        _run_body(run_dir, values, runs, shape, body, follower)


def _run_body(
    run_dir: Path, values: dict[str, Any], runs: Runs, shape: TrialShape, body: Body | None, follower: Follower
) -> None:
    try:
        if shape.worker_group and (run_dir / HANDED_OVER).is_dir():
            end_workers(run_dir)  # those of the weights that are given up, which might still write
        take_over(run_dir)
        job = runs.job(run_dir, values)
        if shape.worker_group:
            from rayjobs.groups import run_group

            run_group(job, shape, body or worker_body())
        else:
            select = job.config["trainer"]["select"]
            (body or worker_body())(job, TuneReporter(run_dir, select, job.snapshot_every, follower.push))
    except Exception as error:
        record_failure(run_dir, error)
        with contextlib.suppress(OSError):  # storage that is away must not hide what went wrong
            follower.push()
        if is_fatal(error):
            tune.report({**(read_json(run_dir / PROGRESS_FILE) or {"epoch": 0}), FATAL: True})
        raise


def worker_body() -> Body:
    """Returns the worker's body; imported late, since it brings torch with it."""
    from rayjobs.worker import run

    return run


def is_fatal(error: BaseException) -> bool:
    """Tells whether a run that failed with `error` would fail again.

    Not so: a lost process, node or object, and storage that is full or away. Everything else comes from the input:
    configuration, damaged data, a loss that is not finite, an exception in a method.
    """
    if isinstance(error, EquipoiseError):
        return True
    if isinstance(error, RayTaskError):
        return is_fatal(error.cause) if isinstance(error.cause, BaseException) else True
    return not isinstance(error, RayError | OSError | ConnectionError)


def record_failure(run_dir: Path, error: BaseException) -> None:
    """Writes why a run failed into its folder, where the ranking finds it; not over why its workers were ended."""
    if isinstance(error, LostWorkers) and (run_dir / FAILURE_FILE).is_file():
        return  # the watchdog's, which ends a group's workers and its trial at the same time
    named = isinstance(error, EquipoiseError | LostWorkers)
    reason = str(error) if named else f"{type(error).__name__}: {brief(str(error))}"
    trace = "".join(traceback.format_exception(error))
    try:
        write_json(run_dir / FAILURE_FILE, {"reason": reason, "fatal": is_fatal(error), "traceback": trace}, False)
    except OSError:  # a full disk must not hide what went wrong
        return


def brief(text: str) -> str:
    """Returns the first and the last line of a message: Ray's hold whole tracebacks, with colours."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()]
    return " ... ".join(dict.fromkeys([lines[0], lines[-1]])) if lines else "no message"


def failure_reason(run_dir: Path) -> str:
    """Returns why a run failed: what it said itself, or that its process was lost."""
    failure = read_json(run_dir / FAILURE_FILE)
    return str(failure["reason"]) if failure else "its process was lost (killed, out of memory, or its node went away)"


class FailureRules(Callback):
    """A trial that reported a fatal failure is not tried again."""

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Takes away the retries of a trial whose last report is fatal."""
        if result.get(FATAL):
            trial.max_failures = 0


def trial_name(trial: Trial) -> str:
    """Returns `trial-003` for the third trial of an experiment: its name and that of its folder."""
    number = (trial.experiment_tag or "0").partition("_")[0]
    return f"trial-{int(number):03d}"


def plain(value: Any) -> Any:
    """Returns NumPy's numbers, which HyperOpt draws, as Python's own."""
    return value.item() if hasattr(value, "item") else value
