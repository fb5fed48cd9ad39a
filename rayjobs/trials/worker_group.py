"""A run as a Ray Train worker group: several workers, or workers with GPUs.

Train's own retries are not used: they would retry a wrong configuration too. Whoever called decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch.distributed
from ray import train
from ray.train import TrainingFailedError, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.util.placement_group import get_current_placement_group

from mmcore.errors import EquipoiseError
from rayjobs.cluster.resources import TrialShape
from rayjobs.ray_internals.groups import has_real_gpus, is_lost_worker
from rayjobs.results_layout import ALIVE_FILES, GROUP_FILE, PROCESS_FILES, SIZES_FILE, TRAIN_FOLDER
from rayjobs.runs.epochs.reporters import TrainReporter
from rayjobs.runs.job import Body, Job
from rayjobs.runs.result import group_sizes
from rayjobs.storage.files import write_json, write_text
from rayjobs.storage.follower import following
from rayjobs.trials.failures import LostWorkers
from rayjobs.trials.group_reports import forwarding
from rayjobs.trials.group_room import give_back_room, note_claim
from rayjobs.trials.watchdog import announce


def run_group(job: Job, shape: TrialShape, body: Body) -> None:
    """Runs a job's body in a worker group and waits for its end; results are in the run's folder.

    Args:
        job: What to run.
        shape: How many workers, and what each claims.
        body: What each worker runs.

    Raises:
        EquipoiseError: The run cannot succeed; the first worker's own error.
        LostWorkers: Workers were lost; running again resumes.
        Exception: Whatever else the body raised.
    """
    run_dir = Path(job.run_dir)
    give_back_room(run_dir)
    if shape.min_workers:
        job = replace(job, elastic=(shape.min_workers, shape.workers))
    try:
        with forwarding() as callbacks:
            trainer = _trainer(job, shape, body, callbacks)
            note_claim(run_dir, trainer)
            trainer.fit()
    except TrainingFailedError as error:
        raise _cause(error) from error
    finally:
        give_back_room(run_dir)


def _trainer(job: Job, shape: TrialShape, body: Body, callbacks: Sequence[UserCallback]) -> TorchTrainer:
    resources = {"CPU": shape.cpus_per_worker}
    if shape.gpus_per_worker:
        resources["GPU"] = shape.gpus_per_worker
    return TorchTrainer(
        partial(_work, job, body),
        # NCCL refuses two workers on one GPU.
        torch_config=TorchConfig(backend="nccl" if shape.gpus_per_worker >= 1 and has_real_gpus() else "gloo"),
        scaling_config=train.ScalingConfig(
            num_workers=_num_workers(shape),  # type: ignore[arg-type]  # a pair is elastic
            use_gpu=shape.gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        run_config=train.RunConfig(
            name=TRAIN_FOLDER,
            storage_path=job.run_dir,
            callbacks=list(callbacks),  # type: ignore[arg-type]
            failure_config=train.FailureConfig(max_failures=0),
        ),
    )


def _num_workers(shape: TrialShape) -> int | tuple[int, int]:
    return (shape.min_workers, shape.workers) if shape.min_workers else shape.workers


def _work(job: Job, body: Body) -> None:
    run_dir, rank = Path(job.run_dir), train.get_context().get_world_rank()
    own = (ALIVE_FILES, PROCESS_FILES) if rank else ()
    if torch.cuda.is_available():  # a worker sees the GPUs of all workers on its node
        torch.cuda.set_device(get_device())
    with following(job.mirror, run_dir, own) as follower:
        if job.mirror:  # what one writes, another on its node would still take for a leftover
            torch.distributed.barrier()
        job.make_folder()
        announce(run_dir, f"worker-{rank}")
        if job.elastic and rank == 0:
            write_json(run_dir / SIZES_FILE, [*group_sizes(run_dir), train.get_context().get_world_size()])
        group = get_current_placement_group() if rank == 0 else None
        if group is not None:
            write_text(run_dir / GROUP_FILE, group.id.hex())
        follower.push()
        reporter = TrainReporter(run_dir, job.select, job.snapshot_every, follower.push)
        body(job, reporter)


def _cause(error: TrainingFailedError) -> BaseException:
    """Returns what a group's failure comes from: a worker's own exception, or the loss of workers.

    Where a worker is lost, the others fail too, in the communication with it; and where one raises, they lose it.
    """
    failures = {rank: _own_exception(failure) for rank, failure in getattr(error, "worker_failures", {}).items()}
    own = [cause for _, cause in sorted(failures.items()) if cause is not None]
    ours = [cause for cause in own if isinstance(cause, EquipoiseError)]
    if ours:
        return ours[0]
    if own and len(own) == len(failures) and not any(is_communication_failure(cause) for cause in own):
        return own[0]
    lost = [str(rank) for rank, cause in sorted(failures.items()) if cause is None or is_communication_failure(cause)]
    what = f"worker {', '.join(lost)} of its group was" if lost else "its worker group was"
    return LostWorkers(f"{what} lost (killed, out of memory, or its node went away)")


def is_communication_failure(error: BaseException) -> bool:
    """Tells whether an exception comes from talking to another worker, which NCCL and gloo say differently."""
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in ("gloo", "Connection closed by peer"))
    )


def _own_exception(failure: BaseException) -> BaseException | None:
    """Returns the exception the body raised in a worker; None if the worker was lost."""
    return None if is_lost_worker(failure) else failure
