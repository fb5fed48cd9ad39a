"""Writes the parts of a raw data set by Ray Data, on all nodes of a cluster or all cores of this machine."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mmcore.data.prepared.part_files import PlannedPart, Writer, run_here
from rayjobs.cluster.resources import Node

MIN_PARTS = 12
"""Fewer are written by this process: a local Ray takes about as long to start as a core to write these."""


class RayParts:
    """Runs a part writer by Ray Data, a task for each part; see `mmcore.data.prepared.part_files.RunParts`.

    Args:
        address: A Ray cluster to join; None: a local Ray, started only if there is enough to do.
        cpus: CPUs of this machine to use; None: all.
        verbose: Show Ray's own log.
    """

    def __init__(self, *, address: str | None = None, cpus: int | None = None, verbose: bool = False):
        self._address = address
        self._cpus = cpus
        self._verbose = verbose

    def __call__(self, writer: Writer, parts: Sequence[PlannedPart]) -> Iterator[dict[str, Any]]:
        """Yields each part's report as it is done."""
        if self._address is None and len(parts) < MIN_PARTS:
            yield from self.run_here(writer, parts)
            return
        from rayjobs.cluster import session

        with session.start(self._address, num_cpus=self._cpus, verbose=self._verbose) as nodes:
            yield from self.run_there(writer, parts, nodes)

    def run_here(self, writer: Writer, parts: Sequence[PlannedPart]) -> Iterator[dict[str, Any]]:
        """Yields each part's report from this process."""
        yield from run_here(writer, parts)

    def run_there(
        self, writer: Writer, parts: Sequence[PlannedPart], nodes: Sequence[Node]
    ) -> Iterator[dict[str, Any]]:
        """Yields each part's report from a running Ray of these nodes."""
        yield from run_by_ray_data(writer, parts)


def run_by_ray_data(writer: Writer, parts: Sequence[PlannedPart]) -> Iterator[dict[str, Any]]:
    """Yields each part's report from a running Ray."""
    import ray.data

    from rayjobs.feeding.streaming import quiet_ray_data

    quiet_ray_data()
    items = [{"part": pickle.dumps(part)} for part in parts]
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    for row in dataset.map(_task(writer), num_cpus=1).iter_rows():
        yield json.loads(row["report"])


def _task(writer: Writer) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Returns what runs in a task; reports travel as JSON, since Arrow would give each another schema."""

    def write(row: dict[str, bytes]) -> dict[str, Any]:
        return {"report": json.dumps(writer(pickle.loads(row["part"])))}  # noqa: S301 (made by this command)

    return write
