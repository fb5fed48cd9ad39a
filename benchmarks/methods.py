"""Each method's step ÷ a plain loop of its own rule, ÷ the step of joint training; and its peak memory ÷ joint's.

The plain loops (`plain.py`, `plain_balancing.py`) do what the rule says and nothing else: no probes, logs or engine; in
double precision they must give the trainer's losses, or it ends with an error. A method without such a loop is compared
with `joint` alone, through the trainer as itself. Memory is what a process of its own needs for three steps beyond the
imported libraries: weights, gradients, momentum, activations. With three modalities the methods whose passes grow with
their number are compared with `joint` on three.

    python benchmarks/methods.py [--quick] [--only resnet18/ogm] [--skip-memory] [--rounds 5] [--json PATH]
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from common import Ratio, Report, measure, parser, ratio
from plain_balancing import LOOPS
from setups import digits_trainer, pictures_trainer, stepping
from step import build_case, check_losses, plain_stepping

from mmcore.batch import Batch
from mmcore.methods import METHODS
from mmcore.training.trainer import Trainer

JOINT = "joint"
PLAIN_BAR = 1.05
JOINT_BARS = {
    "ogm": 1.05, "opm-always": 1.05, "amss": 1.05, "arl-from_start": 1.05, "cml": 1.15, "dgl": 1.05, "inforeg": 1.10,
    "mmcosine": 1.05, "mmpareto": 2.0, "agm": 3 * 1.05,
}  # fmt: skip
"""Case -> what its step ÷ joint's should not exceed, with two modalities: AGM's rule has 2^M - 1 passes."""
THREE_BARS = {"mmpareto": 2.0, "agm": 7 * 1.05}
"""The same with three; what else is there takes as many passes with three as with two."""
OTHER_BARS = {("iprm", "joint_unimodal"): 1.10, ("aug-5", "joint_unimodal"): 1.15}
"""The two methods of this project, against joint training with unimodal heads; resnet18."""
CHECKED_STEPS = 3
"""Steps whose losses must agree: the third stands on running means of two."""
CHECKABLE = {"resnet18/amss": 1, "small_conv/amss": 1, "resnet18/ogm-ge": 1, "small_conv/ogm-ge": 1, "resnet18/agm": 2}
"""Case -> the same, where random numbers make the later ones differ.

So does rounding in AGM's deep network, whose batch norms have seen too little to be used as in evaluation: by 1e-8
after two steps, by 1e-3 after five (`joint`: 1e-8).
"""
ENCODERS = {"resnet18": 4, "small_conv": 40, "resnet18x3": 4}
"""Encoder -> steps of each side in a round; `resnet18x3` has three modalities."""
MEMORY_STEPS = 3
QUICK: dict[str, list[str]] = {"resnet18": ["mmpareto"], "resnet18x3": []}
"""What a quick run leaves of the slower encoder's cases."""


@dataclass(frozen=True)
class Options:
    """How a run measures: rounds, steps of a round by encoder, steps that are checked, where data lie."""

    rounds: int
    steps: dict[str, int]
    checked: int
    data_dir: Path


def wanted_cases(encoder: str, only: list[str], *, quick: bool) -> list[str]:
    """Returns what to measure: every method that learns from all modalities, and some in a state of their own.

    Those are AUG grown, ARL begun, OGM with its noise, OPM past its warm-up, and AMSS without its random numbers.
    """
    methods = [name for name in METHODS.names() if name not in {JOINT, "unimodal"}]
    states = ["arl-from_start", "aug-5", "ogm-ge", "opm-always", "amss-top"]
    known = list(THREE_BARS) if encoder == "resnet18x3" else [*methods, *states]
    if quick:
        known = QUICK.get(encoder, known)
    return [case for case in known if not only or f"{encoder}/{case}" in only]


def trainer_of(encoder: str, case: str, data_dir: Path) -> tuple[Trainer, list[Batch]]:
    """Returns a trainer and its batches."""
    if encoder == "small_conv":
        return digits_trainer(case, data_dir)
    return pictures_trainer(case, num_modalities=3 if encoder.endswith("x3") else 2)


def step_of(encoder: str, case: str, data_dir: Path) -> Callable[[], None]:
    """Returns a call that does one step through the trainer."""
    trainer, batches = trainer_of(encoder, case, data_dir)
    return stepping(trainer, itertools.cycle(batches))


def step_rows(encoder: str, case: str, options: Options) -> Iterator[Ratio]:
    """Measures one case against its plain loop, `joint` and what else has a bar for it."""
    sides: dict[str, Callable[[], object]] = {JOINT: step_of(encoder, JOINT, options.data_dir)}
    note = ""
    name = f"{encoder}/{case}"
    if case in LOOPS and encoder != "resnet18x3":
        checked = min(options.checked, CHECKABLE.get(name, options.checked))
        double = build_case(encoder, case, options.data_dir, "float64")
        note = f"losses agree to {check_losses(double, checked):.0e}"
        both = build_case(encoder, case, options.data_dir)
        sides[case] = stepping(both.trainer, itertools.cycle(both.batches))
        sides["plain"] = plain_stepping(both.plain, itertools.cycle(both.batches))
    else:
        sides[case] = step_of(encoder, case, options.data_dir)
    others = {against: bar for (name, against), bar in OTHER_BARS.items() if name == case and encoder == "resnet18"}
    sides |= {against: step_of(encoder, against, options.data_dir) for against in others}
    results = measure(sides, options.rounds, options.steps[encoder], warm_up=2)
    if "plain" in sides:
        yield ratio(f"{name}÷plain", results, case, "plain", PLAIN_BAR if encoder == "resnet18" else None, note)
    bars = {JOINT: (THREE_BARS if encoder == "resnet18x3" else JOINT_BARS).get(case), **others}
    for against, bar in bars.items():
        yield ratio(f"{name}÷{against}", results, case, against, bar)


def needed_bytes(encoder: str, case: str, data_dir: Path) -> int:
    """Returns how far three steps raise this process's peak of resident memory above what it held before (Linux)."""
    torch.set_num_threads(1)
    before = _status("VmRSS")
    step = step_of(encoder, case, data_dir)
    for _ in range(MEMORY_STEPS):
        step()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    # Not getrusage, whose peak a process takes over from the one that started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024


def memory_rows(encoder: str, wanted: list[str], data_dir: Path) -> Iterator[Ratio]:
    """Measures each case's peak memory against `joint`'s, each in a process of its own.

    Not on `small_conv`, which needs less than the libraries that come with the data set.
    """
    needed = {case: in_own_process(encoder, case, data_dir) for case in (JOINT, *wanted)}
    for case in wanted:
        note = f"{needed[case] / 2**20:.0f} ÷ {needed[JOINT] / 2**20:.0f} MiB"
        yield Ratio(f"{encoder}/{case}/memory", {}, needed[case] / needed[JOINT], note=note)


def in_own_process(encoder: str, case: str, data_dir: Path) -> int:
    """Returns what `needed_bytes` does in a fresh process."""
    task = json.dumps([encoder, case])
    command = [sys.executable, __file__, "--needed", task, "--data-dir", str(data_dir)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{encoder}/{case} failed:\n{done.stderr}")
    return int(done.stdout.splitlines()[-1])


def main() -> None:
    arguments = parser("a method's step ÷ a plain loop's, ÷ joint's; its peak memory ÷ joint's")
    arguments.add_argument("--only", action="append", default=[], help="a case, resnet18/ogm say; repeatable")
    arguments.add_argument("--rounds", type=int, default=5, help=f"of steps of each side: {ENCODERS}")
    arguments.add_argument("--skip-memory", action="store_true", help="measure steps alone")
    arguments.add_argument("--data-dir", type=Path, default=Path("data"), help="where prepared data sets lie")
    arguments.add_argument("--needed", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.needed:
        print(needed_bytes(*json.loads(given.needed), given.data_dir))
        return
    torch.set_num_threads(1)
    options = Options(given.rounds, ENCODERS, CHECKED_STEPS, given.data_dir)
    if given.quick:
        options = Options(1, dict.fromkeys(ENCODERS, 1), 1, given.data_dir)
    report = Report(
        "a method's step ÷ a plain loop's, ÷ joint's",
        f"resnet18: two 64x64 pictures (x3: three), batch 16; small_conv: digits, batch 64; {options.rounds} rounds of "
        f"{options.steps} steps",
    )
    for encoder in ENCODERS:
        wanted = wanted_cases(encoder, given.only, quick=given.quick)
        for case in wanted:
            for row in step_rows(encoder, case, options):
                report.add(row)
        if wanted and encoder != "small_conv" and not given.skip_memory:
            for row in memory_rows(encoder, wanted, given.data_dir):
                report.add(row)
    report.finish(given.json)


if __name__ == "__main__":
    main()
