"""Encodes the parts of a data set by Ray Data, in actors that hold the frozen encoders; and the flags that ask for it.

Each actor claims a GPU where there are GPUs, else CPUS_PER_ACTOR CPUs, with one torch thread for each.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from mmcore.data.prepared.part_files import PlannedPart, Writer
from rayjobs.cluster.resources import Node
from rayjobs.preparing.raw_tasks import RayParts

CPUS_PER_ACTOR = 4
"""At most; a node with fewer gives all it has. More actors would each hold the encoders' weights."""


class RayEncoders(RayParts):
    """Runs an encoding writer over parts, in actors; in this process with a torch thread for each of its CPUs."""

    def run_here(self, writer: Writer, parts: Sequence[PlannedPart]) -> Iterator[dict[str, Any]]:
        """Yields each part's report from this process."""
        with _threads(self._cpus or len(os.sched_getaffinity(0))):
            yield from super().run_here(writer, parts)

    def run_there(
        self, writer: Writer, parts: Sequence[PlannedPart], nodes: Sequence[Node]
    ) -> Iterator[dict[str, Any]]:
        """Yields each part's report from a running Ray."""
        yield from encode_by_ray_data(writer, parts, nodes)


def encode_by_ray_data(writer: Writer, parts: Sequence[PlannedPart], nodes: Sequence[Node]) -> Iterator[dict[str, Any]]:
    """Yields each part's report from actors of a running Ray. One that is killed is replaced, its part done again."""
    import ray.data

    from rayjobs.feeding.streaming import quiet_ray_data

    quiet_ray_data()
    number, claim = actors_of(nodes)
    items = [{"part": pickle.dumps(part)} for part in parts]
    strategy = ray.data.ActorPoolStrategy(min_size=1, max_size=min(number, len(parts)), max_tasks_in_flight_per_actor=2)
    actor: Any = _Actor
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
        actor, fn_constructor_args=(writer, int(claim.get("num_cpus", 1))), compute=strategy, **claim
    )
    for row in dataset.iter_rows():
        yield json.loads(row["report"])


def actors_of(nodes: Sequence[Node]) -> tuple[int, dict[str, Any]]:
    """Returns how many actors a cluster holds, and what each claims: a GPU and a CPU, or a share of the CPUs."""
    gpus = sum(int(node.gpus) for node in nodes)
    if gpus:
        return gpus, {"num_gpus": 1, "num_cpus": 1}
    share = max(1, min(CPUS_PER_ACTOR, int(min(node.cpus for node in nodes if node.cpus))))
    return max(1, sum(int(node.cpus // share) for node in nodes)), {"num_cpus": share}


class _Actor:
    """Encodes parts in a process of its own; the encoders are built with the first."""

    def __init__(self, writer: Writer, threads: int):
        torch.set_num_threads(threads)
        self._write = writer

    def __call__(self, row: dict[str, bytes]) -> dict[str, Any]:
        part = pickle.loads(row["part"])  # noqa: S301 (made by this command)
        return {"report": json.dumps(self._write(part))}


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
