"""One epoch (training and validation) fed by Ray ÷ the same epoch from tensors in memory.

- `cached`: the data set in Ray's object store, as with `--cache auto` where it fits. First epoch: in a process that has
  not seen the data; the second epoch's bar is 1.1.
- `streamed`: by Ray Data from the files, as with `--cache off`. First epoch: with the start of the stream; the second
  one's stream was started while the first epoch trained.

Both are joint training with the package's defaults. What the difference is made of stands below each data set, without
any training: start of the stream, decoding, copies.

    python benchmarks/feeding.py [--quick] [--rounds 5] [--dataset digits] [--json PATH]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from common import Report, Rounds, median, parser, ratio

from mmcore.build import build_method, build_run_transforms, complete_config
from mmcore.config import RunConfig
from mmcore.data.columns import to_batch
from mmcore.data.loader import Loader, TensorLoader
from mmcore.data.store import PreparedDataset, prepare
from mmcore.trainer import Trainer
from rayjobs import cluster, streaming
from rayjobs.worker import DataHandle

BAR = 1.1
RAW_DIRS = {"digits": None, "avdigits": Path(__file__).parents[2] / "shared" / "data" / "avdigits"}
SIDES = {"cached_first": None, "cached_second": BAR, "streamed_first": None, "streamed_second": None}


class Feeder:
    """One data set, and a trainer that takes its batches from whichever loader it is given."""

    def __init__(self, prepared: PreparedDataset):
        values = {"dataset": {"name": prepared.name, "options": prepared.options}, "method": {"name": "joint"}}
        self.config = complete_config(RunConfig.parse(values))
        self.prepared = prepared
        self.assignment = prepared.assign(self.config.protocol)
        method = build_method(self.config, prepared.spec)
        memory = self.memory()
        self.trainer = Trainer(self.config, method, memory, build_run_transforms(self.config, prepared.spec))

    def memory(self) -> TensorLoader:
        """Returns a loader over tensors read into this process."""
        return TensorLoader.from_prepared(self.prepared, self.assignment, self.config.trainer.batch_size)

    def by_ray(self, cached: streaming.CachedData | None) -> Loader:
        """Returns the loader a trial has: over the object store, or a stream."""
        handle = DataHandle(str(self.prepared.directory), cached)
        return handle.loader(self.config, self.prepared, pin_memory=False)

    def epoch(self, loader: Loader, number: int) -> None:
        """Trains and validates one epoch."""
        self.trainer.loader = loader
        self.trainer.progress.epoch, self.trainer.progress.step_in_epoch = number, 0
        self.trainer.train_epoch()
        self.trainer.evaluate("val", full=False)


def seconds(call: Callable[[], object]) -> float:
    """Returns how long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def one_round(feeder: Feeder, memory: Loader, cached: streaming.CachedData) -> dict[str, float]:
    """Returns the seconds of one epoch from memory (the mean of one before and one after) and of each of Ray's."""
    times = {"memory": seconds(lambda: feeder.epoch(memory, 0))}
    streaming._resident.clear()  # as a process that has not seen the data
    loaders: list[Loader] = []

    def first_epoch(source: streaming.CachedData | None) -> None:
        loaders.append(feeder.by_ray(source))
        feeder.epoch(loaders[-1], 0)

    for name, source in (("cached", cached), ("streamed", None)):
        times[f"{name}_first"] = seconds(lambda source=source: first_epoch(source))
        times[f"{name}_second"] = seconds(lambda: feeder.epoch(loaders[-1], 1))
    for loader in loaders:
        if isinstance(loader, streaming.StreamLoader):
            loader.close()
    times["memory"] = (times["memory"] + seconds(lambda: feeder.epoch(memory, 0))) / 2
    return times


def first_and_rest(batches: Iterable[object]) -> tuple[float, float]:
    """Returns the seconds to the first batch and those of all others."""
    start = time.perf_counter()
    iterator = iter(batches)
    next(iterator)
    first = time.perf_counter()
    for _ in iterator:
        pass
    return first - start, time.perf_counter() - first


def report_parts(report: Report, feeder: Feeder, rounds: int) -> None:
    """Adds what feeding is made of, each the median over some rounds."""
    name, prepared = feeder.prepared.name, feeder.prepared
    parts: dict[str, list[float]] = {}

    def add(part: str, value: float) -> None:
        parts.setdefault(part, []).append(value)

    for _ in range(rounds):
        stream = feeder.by_ray(None)
        first, rest = first_and_rest(stream.train_batches(0))
        add("stream: start, to the first batch", first)
        add("stream: the other batches", rest)
        stream.close()
        start = time.perf_counter()
        table = prepared.read_table().combine_chunks()
        add("decoding: all files to columns", time.perf_counter() - start)
        add("copies: columns to tensors", seconds(lambda table=table: to_batch(table, prepared.spec)))
        memory = feeder.memory()
        add("copies: an epoch's batches from tensors", sum(first_and_rest(memory.train_batches(0))))
        add("cache: files to the object store, once", seconds(lambda: streaming.materialise(prepared)))
        streaming._resident.clear()
        cached = streaming.materialise(prepared)
        assert cached is not None
        add("cache: object store to tensors, a process", seconds(lambda cached=cached: feeder.by_ray(cached)))
    for part, values in parts.items():
        report.part(f"{name}: {part}", median(values))


def main() -> None:
    arguments = parser("one epoch fed by Ray ÷ the same epoch from tensors in memory")
    arguments.add_argument("--rounds", type=int, default=5, help="of each side, in turns")
    arguments.add_argument("--dataset", action="append", choices=sorted(RAW_DIRS), help="repeatable; default: all")
    arguments.add_argument("--data-dir", type=Path, default=Path("data"), help="where prepared data sets lie")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    names = options.dataset or (["digits"] if options.quick else list(RAW_DIRS))
    rounds = 1 if options.quick else options.rounds
    report = Report("an epoch fed by Ray ÷ the same epoch from memory", f"joint, batch 64, {rounds} rounds: {names}")
    with cluster.start(num_cpus=2):
        for name in names:
            raw_dir = RAW_DIRS[name]
            if raw_dir is not None and not raw_dir.is_dir():
                report.say(f"{name}: left out, {raw_dir} is not there")
                continue
            feeder = Feeder(prepare(name, None, raw_dir, options.data_dir))
            cached = streaming.materialise(feeder.prepared)
            if cached is None:
                raise SystemExit(f"{name} does not fit in the object store of this machine")
            memory = feeder.memory()
            feeder.epoch(memory, 0)  # warm-up
            results = {side: Rounds() for side in ("memory", *SIDES)}
            for _ in range(rounds):
                for side, value in one_round(feeder, memory, cached).items():
                    results[side].wall.append(value)
            first_stream = results["streamed_first"].wall[0]
            report.part(f"{name}: the first streamed epoch, Ray's readers starting", first_stream)
            for side, bar in SIDES.items():
                report.add(ratio(f"{name}/{side}", results, side, "memory", bar))
            report_parts(report, feeder, min(rounds, 3))
    report.finish(options.json)


if __name__ == "__main__":
    main()
