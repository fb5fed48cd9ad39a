"""A run as a Ray Train worker group: several workers, or workers with GPUs.

Train's own retries are not used: they would retry a wrong configuration too. Whoever called decides.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import train
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.trainable.trainable_fn_utils import _in_tune_session
from ray.util.placement_group import PlacementGroup, get_current_placement_group, remove_placement_group

from mmcore.errors import EquipoiseError
from rayjobs.cluster import TrialShape
from rayjobs.reporters import TrainReporter

if TYPE_CHECKING:
    from ray.train.v2.api.exceptions import TrainingFailedError

    from rayjobs.trials import Body
    from rayjobs.worker import Job

GROUP_FILE = "placement_group"
TRAIN_FOLDER = "train"


class LostWorkers(OSError):  # noqa: N818 - named for what happened
    """Workers of a group went away; the run can go on from its last checkpoint."""


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
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    run_dir = Path(job.run_dir)
    remove_leaked_group(run_dir)
    resources = {"CPU": shape.cpus_per_worker}
    if shape.gpus_per_worker:
        resources["GPU"] = shape.gpus_per_worker
    trainer = TorchTrainer(
        partial(_work, job, body),
        torch_config=TorchConfig(backend="nccl" if _whole_gpus(shape) else "gloo"),
        scaling_config=train.ScalingConfig(
            num_workers=shape.workers, use_gpu=shape.gpus_per_worker > 0, resources_per_worker=resources
        ),
        run_config=train.RunConfig(
            name=TRAIN_FOLDER,
            storage_path=str(run_dir),
            callbacks=[TuneReportCallback()] if _in_tune_session() else [],
            failure_config=train.FailureConfig(max_failures=0),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise _cause(error) from error
    (run_dir / GROUP_FILE).unlink(missing_ok=True)


def remove_leaked_group(run_dir: Path) -> None:
    """Removes the placement group an earlier, killed attempt at this run left behind.

    Train removes it through the dashboard alone; without one it would hold its resources for ever.
    """
    path = run_dir / GROUP_FILE
    if path.is_file():
        group_id = ray.PlacementGroupID(bytes.fromhex(path.read_text()))
        remove_placement_group(PlacementGroup(group_id))
        path.unlink()


def _work(job: Job, body: Body) -> None:
    run_dir = Path(job.run_dir)
    if train.get_context().get_world_rank() == 0:
        group = get_current_placement_group()
        if group is not None:
            (run_dir / GROUP_FILE).write_text(group.id.hex())
    body(job, TrainReporter(run_dir, job.config["trainer"]["select"]))


def _whole_gpus(shape: TrialShape) -> bool:
    """NCCL refuses two workers on one GPU."""
    return shape.gpus_per_worker >= 1


def _cause(error: TrainingFailedError) -> BaseException:
    """Returns what a group's failure comes from: a worker's own exception, or the loss of workers."""
    failures = getattr(error, "worker_failures", {})
    causes: list[Any] = [_innermost(failure) for _, failure in sorted(failures.items())]
    for kind in (EquipoiseError, Exception):
        own = [cause for cause in causes if isinstance(cause, kind) and not isinstance(cause, ray.exceptions.RayError)]
        if own:
            return own[0]
    return LostWorkers(str(causes[0] if causes else error).splitlines()[0])


def _innermost(error: BaseException) -> BaseException:
    """Returns the exception the body raised, without what Ray put around it."""
    while True:
        inner = getattr(error, "_base_exc", None) or getattr(error, "cause", None)
        if not isinstance(inner, BaseException):
            return error
        error = inner
