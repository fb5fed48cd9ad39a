"""Batches of one worker: the interface of every loader, and the one that serves from memory.

The order of an epoch is a pure function of (seed, epoch), and every global batch is cut contiguously among
the workers, so that k workers see exactly what one sees.

Shape legend: N samples of a split, B samples of one worker's shard.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch

from mmcore.batch import NUM_UNIFORMS, Batch
from mmcore.data.epoch_plan import EpochPlan
from mmcore.data.feeding.order import epoch_order, planned_order, step_bounds
from mmcore.data.prepared.columns import to_batch
from mmcore.data.prepared.store import PreparedDataset
from mmcore.data.spec import SPLITS
from mmcore.data.splits import Assignment

# Keep the random streams of one (seed, epoch) apart: 1 and 5 are `order`'s, 3 is `windows`'s.
_UNIFORMS, _PART = 2, 4


@dataclass(frozen=True)
class Rows:
    """What describes the samples of one split, in evaluation order over all ranks.

    Attributes:
        sample_ids: (N,) str objects.
        labels: (N,) int64.
        groups: (N,) str objects; see `mmcore.data.spec.Sample.group`.
        sources: (N,) str objects; see `mmcore.data.spec.Sample.source`.
    """

    sample_ids: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    sources: np.ndarray


class Loader(Protocol):
    """Gives one worker its batches."""

    @property
    def num_steps(self) -> int:
        """Steps of an epoch without a plan; the last one may have fewer samples, none are dropped."""
        ...

    def num_samples(self, split: str) -> int:
        """Returns how many samples a split has over all ranks."""
        ...

    def train_batches(self, epoch: int, start_step: int = 0, plan: EpochPlan | None = None) -> Iterator[Batch]:
        """Yields this rank's part of each global batch of an epoch, from `start_step` on.

        Every rank gets a batch at every step: where its part is empty, a placeholder of one sample.

        Args:
            epoch: From 0.
            start_step: The first step wanted.
            plan: What the epoch gives, the same on every rank, in tensors of the CPU; None: every sample once.
        """
        ...

    def eval_batches(self, split: str) -> Iterator[Batch]:
        """Yields this rank's contiguous share of a split in order; nothing is dropped or repeated.

        A rank without a share (fewer samples than ranks) gets no batch.
        """
        ...

    def part_batches(self, split: str, places: np.ndarray) -> Iterator[Batch]:
        """Yields this rank's part of each global batch of some samples of a split, in order, as in evaluation.

        Every rank gets as many batches, of at most `batch_size` samples over all ranks: where its part is empty, a
        placeholder of one sample.

        Args:
            split: "train", "val" or "test".
            places: Which of the split's samples, by their places in `rows(split)`, ascending.
        """
        ...

    def rows(self, split: str) -> Rows:
        """Returns what describes the samples of a split: the shares of all ranks, one after another."""
        ...

    def close(self) -> None:
        """Ends what runs ahead of the batches asked for; there are no more of them then."""
        ...


class TensorLoader:
    """Serves from tensors in memory, which may be shared or read-only: batches are copies.

    Args:
        data: All samples of the prepared data set, row i being row i of `index`.
        index: `PreparedDataset.index`.
        assignment: Which rows belong to which split.
        batch_size: Samples of one step over all workers.
        eval_batch_size: Samples of one evaluation batch of one worker.
        seed: Seed of the sample order and of `Batch.uniforms`.
        rank: This worker.
        world_size: Number of workers.
        pin_memory: Give batches in page-locked memory; only useful with a GPU.
    """

    def __init__(
        self,
        data: Batch,
        index: pa.Table,
        assignment: Assignment,
        batch_size: int,
        *,
        eval_batch_size: int = 256,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ):
        self._data = data
        self._sample_ids = np.array(data.sample_ids, dtype=object)
        self._index = index
        self.assignment = assignment
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._pin_memory = pin_memory

    @classmethod
    def from_prepared(
        cls, prepared: PreparedDataset, assignment: Assignment, batch_size: int, **options: int
    ) -> TensorLoader:
        """Reads the whole data set into memory; `options` are the constructor's."""
        return cls(to_batch(prepared.read_table(), prepared.spec), prepared.index, assignment, batch_size, **options)  # type: ignore[arg-type]

    @property
    def num_steps(self) -> int:
        """Steps of one epoch."""
        return num_steps(len(self.assignment.train), self.batch_size)

    def num_samples(self, split: str) -> int:
        """Returns how many samples a split has over all ranks."""
        return len(self.assignment.rows(split))

    def train_batches(self, epoch: int, start_step: int = 0, plan: EpochPlan | None = None) -> Iterator[Batch]:
        """Yields this rank's part of each global batch of an epoch, from `start_step` on."""
        num_train = self.num_samples("train")
        order = (
            epoch_order(num_train, self.seed, epoch)
            if plan is None
            else planned_order(plan, self.batch_size, self.seed, epoch)
        )
        bounds = step_bounds(num_train, self.batch_size, plan, self.seed, epoch)
        uniforms = Uniforms(self.seed, epoch, int(bounds[start_step]))
        for first, last in itertools.pairwise(bounds[start_step:]):
            entries = order[first:last]
            start, stop, is_placeholder = training_shard(len(entries), self.rank, self.world_size)
            batch = self._planned(entries[start:stop], plan)
            batch.uniforms = uniforms.draw(len(entries))[start:stop]
            batch.is_placeholder = is_placeholder
            yield batch.pin_memory() if self._pin_memory else batch

    def eval_batches(self, split: str) -> Iterator[Batch]:
        """Yields this rank's contiguous share of a split in order."""
        start, stop = shard_bounds(self.num_samples(split), self.rank, self.world_size)
        for first in range(start, stop, self.eval_batch_size):
            batch = self._select(split, np.arange(first, min(first + self.eval_batch_size, stop)))
            yield batch.pin_memory() if self._pin_memory else batch

    def part_batches(self, split: str, places: np.ndarray) -> Iterator[Batch]:
        """Yields this rank's part of each global batch of some samples of a split, in order."""
        for first, last, is_placeholder in part_shards(len(places), self.batch_size, self.rank, self.world_size):
            batch = self._select(split, places[first:last])
            batch.is_placeholder = is_placeholder
            yield batch.pin_memory() if self._pin_memory else batch

    def close(self) -> None:
        """Does nothing: nothing runs ahead."""

    def rows(self, split: str) -> Rows:
        """Returns what describes the samples of a split, in evaluation order over all ranks."""
        return split_rows(self._index, self.assignment, split)

    def _planned(self, entries: np.ndarray, plan: EpochPlan | None) -> Batch:
        """Returns entries of an epoch, without what its plan drops; without a plan they are places in training."""
        if plan is None:
            return self._select("train", entries)
        batch = self._select("train", plan.rows.numpy()[entries])
        return batch.without({name: mask[torch.from_numpy(entries)] for name, mask in plan.dropped.items()})

    def _select(self, split: str, places: np.ndarray) -> Batch:
        rows = self.assignment.rows(split)[places]
        index = torch.from_numpy(rows)
        data = self._data
        return Batch(
            inputs={name: tensor.index_select(0, index) for name, tensor in data.inputs.items()},
            labels=data.labels.index_select(0, index),
            lengths={name: tensor.index_select(0, index) for name, tensor in data.lengths.items()},
            present={name: tensor.index_select(0, index) for name, tensor in data.present.items()},
            sample_ids=self._sample_ids[rows].tolist(),
            rows=torch.from_numpy(places),
        )


def num_steps(num_samples: int, batch_size: int) -> int:
    """Returns the steps of an epoch; the last batch is not dropped."""
    return -(-num_samples // batch_size)


class Uniforms:
    """Draws `Batch.uniforms` of one epoch, a function of (seed, epoch) and a sample's place in the epoch.

    Args:
        seed: Seed of the run.
        epoch: Number of the epoch, from 0.
        first: Place of the first sample to draw for.
    """

    def __init__(self, seed: int, epoch: int, first: int = 0):
        bits = np.random.PCG64([_UNIFORMS, seed, epoch])
        bits.advance(first * NUM_UNIFORMS // 2)  # one draw of 64 bits gives two numbers
        self._generator = np.random.Generator(bits)

    def draw(self, num_samples: int) -> torch.Tensor:
        """Returns the numbers of the next global batch, (num_samples, NUM_UNIFORMS) float32 in [0, 1)."""
        return torch.from_numpy(self._generator.random((num_samples, NUM_UNIFORMS), dtype=np.float32))


def shard_bounds(num_samples: int, rank: int, world_size: int) -> tuple[int, int]:
    """Returns where a rank's part starts and stops; sizes differ by one at most, the first ranks have more."""
    size, rest = divmod(num_samples, world_size)
    start = rank * size + min(rank, rest)
    return start, start + size + (rank < rest)


def training_shard(num_samples: int, rank: int, world_size: int) -> tuple[int, int, bool]:
    """Returns `shard_bounds` and False, or the first sample and True (a placeholder) where the part is empty."""
    start, stop = shard_bounds(num_samples, rank, world_size)
    return (0, 1, True) if start == stop else (start, stop, False)


def part_shards(num_samples: int, batch_size: int, rank: int, world_size: int) -> list[tuple[int, int, bool]]:
    """Returns where a rank's part of each global batch starts and stops, and whether it is a placeholder."""
    shards = []
    for first in range(0, num_samples, batch_size):
        start, stop, is_placeholder = training_shard(min(batch_size, num_samples - first), rank, world_size)
        shards.append((first + start, first + stop, is_placeholder))
    return shards


def drawn_places(num_samples: int, num_drawn: int, split: str, seed: int, epoch: int) -> np.ndarray:
    """Returns which samples of a split an epoch's pass over a part of it takes: ascending, (num_drawn,) int64.

    A function of its arguments alone: the same on every rank, and after a resume.
    """
    if num_drawn >= num_samples:
        return np.arange(num_samples)
    drawn = np.random.default_rng([_PART, SPLITS.index(split), seed, epoch]).permutation(num_samples)[:num_drawn]
    return np.sort(drawn)


def split_rows(index: pa.Table, assignment: Assignment, split: str) -> Rows:
    """Returns what describes the samples of a split, in index order."""
    rows = assignment.rows(split)
    columns = {name: index[name].to_numpy()[rows] for name in ("sample_id", "label", "group", "source")}
    return Rows(columns["sample_id"], columns["label"], columns["group"], columns["source"])
