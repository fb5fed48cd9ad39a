"""Preparing raw files with two workers ÷ with one, against what two processes of this machine reach; and its memory.

- `two_workers`: the seconds Ray Data's tasks take with two CPUs ÷ with one (Ray's start left out), divided by the same
  of two plain processes that write the same parts ÷ one: shared cores often give no more than one. Bar 1.11, that is,
  nine tenths of the speed-up there is.
- `memory`: the peak of one process that prepares 10 times as many samples ÷ the peak for the few (bar 1.05).

The raw files are those of `decoding.py`; 210 of them are a part. Of fewer than 12 parts `prepare` asks no Ray, so
the default has 20, and the few are 2: less than one part would not fill what is held at a time. `--quick` has neither,
and so no bars.

    python benchmarks/preparing.py [--quick] [--samples 4200] [--rounds 3] [--json PATH]
"""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import ray
from common import Ratio, Report, parser
from decoding import SIDE, write_raw

from mmcore.data.prepared.part_files import run_here
from mmcore.data.prepared.prepare import HowToPrepare, prepare
from mmcore.data.prepared.raw_parts import Part, PartWriter
from rayjobs.cluster import session
from rayjobs.preparing.raw_tasks import run_by_ray_data

SPAWN = multiprocessing.get_context("spawn")


def prepare_with(raw: Path, run: Any) -> float:
    """Prepares a data set anew; returns the seconds its parts took."""
    seconds = 0.0

    def timed(writer: PartWriter, parts: Sequence[Part]) -> Iterator[dict[str, Any]]:
        nonlocal seconds
        start = time.perf_counter()
        reports = list(run(writer, parts))
        seconds = time.perf_counter() - start
        yield from reports

    target = Path(tempfile.mkdtemp(dir=raw.parent))
    prepare("cremad", {"image_size": SIDE}, raw, target, how=HowToPrepare(run=timed))
    shutil.rmtree(target)
    return seconds


def in_processes(pool: ProcessPoolExecutor) -> Any:
    """Returns a way to write parts in a pool's processes."""

    def run(writer: PartWriter, parts: Sequence[Part]) -> Iterator[dict[str, Any]]:
        yield from pool.map(writer, parts)

    return run


def seconds_by_ray(raw: Path, few: Path, num_cpus: int) -> float:
    """Returns the seconds in a Ray of so many CPUs, its readers started before."""
    with session.start(num_cpus=num_cpus):
        ray.get([_warm_up.remote() for _ in range(num_cpus)])
        prepare_with(few, run_by_ray_data)
        return prepare_with(raw, run_by_ray_data)


@ray.remote(num_cpus=1)
def _warm_up() -> None:
    import mmcore.data.prepared.raw_parts  # noqa: F401


def seconds_by_processes(raw: Path, few: Path, number: int) -> float:
    """Returns the seconds in so many processes, started before."""
    with ProcessPoolExecutor(number, mp_context=SPAWN) as pool:
        prepare_with(few, in_processes(pool))
        return prepare_with(raw, in_processes(pool))


def peak_bytes(raw: Path) -> int:
    """Returns the peak memory of one process that prepares everything."""
    with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
        return pool.submit(_prepare_and_weigh, raw).result()


def _prepare_and_weigh(raw: Path) -> int:
    prepare_with(raw, run_here)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    arguments = parser("preparing with two workers ÷ with one, and its memory")
    arguments.add_argument("--samples", type=int, default=4200)
    arguments.add_argument("--rounds", type=int, default=3)
    options = arguments.parse_args()
    samples, rounds = (120, 1) if options.quick else (options.samples, options.rounds)
    work = Path(tempfile.mkdtemp(prefix="equipoise-preparing-"))
    report = Report("preparing raw files", f"{samples} clips, a tenth of them for the memory; {rounds} rounds")
    try:
        write_raw(work / "raw", samples)
        write_raw(work / "few", samples // 10)
        _compare(report, work / "raw", work / "few", rounds, None if options.quick else 1.11)
        few, many = peak_bytes(work / "few"), peak_bytes(work / "raw")
        note = f"{few / 2**20:.0f} and {many / 2**20:.0f} MiB"
        report.add(Ratio("prepare/memory", {}, many / few, bar=None if options.quick else 1.05, note=note))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report.finish(options.json)


def _compare(report: Report, raw: Path, few: Path, rounds: int, bar: float | None) -> None:
    ratios, speed_ups, ceilings = [], [], []
    for _ in range(rounds):
        plain_one, plain_two = seconds_by_processes(raw, few, 1), seconds_by_processes(raw, few, 2)
        one, two = seconds_by_ray(raw, few, 1), seconds_by_ray(raw, few, 2)
        speed_ups.append(one / two)
        ceilings.append(plain_one / plain_two)
        ratios.append(ceilings[-1] / speed_ups[-1])
    note = f"Ray {statistics.median(speed_ups):.2f} times as fast with two, processes {statistics.median(ceilings):.2f}"
    seconds = {"one": one, "two": two, "process": plain_one, "processes": plain_two}
    middle = statistics.median(ratios)
    report.add(Ratio("prepare/two_workers", seconds, middle, min(ratios), max(ratios), bar, note=note))


if __name__ == "__main__":
    main()
