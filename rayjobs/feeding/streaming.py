"""Ray and the data: what fits a budget is put in the object store once, the rest is streamed by Ray Data.

The first batch of every Ray Data stream costs seconds; a table in the object store costs milliseconds, and all
trials of a node share its memory. So `materialise` is the rule and `StreamLoader` what remains.

Shape legend: B samples of one worker's shard.
"""

from __future__ import annotations

import functools
import itertools
import logging
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from ray.data import DataContext, ExecutionResources
from ray.data.block import BlockMetadata
from ray.data.collate_fn import ArrowBatchCollateFn
from ray.data.datasource import Datasource, ReadTask

from mmcore.batch import Batch
from mmcore.data.epoch_plan import EpochPlan
from mmcore.data.feeding.loader import (
    Rows,
    Uniforms,
    num_steps,
    part_shards,
    shard_bounds,
    split_rows,
    training_shard,
)
from mmcore.data.feeding.order import step_bounds
from mmcore.data.feeding.windows import WantedRows, Window, blocks, cut, in_order, mixed, places_of, read_window
from mmcore.data.prepared.columns import to_batch
from mmcore.data.prepared.store import PreparedDataset
from mmcore.data.splits import Assignment
from mmcore.errors import TrainingError
from rayjobs.feeding.cached import smallest_store_bytes

READ_CPUS = 0.5
"""What one read task asks for; a trial that streams must leave this free."""
SHUFFLE_BYTES = 128 * 2**20
"""Samples mixed with each other by a stream, in bytes; a read task holds as much."""
BLOCK_BYTES = SHUFFLE_BYTES
"""The most a block of a stream holds, if that is more than one sample; in a small object store BLOCK_SHARE of it."""
BLOCK_SHARE = 1 / 32
STORE_SHARE = 0.15
"""Share of the object store one stream may fill: a trial runs up to three at a time, each as if it were alone."""
PREFETCH_SHARE = 0.25
"""The next streams start when this share of an epoch's steps is left."""
NUM_PREFETCHED = 4
"""Batches formed ahead of the one in use."""
END_S = 10.0
"""The most that is waited for a stream that still starts to end."""
PATIENCE_S = 30.0
"""After this long without a first batch, a stream looks whether its read tasks can run at all."""
EVALUATION = -1
"""Stands for the epoch of a stream of evaluation that is started ahead."""
NOTHING: Mapping[str, torch.Tensor] = {}


class StreamLoader:
    """Streams the files by Ray Data: for what does not fit in memory.

    An epoch's order is a function of (seed, epoch): files in a drawn order, some together in a window, whose samples
    are mixed. Each of k ranks streams the windows itself and keeps its part of each global batch, so that k workers
    see the samples one would see; the price is k times the reading of one. Windows before `start_step` are not read.

    A planned epoch is read alike: a sample that comes often lies as often in its window. Parts whose batches follow
    each other are read one after another; parts whose batches are mixed are refused, since each batch would need rows
    of a window of its own.

    Args:
        prepared: The data set; its files must be reachable from the nodes that read.
        assignment: Which rows belong to which split.
        batch_size: Samples of one step over all workers.
        eval_batch_size: Samples of one evaluation batch of one worker.
        seed: Seed of the sample order and of `Batch.uniforms`.
        rank: This worker.
        world_size: Number of workers.
        pin_memory: Give batches in page-locked memory; only useful with a GPU.
        shuffle_bytes: Size of a window.
        num_epochs: Epochs of the run, after which no next stream is started; None if not known.
    """

    def __init__(
        self,
        prepared: PreparedDataset,
        assignment: Assignment,
        batch_size: int,
        *,
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
        self._sample_bytes = sample_bytes
        self._num_epochs = num_epochs
        self._ready: dict[tuple[str, int], _Stream] = {}  # started ahead: (split, epoch or EVALUATION)
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

    def train_batches(self, epoch: int, start_step: int = 0, plan: EpochPlan | None = None) -> Iterator[Batch]:
        """Yields this rank's part of each global batch of an epoch, from `start_step` on.

        Raises:
            TrainingError: The plan mixes the batches of several parts.
        """
        bounds = self._step_bounds(epoch, plan)
        sizes = np.diff(bounds).tolist()
        num_left_at_prefetch = max(1, round(PREFETCH_SHARE * len(sizes)))
        uniforms = Uniforms(self.seed, epoch, int(bounds[start_step]))
        stream = self._checked(self._training_stream(epoch, start_step, plan))
        for step, batch in enumerate(stream, start_step):
            if step >= len(sizes) - num_left_at_prefetch:
                self._start_ahead(epoch, is_planned=plan is not None)
            start, stop, batch.is_placeholder = training_shard(sizes[step], self.rank, self.world_size)
            # Drawn for the whole batch and then cut: a sample's augmentation must not depend on the number of workers.
            batch.uniforms = uniforms.draw(sizes[step])[start:stop]
            yield batch.pin_memory() if self._pin_memory else batch

    def eval_batches(self, split: str) -> Iterator[Batch]:
        """Yields this rank's contiguous share of a split in order."""
        if self._share(split).size == 0:
            return
        ready = self._ready.pop((split, EVALUATION), None)
        for batch in self._checked(ready or self._evaluation_stream(split)):
            yield batch.pin_memory() if self._pin_memory else batch

    def part_batches(self, split: str, places: np.ndarray) -> Iterator[Batch]:
        """Yields this rank's part of each global batch of some samples of a split, in order."""
        shards = part_shards(len(places), self.batch_size, self.rank, self.world_size)
        windows = in_order(self._files(self.assignment.rows(split)[places]))
        stream = self._opened(windows, [(first, last) for first, last, _ in shards], places)
        for (_, _, is_placeholder), batch in zip(shards, self._checked(stream), strict=True):
            batch.is_placeholder = is_placeholder
            yield batch.pin_memory() if self._pin_memory else batch

    def close(self) -> None:
        """Ends the streams that were started ahead, and frees what they hold: Ray must not end under them."""
        streams = self._end_streams()  # all are told before any is waited for, so that they end side by side
        for stream in streams:
            stream.join(END_S)

    def __del__(self) -> None:
        self._end_streams()

    def _end_streams(self) -> list[_Stream]:
        streams = list(self._ready.values())
        self._ready.clear()
        for stream in streams:
            stream.close()
        return streams

    def _start_ahead(self, epoch: int, *, is_planned: bool) -> None:
        # Validation comes next, and the epoch after it: both start while this epoch still computes.
        if ("val", EVALUATION) not in self._ready and self._share("val").size:
            self._ready["val", EVALUATION] = self._evaluation_stream("val")
        is_last = self._num_epochs is not None and epoch + 1 >= self._num_epochs
        if not is_planned and not is_last and ("train", epoch + 1) not in self._ready:
            # What a method plans for the next epoch is not known yet: one that has planned this one is waited for.
            self._ready["train", epoch + 1] = self._training_stream(epoch + 1)

    def _checked(self, stream: _Stream) -> Iterator[Batch]:
        try:
            yield from stream
        except (ray.exceptions.RayError, OSError, pa.ArrowException):
            self.prepared.verify()  # a damaged file is the likely cause, and this names it
            raise

    def _training_stream(self, epoch: int, start_step: int = 0, plan: EpochPlan | None = None) -> _Stream:
        """Returns a stream of this rank's part of the batches, from `start_step` on."""
        # A stream started ahead begins with step 0 and has no plan.
        ready = self._ready.pop(("train", epoch), None)
        if ready and not start_step and plan is None:
            return ready
        if ready:
            ready.close()
        bounds = self._step_bounds(epoch, plan)
        shares = [self._place(first, last) for first, last in itertools.pairwise(bounds[start_step:].tolist())]
        if plan is None:
            rows = np.arange(self.num_samples("train"))
            return self._opened(self._mixed(rows, epoch), shares, rows)
        windows, entries = self._planned(plan, epoch)
        return self._opened(windows, shares, plan.rows.numpy()[entries], _dropped(plan, entries))

    def _step_bounds(self, epoch: int, plan: EpochPlan | None) -> np.ndarray:
        return step_bounds(self.num_samples("train"), self.batch_size, plan, self.seed, epoch)

    def _evaluation_stream(self, split: str) -> _Stream:
        """Returns a stream of this rank's share of a split."""
        share, size = self._share(split), self.eval_batch_size
        shares = [(first, min(first + size, len(share))) for first in range(0, len(share), size)]
        return self._opened(in_order(self._files(share)), shares, np.arange(*self._bounds(split)))

    def _mixed(self, rows: np.ndarray, epoch: int, part: int = 0, first: int = 0) -> list[Window]:
        """Returns windows of places in training, ascending; the first stands at `first` among all that are read."""
        wanted = self._files(self.assignment.train[rows])
        files = [WantedRows(file.path, file.rows, first + file.first) for file in wanted]
        return mixed(files, self._shuffle_rows, self.seed, epoch, part)

    def _planned(self, plan: EpochPlan, epoch: int) -> tuple[list[Window], np.ndarray]:
        """Returns the windows of a planned epoch and, as they count what is read, each one's entry of the plan."""
        if plan.mixed and len(plan.part_sizes) > 1:
            raise TrainingError(
                "the method's plan mixes batches of several parts of training; a stream reads parts one after another. "
                "Let the parts follow each other, or hold the data in memory (a larger --cache-bytes)"
            )
        rows = plan.rows.numpy()
        parts = np.zeros(len(rows), np.int64) if plan.parts is None else plan.parts.numpy()
        entries = np.lexsort((rows, parts))  # files are read in the order of their rows
        windows: list[Window] = []
        first = 0
        for number, size in enumerate(plan.part_sizes.values()):
            windows += self._mixed(rows[entries[first : first + size]], epoch, number, first)
            first += size
        return windows, entries

    def _opened(
        self,
        windows: Sequence[Window],
        shares: Sequence[tuple[int, int]],
        places: np.ndarray,
        dropped: Mapping[str, torch.Tensor] = NOTHING,
    ) -> _Stream:
        """Starts a stream of one batch for each share of the windows' samples.

        Args:
            windows: What is read.
            shares: Places among the windows' samples; see `cut`.
            places: Where in its split each wanted row stands, in the files' order.
            dropped: Modality -> which of the wanted rows lack it in this epoch, in the files' order.
        """
        # The smallest store decides: any node may be given the read task.
        block_bytes = min(BLOCK_BYTES, BLOCK_SHARE * smallest_store_bytes())
        block_rows = max(1, int(block_bytes / self._sample_bytes))
        windows = cut(windows, shares, block_rows)
        sizes = [stop - start for start, stop in shares]
        order = torch.from_numpy(places_of(windows))
        rows = torch.from_numpy(places)[order].split_with_sizes(sizes)
        lacking = {name: mask[order].split_with_sizes(sizes) for name, mask in dropped.items()}

        def batches() -> Generator[Batch]:
            with closing(self._batches(windows, block_rows, rows)) as given:
                for number, batch in enumerate(given):
                    yield batch.without({name: masks[number] for name, masks in lacking.items()})

        return _Stream(batches if lacking else lambda: self._batches(windows, block_rows, rows))

    def _batches(self, windows: Sequence[Window], block_rows: int, rows: Sequence[torch.Tensor]) -> Generator[Batch]:
        """Yields batches of these rows from the windows' pieces, which Ray Data's tasks read."""
        source = _Windows(windows, block_rows)
        # Ray Data would split the blocks of few tasks further, to have more of them.
        dataset = ray.data.read_datasource(source, num_cpus=READ_CPUS, override_num_blocks=len(windows))
        # Ray Data joins blocks smaller than this and cuts those half as large again, both with copies; and it goes by
        # this when it estimates what its tasks will fill.
        largest = max(sum(sizes) for window in windows for sizes in blocks(window.sizes, block_rows))
        dataset.context.target_max_block_size = max(1, int(0.7 * largest * self._sample_bytes))
        limit = ExecutionResources.for_limits(object_store_memory=STORE_SHARE * smallest_store_bytes())
        dataset.context.execution_options.resource_limits = limit
        options = {"batch_size": 1, "collate_fn": _Unpacked(), "prefetch_batches": NUM_PREFETCHED}
        # Closed on the way out, however it is left: an open iterator keeps its tasks and their memory.
        with closing(iter(dataset.iter_torch_batches(**options))) as pieces:
            for own in rows:
                tables = [next(pieces)]
                while sum(table.num_rows for table in tables) < len(own):
                    tables.append(next(pieces))
                batch = to_batch(pa.concat_tables(tables), self.prepared.spec)
                batch.rows = own
                yield batch

    def _place(self, first: int, last: int) -> tuple[int, int]:
        """Returns where this rank's part of the batch from `first` to `last` lies in the epoch."""
        start, stop, _ = training_shard(last - first, self.rank, self.world_size)
        return first + start, first + stop

    def _share(self, split: str) -> np.ndarray:
        """Returns the rows this rank evaluates: its contiguous share of a split."""
        return self.assignment.rows(split)[slice(*self._bounds(split))]

    def _bounds(self, split: str) -> tuple[int, int]:
        """Returns where in a split the rows that this rank evaluates begin and end."""
        return shard_bounds(self.num_samples(split), self.rank, self.world_size)

    def _files(self, rows: np.ndarray) -> list[WantedRows]:
        """Returns the files that hold these rows, in index order, each with its rows counted within the file."""
        ends = np.cumsum([file["num_rows"] for file in self.prepared.metadata["files"]])
        starts = np.concatenate([[0], ends[:-1]])
        parts = np.split(rows, np.searchsorted(rows, ends[:-1]))
        firsts = np.cumsum([0, *map(len, parts[:-1])]).tolist()
        files = zip(self.prepared.files(), parts, starts, firsts, strict=True)
        return [WantedRows(path, part - start, first) for path, part, start, first in files if len(part)]


def _dropped(plan: EpochPlan, entries: np.ndarray) -> dict[str, torch.Tensor]:
    """Returns modality -> which of these entries of a plan lack it."""
    return {name: mask[torch.from_numpy(entries)] for name, mask in plan.dropped.items()}


def quiet_ray_data() -> None:
    """Makes Ray Data keep the order of its blocks (it does not by itself), and keep quiet."""
    context = DataContext.get_current()
    context.execution_options.preserve_order = True  # else batches would depend on which task is faster
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


class _Unpacked(ArrowBatchCollateFn):
    """Undoes `_packed`; runs in Ray Data's own threads."""

    def __call__(self, batch: pa.Table) -> Any:
        columns = [column.chunk(0).flatten() for column in batch.columns]
        return pa.table(columns, names=batch.column_names)


class _Stream:
    """A stream that is being started in the background, so that its first batch need not be waited for."""

    def __init__(self, start: Callable[[], Generator[Batch]]):
        self._started: queue.Queue[tuple[Generator[Batch], list[Batch]] | BaseException] = queue.Queue(1)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(start,), daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Batch]:
        started = self._wait()
        if isinstance(started, BaseException):
            raise started
        rest, first = started
        yield from first
        yield from rest

    def close(self) -> None:
        """Ends the stream now, or as soon as it has started."""
        # Set before the queue is looked at: `_run` looks in the other order, so that one of the two ends the stream.
        self._closed.set()
        try:
            started = self._started.get_nowait()
        except queue.Empty:
            return
        if not isinstance(started, BaseException):
            started[0].close()

    def join(self, timeout_s: float) -> None:
        """Waits until a stream that is closed has ended."""
        self._thread.join(timeout_s)

    def _run(self, start: Callable[[], Generator[Batch]]) -> None:
        try:
            batches = start()
            first = next(batches, None)
            self._started.put((batches, [] if first is None else [first]))
        except BaseException as error:  # noqa: BLE001 (raised again where the stream is read)
            self._started.put(error)
        if self._closed.is_set():  # `close` came while the stream was starting, and found nothing to end
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
                was_starved = is_starved  # once may be chance: a trial may just be ending


class _Windows(Datasource):
    """Reads windows, one task each.

    `ray.data.read_parquet` would first send tasks to look at the files: 4 s before the first batch instead of 1.
    The prepared data set knows all that already.
    """

    def __init__(self, windows: Sequence[Window], block_rows: int):
        super().__init__()  # type: ignore[no-untyped-call]
        self._windows = windows
        self._block_rows = block_rows

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        reads = [functools.partial(_read_packed, window, self._block_rows) for window in self._windows]
        return [ReadTask(read, unknown) for read in reads]


def _read_packed(window: Window, block_rows: int) -> Iterator[pa.Table]:
    for table, sizes in read_window(window, block_rows):
        yield _packed(table, sizes)


def _packed(table: pa.Table, sizes: Sequence[int]) -> pa.Table:
    """Returns pieces as a row of lists each, over the same memory: Ray Data joins what it cuts by rows, with copies."""
    ends = pa.array(np.cumsum([0, *sizes]), pa.int64())
    columns = [pa.LargeListArray.from_arrays(ends, column.chunk(0)) for column in table.columns]
    return pa.table(columns, names=table.column_names)
