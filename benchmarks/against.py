"""This build ÷ another one, in one run and in turns: a training step, a search, the start of a command.

- A step of the trainer, the cases of `step.py`, each build in a process of its own (bar 1.01).
- A search of 12 trials, as `trials.py` measures it, Ray's start not counted (bar 1.01).
- `python -m rayjobs.tune --dry-run`, the whole process (bar 0.75 against the build with one room for all files).

Without --against, both sides are this build: how much noise there is.

    python benchmarks/against.py --against FOLDER [--quick] [--only steps searches starts] [--rounds 9] [--json PATH]
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from builds import THIS, Build, add_option, environment, in_turns, serve
from common import Report, parser, ratio
from setups import digits_trainer, pictures_trainer, stepping

PARTS = ("steps", "searches", "starts")
STEPS = {"small_conv": 100, "resnet18": 4}
"""Steps a round of each encoder."""
CASES = tuple(itertools.product(STEPS, ("joint", "iprm", "aug")))
STEP_BAR = SEARCH_BAR = 1.01
START_BAR = 0.75


def answer_steps() -> Callable[[Any], object]:
    """Returns what the process of a build answers: the seconds, of the clock and of the CPU, that steps took."""
    torch.set_num_threads(1)
    calls: dict[tuple[str, str], Callable[[], None]] = {}

    def answer(question: Any) -> object:
        encoder, method, data_dir, steps = question
        if (encoder, method) not in calls:
            calls.clear()
            small = encoder == "small_conv"
            trainer, batches = digits_trainer(method, Path(data_dir)) if small else pictures_trainer(method)
            calls[encoder, method] = stepping(trainer, itertools.cycle(batches))
        cpu_start, start = time.process_time(), time.perf_counter()
        for _ in range(steps):
            calls[encoder, method]()
        return time.perf_counter() - start, time.process_time() - cpu_start

    return answer


def step_rows(report: Report, checkouts: dict[str, Path], data_dir: Path, rounds: int, *, quick: bool) -> None:
    """Adds a row for each encoder and method."""
    builds = {name: Build(__file__, checkout) for name, checkout in checkouts.items()}
    for encoder, method in CASES[:1] if quick else CASES:
        steps = 2 if quick else STEPS[encoder]
        for build in builds.values():
            build.ask((encoder, method, str(data_dir), steps))
        results = in_turns(lambda name: builds[name].ask((encoder, method, str(data_dir), steps)), rounds)  # noqa: B023
        report.add(ratio(f"step/{encoder}/{method}", results, "this", "against", STEP_BAR))
    for build in builds.values():
        build.close()


def search_seconds(checkout: Path, data_dir: Path, *, quick: bool) -> tuple[float, float]:
    """Runs a checkout's own `trials.py` for one round; returns the seconds of its search, and 0 for the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        command = [sys.executable, "-P", str(checkout / "benchmarks" / "trials.py"), "--rounds", "1"]
        command += ["--data-dir", str(data_dir.resolve()), "--json", str(figures), *(["--quick"] if quick else [])]
        subprocess.run(command, env=environment(checkout), cwd=folder, check=True, stdout=subprocess.DEVNULL)
        return json.loads(figures.read_text())["ratios"][0]["seconds"]["search"], 0.0


def start_seconds(checkout: Path, data_dir: Path) -> tuple[float, float]:
    """Returns the seconds of a whole `tune --dry-run`, and 0 for the CPU."""
    command = [sys.executable, "-P", "-m", "rayjobs.tune", "--dry-run", "--data-dir", str(data_dir.resolve())]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(command, env=environment(checkout), cwd=folder, check=True, capture_output=True)
        return time.perf_counter() - start, 0.0


def main() -> None:
    arguments = parser(str(__doc__).split("\n", 1)[0])
    add_option(arguments)
    arguments.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="what is measured")
    arguments.add_argument("--rounds", type=int, default=9, help="of each side (of a search a third as many)")
    arguments.add_argument("--data-dir", type=Path, default=Path("data"), help="where prepared data sets lie")
    options = arguments.parse_args()
    quick, rounds = options.quick, 2 if options.quick else options.rounds
    checkouts = {"this": THIS, "against": options.against}
    digits_trainer("joint", options.data_dir)  # prepares the data set: neither side has it to do
    report = Report("this build ÷ another", f"{rounds} rounds; against {options.against}")
    if "steps" in options.only:
        step_rows(report, checkouts, options.data_dir, rounds, quick=quick)
    if "searches" in options.only:
        results = in_turns(
            lambda name: search_seconds(checkouts[name], options.data_dir, quick=quick), max(1, rounds // 3)
        )
        report.add(ratio("search", results, "this", "against", SEARCH_BAR))
    if "starts" in options.only:
        results = in_turns(lambda name: start_seconds(checkouts[name], options.data_dir), rounds)
        report.add(ratio("start/dry_run", results, "this", "against", START_BAR))
    report.finish(options.json)


if __name__ == "__main__":
    serve(answer_steps()) if sys.argv[1:] == ["--serve"] else main()
