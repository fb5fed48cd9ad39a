"""Worker groups of Ray Train: their claim on the cluster's room, the trial they belong to, whose failure theirs is."""

from __future__ import annotations

import contextlib
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train.v2._internal.exceptions import RayTrainError
from ray.tune.trainable.trainable_fn_utils import _in_tune_session

COORDINATOR = "AutoscalingCoordinator"
"""Name and namespace of the actor that deals the cluster's room out."""
GPU_TYPE = "accelerator_type:"
"""Begins the name of the resource by which a node tells which GPUs it has."""


def in_tune_session() -> bool:
    """Tells whether this process runs a trial of Tune's."""
    return bool(_in_tune_session())


def claim_of(trainer: Any) -> str:
    """Returns what the claim of a trainer's group will be called at the coordinator."""
    return f"train-{trainer.train_run_context.run_id}"


def cancel_claim(claim: str) -> None:
    """Takes a claim back; of another Ray's, which has no such actor, nothing."""
    with contextlib.suppress(ValueError):
        coordinator: Any = ray.get_actor(COORDINATOR, namespace=COORDINATOR)
        coordinator.cancel_request.remote(claim)


def is_lost_worker(failure: BaseException) -> bool:
    """Tells the loss of a worker, of which Ray tells in its own exceptions, from what its body raised."""
    return isinstance(failure, RayTrainError | RayError)


def has_real_gpus() -> bool:
    """Tells GPUs from a mere count given to Ray, as tests do."""
    return any(name.startswith(GPU_TYPE) for name in ray.cluster_resources())
