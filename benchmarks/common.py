"""What the benchmarks share: both sides of a ratio measured in turns, a table against the bars, one last line.

Absolute times vary with the machine and its load, so every figure here is a ratio of two things measured in one run,
call by call in turns; a round's ratio is that of its sums, the result the median over rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

Seconds = float


@dataclass
class Rounds:
    """What one side took: a number for each round, in seconds of the clock and of this process's CPU."""

    wall: list[Seconds] = field(default_factory=list)
    cpu: list[Seconds] = field(default_factory=list)


def measure(
    sides: Mapping[str, Callable[[], object]], num_rounds: int, calls: int, warm_up: int = 0
) -> dict[str, Rounds]:
    """Calls each side in turn; the order is reversed from one call to the next, so that no side always comes first.

    Args:
        sides: Name -> what is timed.
        num_rounds: Rounds, each with one figure for each side.
        calls: Calls of a side in one round.
        warm_up: Calls of each side before the first round, not timed.
    """
    for _ in range(warm_up):
        for call in sides.values():
            call()
    results = {name: Rounds() for name in sides}
    for _ in range(num_rounds):
        wall, cpu = dict.fromkeys(sides, 0.0), dict.fromkeys(sides, 0.0)
        for turn in range(calls):
            for name in sides if turn % 2 == 0 else reversed(list(sides)):
                cpu_start, start = time.process_time(), time.perf_counter()
                sides[name]()
                wall[name] += time.perf_counter() - start
                cpu[name] += time.process_time() - cpu_start
        for name, result in results.items():
            result.wall.append(wall[name] / calls)
            result.cpu.append(cpu[name] / calls)
    return results


@dataclass
class Ratio:
    """One line of the table: `side` ÷ `against`.

    Attributes:
        name: What is compared, `small_conv/joint` for example.
        seconds: Side -> its median.
        ratio: Median of the rounds' ratios.
        low: Their first quartile; None for a single round.
        high: Their third.
        bar: What it should not exceed; None: only reported.
        cpu_ratio: The same of CPU time, which other processes disturb less; None: not measured.
        note: Printed beside it.
    """

    name: str
    seconds: dict[str, Seconds]
    ratio: float
    low: float | None = None
    high: float | None = None
    bar: float | None = None
    cpu_ratio: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """How it stands against its bar."""
        return "" if self.bar is None else "ok" if self.ratio <= self.bar else "OVER"


def ratio(
    name: str, results: Mapping[str, Rounds], side: str, against: str, bar: float | None = None, note: str = ""
) -> Ratio:
    """Returns the median over rounds of `side` ÷ `against`."""
    ours, theirs = results[side], results[against]
    ratios = [a / b for a, b in zip(ours.wall, theirs.wall, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [None, None, None]
    cpu = [a / b for a, b in zip(ours.cpu, theirs.cpu, strict=True) if b > 0]
    return Ratio(
        name=name,
        seconds={side: statistics.median(ours.wall), against: statistics.median(theirs.wall)},
        ratio=statistics.median(ratios),
        low=quartiles[0],
        high=quartiles[2],
        bar=bar,
        cpu_ratio=statistics.median(cpu) if cpu else None,
        note=note,
    )


class Report:
    """Collects and prints what a benchmark found.

    Args:
        title: What is measured, in one line.
        settings: Rounds, calls and the like: what a reader needs to repeat it.
    """

    def __init__(self, title: str, settings: str):
        self._title = title
        self._settings = settings
        self._ratios: list[Ratio] = []
        self._parts: list[tuple[str, Seconds, str]] = []
        self._start = time.perf_counter()
        self._load_before = os.getloadavg()[0]
        self._output = sys.stdout  # while Ray runs, `rayjobs.cluster.session.start` sends `sys.stdout` elsewhere
        self.say(f"{title}\n{environment()}\n{settings}\n")

    def say(self, text: str) -> None:
        """Prints a line."""
        print(text, file=self._output, flush=True)

    def add(self, result: Ratio) -> None:
        """Takes one ratio and prints it."""
        self._ratios.append(result)
        times = ", ".join(f"{side} {show(seconds)}" for side, seconds in result.seconds.items())
        spread = "" if result.low is None else f" ({result.low:.3f} to {result.high:.3f})"
        bar = "" if result.bar is None else f", bar {result.bar:g}: {result.verdict}"
        cpu = "" if result.cpu_ratio is None else f", of CPU time {result.cpu_ratio:.3f}"
        details = "; ".join(filter(None, [times, result.note]))
        self.say(f"{result.name:<28} {result.ratio:6.3f}{spread}{bar}{cpu}; {details}")

    def part(self, name: str, seconds: Seconds, note: str = "") -> None:
        """Takes one figure that explains a ratio and prints it."""
        self._parts.append((name, seconds, note))
        self.say(f"  {name:<50} {show(seconds):>8}{'  ' + note if note else ''}")

    def finish(self, json_path: Path | None) -> None:
        """Prints the line that ends every benchmark, and writes the figures to a file."""
        took = time.perf_counter() - self._start
        load = f"load average {self._load_before:.1f} before, {os.getloadavg()[0]:.1f} after"
        self.say(f"\n{took:.0f} s in all; {load}")
        if json_path is not None:
            content = {
                "title": self._title,
                "environment": environment(),
                "settings": self._settings,
                "load": load,
                "ratios": [asdict(result) | {"verdict": result.verdict} for result in self._ratios],
                "parts": [{"name": name, "seconds": seconds, "note": note} for name, seconds, note in self._parts],
            }
            json_path.parent.mkdir(parents=True, exist_ok=True)
            json_path.write_text(json.dumps(content, indent=1) + "\n")
        self.say("ratio " + " ".join(f"{result.name}={result.ratio:.3f}" for result in self._ratios))


def parser(description: str) -> argparse.ArgumentParser:
    """Returns a parser with the options all benchmarks have."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    result.add_argument("--quick", action="store_true", help="a short run that shows that it works, not how fast")
    result.add_argument("--json", type=Path, metavar="PATH", help="also write the figures to this file")
    return result


def environment() -> str:
    """Returns one line on the machine: without it no figure can be compared with another."""
    import torch

    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    cores = len(os.sched_getaffinity(0))
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {cores} CPUs ({_cpu_name()}), Python {platform.python_version()}, "
        f"torch {torch.__version__} with {torch.get_num_threads()} threads, load average {load}"
    )


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def show(seconds: Seconds) -> str:
    """Returns a time with three digits that count."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"


def median(values: Sequence[float]) -> float:
    """Returns the median; of nothing, NaN."""
    return statistics.median(values) if values else float("nan")
