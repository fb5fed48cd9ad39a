"""A balancing method's step ÷ the step of joint training with unimodal heads, all through the trainer.

IPRM's bar is 1.10, that of AUG with five classifiers of each modality 1.15; two ResNet-18, 64x64 pictures, batch 16.

    python benchmarks/methods.py [--quick] [--rounds 9] [--json PATH]
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from common import Report, measure, parser, ratio
from setups import pictures_trainer, stepping

AGAINST = "joint_unimodal"
SIDES = {"iprm": ("iprm", 1, 1.10), "aug-5": ("aug", 5, 1.15)}


def main() -> None:
    arguments = parser("a method's step ÷ joint_unimodal's")
    arguments.add_argument("--rounds", type=int, default=9, help="of 20 steps of each method")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    rounds, steps, warm_up = (1, 2, 1) if options.quick else (options.rounds, 20, 3)
    report = Report(
        f"a method's step ÷ {AGAINST}'s",
        f"resnet18, two 64x64 pictures, batch 16, through the trainer; {rounds} rounds of {steps} steps",
    )
    trainers = {AGAINST: pictures_trainer(AGAINST)}
    trainers |= {name: pictures_trainer(method, count) for name, (method, count, _) in SIDES.items()}
    sides: dict[str, Callable[[], object]] = {}
    for name, (trainer, batches) in trainers.items():
        sides[name] = stepping(trainer, itertools.cycle(batches))
    results = measure(sides, rounds, steps, warm_up)
    for name, (_, _, bar) in SIDES.items():
        report.add(ratio(f"resnet18/{name}", results, name, AGAINST, bar))
    report.finish(options.json)


if __name__ == "__main__":
    main()
