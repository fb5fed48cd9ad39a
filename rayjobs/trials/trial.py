"""A trial: one run of the worker's body, in a process that trials share in turn, or in a Ray Train worker group."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import cast

from ray import tune
from ray.tune import PlacementGroupFactory

from mmcore.assembly.config import parse_config, with_values
from rayjobs.cluster.resources import tune_resources
from rayjobs.feeding.handle import DataHandle
from rayjobs.results_layout import FAILURE_FILE, HANDED_OVER, NOTES, PROCESS_FILES, PROGRESS_FILE
from rayjobs.runs.epochs.progress import FATAL
from rayjobs.runs.epochs.reporters import TuneReporter
from rayjobs.runs.handover import read_schedule, take_over
from rayjobs.runs.job import Body, Job
from rayjobs.storage.files import read_json
from rayjobs.storage.follower import Follower, following
from rayjobs.trials.failures import is_fatal, record_failure
from rayjobs.trials.ticket import KEY, Ticket
from rayjobs.trials.watchdog import announce, end_workers

Config = dict[str, object]
"""A trial's, as Tune passes it on: its ticket."""


def make_trainable(data: Mapping[str, DataHandle], body: Body | None = None) -> Callable[[Config], None]:
    """Returns the function Tune runs for each trial, with the resources its ticket asks for.

    Args:
        data: Directory of a prepared data set -> its handle; reaches the trials through the object store.
        body: What is run; default: the worker's.
    """
    trainable = tune.with_parameters(run_trial, data=dict(data), body=body)
    placed: Callable[[Config], None] = tune.with_resources(trainable, _resources)
    return placed


def _resources(config: Config) -> PlacementGroupFactory:
    return PlacementGroupFactory([tune_resources(cast(Ticket, config[KEY]).shape)])


def run_trial(config: Config, data: Mapping[str, DataHandle], body: Body | None) -> None:
    """Runs one trial inside the process Tune started for it.

    Tune retries a trial after every exception alike. That is right for a lost process; an error that would come again
    is recorded with its reason and reported as fatal before the exception goes up, so that the trial stops.
    """
    ticket = cast(Ticket, config[KEY])
    run_dir = ticket.run_dir
    # In a worker group the first worker pushes what the run itself writes: two writers of one file would race.
    own = (PROCESS_FILES, *NOTES) if ticket.shape.worker_group else ()
    with following(ticket.job.mirror, run_dir, own) as follower:
        ticket.job.make_folder()
        (run_dir / FAILURE_FILE).unlink(missing_ok=True)  # an earlier attempt's: it would be taken for this one's
        # The watchdog must know of the process before anything in it can hang.
        announce(run_dir, "trial")
        follower.push()
        _run_body(ticket, data, body, follower)


def _run_body(ticket: Ticket, data: Mapping[str, DataHandle], body: Body | None, follower: Follower) -> None:
    run_dir, shape = ticket.run_dir, ticket.shape
    try:
        if shape.worker_group and (run_dir / HANDED_OVER).is_dir():
            end_workers(run_dir)  # those of the weights that are given up, which might still write
        # Before the job is made, whose settings come with the weights.
        take_over(run_dir)
        job = _job(ticket, data)
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


def _job(ticket: Ticket, data: Mapping[str, DataHandle]) -> Job:
    """Returns a ticket's job with its data, and with the settings that came with another run's weights."""
    job = replace(ticket.job, data=data[ticket.job.data.directory])
    schedule = read_schedule(ticket.run_dir)
    if not schedule:
        return job
    config = with_values(parse_config(job.config), schedule[-1].values).to_dict()
    return replace(job, config=config, schedule=schedule)


def worker_body() -> Body:
    """Returns the worker's body; imported late, since it brings torch with it."""
    from rayjobs.runs.parts import run

    return run
