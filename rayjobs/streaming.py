"""Ray and the data: what fits a budget is put in the object store once, the rest is streamed by Ray Data.

The first batch of every Ray Data stream costs seconds; a table in the object store costs milliseconds, and all
trials of a node share its memory. So `materialise` is the rule and `StreamLoader` what remains.

Shape legend: B samples of one worker's shard.
"""

from __future__ import annotations

import functools
import logging
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from ray.data import DataContext
from ray.data.block import BlockMetadata
from ray.data.collate_fn import ArrowBatchCollateFn
from ray.data.datasource import Datasource, ReadTask

from mmcore.batch import Batch
from mmcore.data.columns import to_batch
from mmcore.data.loader import Rows, TensorLoader, num_steps, shard_bounds, split_rows, step_uniforms, training_shard
from mmcore.data.spec import DatasetSpec
from mmcore.data.splits import Assignment
from mmcore.data.store import PreparedDataset
from mmcore.errors import TrainingError

READ_CPUS = 0.5
"""What one read task asks for; a trial that streams must leave this free."""
SHUFFLE_BYTES = 128 * 2**20
"""Samples mixed with each other by a stream, in bytes."""
PREFETCH_SHARE = 0.25
"""The next streams start when this share of an epoch's steps is left."""
NUM_PREFETCHED = 4
"""Batches formed ahead of the one in use."""
PATIENCE_S = 30.0
"""After this long without a first batch, a stream looks whether its read tasks can run at all."""

_STREAM_ORDER = 3  # keeps the seeds of files and buffers apart from those of mmcore.data.loader
_resident: dict[str, tuple[Batch, pa.Table]] = {}  # this process's data set, by fingerprint


@dataclass(frozen=True)
class CachedData:
    """A prepared data set in the object store; a small handle to pass to trials (with `tune.with_parameters`).

    Attributes:
        prepared: The data set; its files are not read again.
        content: Reference to (table of all rows in index order, index).
    """

    prepared: PreparedDataset
    content: ray.ObjectRef

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
    stores = [node["Resources"].get("object_store_memory", 0) for node in ray.nodes() if node["Alive"]]
    return int(0.4 * min(stores))


class StreamLoader:
    """Streams the files by Ray Data: for what does not fit in memory.

    An epoch's order is a function of (seed, epoch): files in a drawn order, then a shuffle within a buffer.
    Every rank reads the whole stream and keeps its part of each global batch, so that k workers see what one
    sees; that costs k times the reading of one. `start_step` reads and drops what comes before it.

    Args:
        prepared: The data set; its files must be reachable from the nodes that read.
        assignment: Which rows belong to which split.
        batch_size: Samples of one step over all workers.
        eval_batch_size: Samples of one evaluation batch of one worker.
        seed: Of the order and of `Batch.uniforms`.
        rank: This worker.
        world_size: Number of workers.
        pin_memory: Give batches in page-locked memory; only useful with a GPU.
        shuffle_bytes: Size of the shuffle buffer.
        num_epochs: Epochs of the run, after which no next stream is started; None if not known.
    """

    def __init__(
        self,
        prepared: PreparedDataset,
        assignment: Assignment,
        batch_size: int,
        eval_batch_size: int = 256,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
        shuffle_bytes: int = SHUFFLE_BYTES,
        num_epochs: int | None = None,
    ):
        self.prepared = prepared
        self.assignment = assignment
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._pin_memory = pin_memory
        sample_bytes = sum(modality.num_bytes for modality in prepared.spec.modalities)
        self._shuffle_rows = max(batch_size + 1, shuffle_bytes // sample_bytes)
        self._num_epochs = num_epochs
        self._ready: dict[tuple[str, int], _Stream] = {}  # started ahead: (split, epoch; 0 in evaluation)
        quiet_ray_data()

    @property
    def num_steps(self) -> int:
        """Steps of one epoch."""
        return num_steps(len(self.assignment.train), self.batch_size)

    def num_samples(self, split: str) -> int:
        """Returns how many samples a split has over all ranks."""
        return len(self.assignment.rows(split))

    def rows(self, split: str) -> Rows:
        """Returns what describes the samples of a split, in evaluation order over all ranks."""
        return split_rows(self.prepared.index, self.assignment, split)

    def train_batches(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yields this rank's part of each global batch of an epoch, from `start_step` on."""
        num_left_at_prefetch = max(1, round(PREFETCH_SHARE * self.num_steps))
        for step, batch in enumerate(self._stream("train", epoch)):
            if step == self.num_steps - num_left_at_prefetch:
                self._start_ahead(epoch)
            if step < start_step:
                continue
            num_global = min(self.batch_size, self.num_samples("train") - step * self.batch_size)
            start, stop, batch.is_placeholder = training_shard(num_global, self.rank, self.world_size)
            batch.uniforms = step_uniforms(num_global, self.seed, epoch, step)[start:stop]
            yield batch.pin_memory() if self._pin_memory else batch

    def eval_batches(self, split: str) -> Iterator[Batch]:
        """Yields this rank's contiguous share of a split in order."""
        if self._share(split).size == 0:
            return
        for batch in self._stream(split, 0):
            yield batch.pin_memory() if self._pin_memory else batch

    def close(self) -> None:
        """Ends the streams that were started ahead, and frees what they hold."""
        for stream in self._ready.values():
            stream.close()
        self._ready.clear()

    def __del__(self) -> None:
        self.close()

    def _start_ahead(self, epoch: int) -> None:
        wanted = [("val", 0)]
        if self._num_epochs is None or epoch + 1 < self._num_epochs:
            wanted.append(("train", epoch + 1))
        for split, number in wanted:
            if (split, number) not in self._ready and self._share(split).size:
                self._ready[split, number] = self._start(split, number)

    def _stream(self, split: str, epoch: int) -> Iterator[Batch]:
        stream = self._ready.pop((split, epoch), None) or self._start(split, epoch)
        try:
            yield from stream
        except (ray.exceptions.RayError, OSError, pa.ArrowException):
            self.prepared.verify()  # a damaged file is the likely cause, and this names it
            raise

    def _start(self, split: str, epoch: int) -> _Stream:
        files = self._files(self._share(split))
        shuffle: dict[str, Any] = {}
        if split == "train":
            seed = int(np.random.SeedSequence([_STREAM_ORDER, self.seed, epoch]).generate_state(1)[0])
            files = [files[number] for number in np.random.default_rng(seed).permutation(len(files))]
            shuffle = {"local_shuffle_buffer_size": self._shuffle_rows, "local_shuffle_seed": seed}
        collate = _ShardCollate(self.prepared.spec, *((self.rank, self.world_size) if split == "train" else (0, 1)))
        batch_size = self.batch_size if split == "train" else self.eval_batch_size

        def start() -> Generator[Batch]:
            dataset = ray.data.read_datasource(_RowsOfFiles(files), num_cpus=READ_CPUS)
            options = {"batch_size": batch_size, "collate_fn": collate, "prefetch_batches": NUM_PREFETCHED, **shuffle}
            return iter(dataset.iter_torch_batches(**options))

        return _Stream(start)

    def _share(self, split: str) -> np.ndarray:
        """Returns the rows this rank reads: all in training, its contiguous share in evaluation."""
        rows = self.assignment.rows(split)
        return rows if split == "train" else rows[slice(*shard_bounds(len(rows), self.rank, self.world_size))]

    def _files(self, rows: np.ndarray) -> list[tuple[Path, np.ndarray]]:
        """Returns the files that hold these rows, in index order, each with its rows counted within the file."""
        ends = np.cumsum([file["num_rows"] for file in self.prepared.metadata["files"]])
        starts = np.concatenate([[0], ends[:-1]])
        parts = np.split(rows, np.searchsorted(rows, ends[:-1]))
        files = zip(self.prepared.files(), parts, starts, strict=True)
        return [(path, part - start) for path, part, start in files if len(part)]


def quiet_ray_data() -> None:
    """Makes Ray Data keep the order of its blocks (it does not by itself), and keep quiet."""
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


class _ShardCollate(ArrowBatchCollateFn):
    """Views this rank's part of a global batch; runs in Ray Data's own threads."""

    def __init__(self, spec: DatasetSpec, rank: int, world_size: int):
        self._spec = spec
        self._rank = rank
        self._world_size = world_size

    def __call__(self, batch: pa.Table) -> Any:
        start, stop, _ = training_shard(batch.num_rows, self._rank, self._world_size)
        return to_batch(batch.slice(start, stop - start), self._spec)


class _Stream:
    """A stream that is being started in the background, so that its first batch need not be waited for."""

    def __init__(self, start: Callable[[], Generator[Batch]]):
        self._started: queue.Queue[tuple[Generator[Batch], list[Batch]] | BaseException] = queue.Queue(1)
        self._closed = threading.Event()
        threading.Thread(target=self._run, args=(start,), daemon=True).start()

    def __iter__(self) -> Iterator[Batch]:
        started = self._wait()
        if isinstance(started, BaseException):
            raise started
        rest, first = started
        yield from first
        yield from rest

    def close(self) -> None:
        """Ends the stream now, or as soon as it has started."""
        self._closed.set()
        try:
            started = self._started.get_nowait()
        except queue.Empty:
            return
        if not isinstance(started, BaseException):
            started[0].close()

    def _run(self, start: Callable[[], Generator[Batch]]) -> None:
        try:
            batches = start()
            first = next(batches, None)
            self._started.put((batches, [] if first is None else [first]))
        except BaseException as error:  # noqa: BLE001 (raised again where the stream is read)
            self._started.put(error)
        if self._closed.is_set():
            self.close()

    def _wait(self) -> tuple[Generator[Batch], list[Batch]] | BaseException:
        was_starved = False
        while True:
            try:
                return self._started.get(timeout=PATIENCE_S)
            except queue.Empty:
                is_starved = ray.available_resources().get("CPU", 0) < READ_CPUS
                if is_starved and was_starved:
                    self.close()
                    total = ray.cluster_resources().get("CPU", 0)
                    raise TrainingError(
                        f"Ray Data's read tasks wait for a CPU: all {total:g} are taken by trials; run fewer at a time"
                    ) from None
                was_starved = is_starved


class _RowsOfFiles(Datasource):
    """Reads the wanted rows of each file, one task per file.

    `ray.data.read_parquet` would first send tasks to look at the files: 4 s before the first batch instead of 1.
    The prepared data set knows all that already.
    """

    def __init__(self, files: Sequence[tuple[Path, np.ndarray]]):
        super().__init__()
        self._files = files

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(functools.partial(_read_rows, path, rows), unknown) for path, rows in self._files]


def _read_rows(path: Path, rows: np.ndarray) -> Iterator[pa.Table]:
    """Yields the wanted rows (ascending, counted within the file), one table for each row group that has any."""
    first = 0
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            last = first + file.metadata.row_group(number).num_rows
            wanted = rows[np.searchsorted(rows, first) : np.searchsorted(rows, last)] - first
            if len(wanted):
                yield file.read_row_group(number).take(pa.array(wanted))
            first = last
