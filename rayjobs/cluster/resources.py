"""What machines offer and what a trial asks for: how many trials run at once."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

import ray
import torch

from mmcore.errors import UsageError

READER_CPUS = 0.5
"""What is left to Ray Data's read tasks on each node where trials stream; without it a stream waits for ever."""


@dataclass(frozen=True)
class Node:
    """What one machine of the cluster has."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class TrialShape:
    """What one trial asks for.

    Attributes:
        workers: Processes that train together; of an elastic group the most.
        cpus_per_worker: CPU threads of each (`trainer.threads`).
        gpus_per_worker: GPUs of each; a fraction packs several on one.
        streams: Whether it reads through Ray Data's own tasks while it trains.
        min_workers: Fewest workers of an elastic group, which continues with those it has room for; None: it is fixed.
    """

    workers: int = 1
    cpus_per_worker: float = 1
    gpus_per_worker: float = 0
    streams: bool = False
    min_workers: int | None = None

    @property
    def worker_group(self) -> bool:
        """Whether it runs as a Ray Train worker group rather than in its own, reused process."""
        return self.workers > 1 or self.gpus_per_worker > 0

    def describe(self) -> str:
        """Returns what it asks for, for a person."""
        gpus = f" and {self.gpus_per_worker:g} GPU" if self.gpus_per_worker else ""
        number = f"{self.min_workers} to {self.workers}" if self.min_workers else f"{self.workers}"
        workers = "1 worker" if self.workers == 1 else f"{number} workers, each"
        form = "a Ray Train worker group" if self.worker_group else "a process that trials share in turn"
        return f"{workers} with {self.cpus_per_worker:g} CPU{gpus}, in {form}"


def nodes() -> list[Node]:
    """Returns what each living node of the cluster has."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0)) for resources in alive]


def local_node(cpus: int | None = None, gpus: int | None = None) -> Node:
    """Returns what a local Ray will have, without starting it: what is given, else what this process may use."""
    return Node(cpus or len(os.sched_getaffinity(0)), visible_gpus(gpus))


def visible_gpus(given: int | None = None) -> int:
    """Returns the GPUs a local Ray will have: those `given`, else those this process sees."""
    return torch.cuda.device_count() if given is None else given


def concurrent_trials(shape: TrialShape, available: list[Node], limit: int | None = None) -> int:
    """Returns how many trials run at once.

    Args:
        shape: What one trial asks for.
        available: What the nodes have.
        limit: At most so many, if given.

    Raises:
        UsageError: Not even one fits; says what was asked for and what there is. (Ray would wait for ever.)
    """
    workers = sum(_workers_on(node, shape) for node in available)
    fitting = workers // shape.workers
    if fitting < 1 and shape.min_workers and workers >= shape.min_workers:
        fitting = 1
    if fitting < 1:
        raise UsageError(_too_much(shape, available))
    return max(1, min(fitting, limit or fitting))


def tune_resources(shape: TrialShape) -> dict[str, float]:
    """Returns what Tune reserves for a trial; the workers of a group reserve their own.

    A group's trial process only waits: a CPU held by it would be one its workers wait for, so it claims memory.
    """
    if shape.worker_group:
        return {"CPU": 0, "memory": 64 * 2**20}
    return {"CPU": shape.cpus_per_worker, "GPU": shape.gpus_per_worker}


def _workers_on(node: Node, shape: TrialShape) -> int:
    cpus = node.cpus - (READER_CPUS if shape.streams else 0)
    fitting = math.floor(cpus / shape.cpus_per_worker + 1e-9)
    if shape.gpus_per_worker:
        fitting = min(fitting, _workers_on_gpus(node.gpus, shape.gpus_per_worker))
    return max(0, fitting)


def _workers_on_gpus(gpus: float, each: float) -> int:
    """A fraction never spans two GPUs."""
    return math.floor(1 / each + 1e-9) * math.floor(gpus) if each < 1 else math.floor(gpus / each)


def _too_much(shape: TrialShape, available: list[Node]) -> str:
    least = shape.min_workers or shape.workers
    asked = {"CPU": least * shape.cpus_per_worker, "GPU": least * shape.gpus_per_worker}
    there = {"CPU": sum(node.cpus for node in available), "GPU": sum(node.gpus for node in available)}
    machines = f"{len(available)} nodes" if len(available) > 1 else "1 node"
    readers = (
        f", of which {READER_CPUS:g} a node is left to the readers of a streamed data set" if shape.streams else ""
    )
    return (
        f"a trial asks for {shape.describe()}: {_amounts(asked)} in all; "
        f"the cluster has {_amounts(there)} on {machines}{readers}. Lower --workers or --gpus-per-worker "
        "(--gpus-per-worker 0 trains on CPUs), or give a larger cluster with --address"
    )


def _amounts(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in resources.items())
