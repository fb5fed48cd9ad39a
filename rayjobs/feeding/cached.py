"""A data set's rows in the object store, shared by all trials of a node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray

from mmcore.batch import Batch
from mmcore.data.feeding.loader import TensorLoader
from mmcore.data.prepared.columns import to_batch
from mmcore.data.prepared.store import PreparedDataset
from mmcore.data.splits import Assignment

_resident: dict[str, tuple[Batch, pa.Table]] = {}  # this process's data set, by fingerprint


@dataclass(frozen=True)
class CachedData:
    """A prepared data set in the object store; a small handle to pass to trials (with `tune.with_parameters`).

    Attributes:
        prepared: The data set; its files are not read again.
        content: Reference to (table of all rows in index order, index).
    """

    prepared: PreparedDataset
    content: ray.ObjectRef[tuple[pa.Table, pa.Table]]

    def loader(self, assignment: Assignment, batch_size: int, **options: Any) -> TensorLoader:
        """Returns a loader over the shared memory; `options` are those of `TensorLoader`.

        The process keeps the tensors, so that the next trial in it starts at once.
        """
        data, index = self._resident()
        return TensorLoader(data, index, assignment, batch_size, **options)

    def _resident(self) -> tuple[Batch, pa.Table]:
        key = self.prepared.fingerprint
        if key not in _resident:
            _resident.clear()  # another search's data set would keep its memory in use
            table, index = ray.get(self.content)
            _resident[key] = to_batch(table, self.prepared.spec), index
        return _resident[key]


def materialise(prepared: PreparedDataset, budget_bytes: int | None = None) -> CachedData | None:
    """Puts a data set in the object store, once, by the driver; None if it does not fit.

    The driver reads the files itself: Ray Data's read tasks take seconds to start for the same table.

    Args:
        prepared: The data set; every file's checksum is verified.
        budget_bytes: The most it may take; None for `default_budget_bytes()`.

    Raises:
        DataError: A file is damaged; the message names it.
    """
    if prepared.num_bytes > (default_budget_bytes() if budget_bytes is None else budget_bytes):
        return None
    prepared.verify()
    table = prepared.read_table().combine_chunks()
    return CachedData(prepared, ray.put((table, prepared.index)))


def default_budget_bytes() -> int:
    """Returns 40 % of the smallest node's object store: every node that runs trials holds a copy."""
    return int(0.4 * smallest_store_bytes())


def smallest_store_bytes() -> float:
    """Returns the size of the smallest object store among the nodes."""
    return min(float(node["Resources"].get("object_store_memory", 0)) for node in ray.nodes() if node["Alive"])
