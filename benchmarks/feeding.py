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

from mmcore.assembly.config import complete_config, parse_config
from mmcore.assembly.objects import build_method, build_run_transforms
from mmcore.data.feeding.loader import Loader, TensorLoader
from mmcore.data.prepared.columns import to_batch
from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.store import PreparedDataset
from mmcore.training.trainer import Trainer
from rayjobs.cluster import session
from rayjobs.feeding import cached, streaming

RAW_DIRS = {"digits": None, "avdigits": Path(__file__).parents[2] / "shared" / "data" / "avdigits"}
BARS = {"cached": 1.1}
"""Bars for the second epoch."""


class Feeder:
    """One data set, and a trainer that takes its batches from whichever loader it is given."""

    def __init__(self, prepared: PreparedDataset):
        values = {"dataset": {"name": prepared.name, "options": prepared.options}, "method": {"name": "joint"}}
        self.config = complete_config(parse_config(values))
        self.prepared = prepared
        self.assignment = prepared.assign(self.config.protocol)
        method = build_method(self.config, prepared.spec)
        memory = self.memory()
        self.trainer = Trainer(self.config, method, memory, build_run_transforms(self.config, prepared.spec))

    def memory(self) -> TensorLoader:
        """Returns a loader over tensors read into this process."""
        return TensorLoader.from_prepared(self.prepared, self.assignment, self.config.trainer.batch_size)

    def cached(self, rows: cached.CachedData) -> TensorLoader:
        """Returns a loader over the object store."""
        return rows.loader(self.assignment, self.config.trainer.batch_size)

    def streamed(self, num_epochs: int) -> streaming.StreamLoader:
        """Returns a loader that streams; no stream is left open after so many epochs."""
        return streaming.StreamLoader(
            self.prepared, self.assignment, self.config.trainer.batch_size, num_epochs=num_epochs
        )

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


def two_epochs(feeder: Feeder, name: str, memory: Loader, open_loader: Callable[[], Loader]) -> dict[str, float]:
    """Returns the seconds of an epoch from memory, and of two epochs of a loader, opening it included in the first."""
    times = {"memory": seconds(lambda: feeder.epoch(memory, 0))}
    start = time.perf_counter()
    loader = open_loader()
    feeder.epoch(loader, 0)
    times[f"{name}_first"] = time.perf_counter() - start
    times[f"{name}_second"] = seconds(lambda: feeder.epoch(loader, 1))
    return times


def compare(report: Report, feeder: Feeder, rounds: int) -> None:
    """Adds the ratios of one data set."""
    name, memory = feeder.prepared.name, feeder.memory()
    rows = cached.materialise(feeder.prepared)
    if rows is None:
        raise SystemExit(f"{name} does not fit in the object store of this machine")
    feeder.epoch(memory, 0)  # warm-up

    def as_a_new_process() -> Loader:
        cached._resident.clear()
        return feeder.cached(rows)

    sides = {"cached": as_a_new_process, "streamed": lambda: feeder.streamed(num_epochs=2)}
    for side, open_loader in sides.items():
        results = {name: Rounds() for name in ("memory", f"{side}_first", f"{side}_second")}
        for _ in range(rounds):
            for part, value in two_epochs(feeder, side, memory, open_loader).items():
                results[part].wall.append(value)
        report.add(ratio(f"{name}/{side}_first", results, f"{side}_first", "memory"))
        report.add(ratio(f"{name}/{side}_second", results, f"{side}_second", "memory", BARS.get(side)))
        if side == "streamed":
            report.part(f"{name}: the very first of these, as readers start", results["streamed_first"].wall[0])


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
        stream = feeder.streamed(num_epochs=1)
        first, rest = first_and_rest(stream.train_batches(0))
        add("stream: start, to the first batch", first)
        add("stream: the other batches", rest)
        first_and_rest(stream.eval_batches("val"))  # it was started ahead
        start = time.perf_counter()
        table = prepared.read_table().combine_chunks()
        add("decoding: all files to columns", time.perf_counter() - start)
        add("copies: columns to tensors", seconds(lambda table=table: to_batch(table, prepared.spec)))
        memory = feeder.memory()
        add("copies: an epoch's batches from tensors", sum(first_and_rest(memory.train_batches(0))))
        add("cache: files to the object store, once", seconds(lambda: cached.materialise(prepared)))
        cached._resident.clear()
        rows = cached.materialise(prepared)
        assert rows is not None
        add("cache: object store to tensors, a process", seconds(lambda rows=rows: feeder.cached(rows)))
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
    with session.start(num_cpus=2):
        for name in names:
            raw_dir = RAW_DIRS[name]
            if raw_dir is not None and not raw_dir.is_dir():
                report.say(f"{name}: left out, {raw_dir} is not there")
                continue
            feeder = Feeder(prepare(name, None, raw_dir, options.data_dir))
            compare(report, feeder, rounds)
            report_parts(report, feeder, min(rounds, 3))
    report.finish(options.json)


if __name__ == "__main__":
    main()
