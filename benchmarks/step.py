"""One training step through the trainer ÷ the same step in a plain PyTorch loop (bar 1.05).

The trainer with its defaults: probes, loss terms added up, gradient norms and a look for NaNs every 20 steps (a round
is 20 steps, so each holds one such). The plain loop (`plain.py`) has none of it. Both are handed the same stored
batches, start from the same weights, and must give the same losses in the first steps, or it ends with an error.

    python benchmarks/step.py [--quick] [--only small_conv/iprm] [--json PATH]
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from common import Report, measure, parser, ratio
from plain import Pictures, Plain, digits_parts, resnet18
from plain_balancing import LOOPS
from setups import digits_trainer, pictures_trainer, stepping

from mmcore.batch import Batch
from mmcore.methods import Method
from mmcore.training.trainer import Progress, Trainer

BAR = 1.05
TOLERANCE = 1e-4
CHECKED_STEPS = 5
"""Steps whose losses must agree, in double precision: in a deep network, rounding grows tenfold and more in each."""
METHODS = ("joint", "iprm", "aug", "aug-2")


@dataclass
class Case:
    """One trainer and its plain twin.

    Attributes:
        trainer: Ours.
        plain: The plain loop, with the same weights.
        batches: Stored batches, the same for both.
    """

    trainer: Trainer
    plain: Plain
    batches: list[Batch]


def build_case(encoder: str, case: str, data_dir: Path, precision: str = "auto") -> Case:
    """Builds both sides of a case of `setups.method_section`."""
    if encoder == "small_conv":
        trainer, batches = digits_trainer(case, data_dir, precision)
        parts = digits_parts(trainer.config)
    else:
        trainer, batches = pictures_trainer(case, precision)
        settings = next(iter(trainer.config.dataset.transforms.values()))
        parts = (Pictures(settings["mean"], settings["std"]), resnet18(3), resnet18(3), 512)
    plain = LOOPS[case](*parts).to(torch.float64 if precision == "float64" else torch.float32)
    copy_weights(trainer.method, plain)
    plain.start()
    plain.train()
    return Case(trainer, plain, batches)


@torch.no_grad()
def copy_weights(method: Method, plain: Plain) -> None:
    """Gives the plain loop the trainer's weights: both have the encoders first, then the heads in the same order."""
    for ours, theirs in zip(method.parameters(), plain.parameters(), strict=True):
        assert ours.shape == theirs.shape
        theirs.copy_(ours)


def check_losses(case: Case, steps: int) -> float:
    """Trains both sides for some steps; returns the largest relative difference of their losses.

    Raises:
        SystemExit: The two sides do not compute the same.
    """
    worst = 0.0
    for batch in itertools.islice(itertools.cycle(case.batches), steps):
        case.trainer.progress = Progress()
        case.trainer.train_step(batch)
        ours = sum(float(total) for total in case.trainer.progress.totals.values()) / batch.num_samples
        theirs = float(case.plain.step(batch.inputs, batch.labels))
        worst = max(worst, abs(ours - theirs) / max(1.0, abs(theirs)))
    if not worst <= TOLERANCE:
        raise SystemExit(f"the two sides differ: a loss by {worst:.2g} within {steps} steps, allowed {TOLERANCE:g}")
    case.trainer.progress = Progress()
    return worst


def plain_stepping(plain: Plain, batches: Iterator[Batch]) -> Callable[[], None]:
    """Returns a call that does one step of the plain loop."""

    def call() -> None:
        batch = next(batches)
        plain.step(batch.inputs, batch.labels)

    return call


def main() -> None:
    arguments = parser("one training step: trainer ÷ plain PyTorch loop")
    arguments.add_argument("--only", action="append", default=[], help="a case, small_conv/joint say; repeatable")
    arguments.add_argument("--rounds", type=int, default=9, help="of 20 steps on resnet18 (on small_conv 5 times)")
    arguments.add_argument("--data-dir", type=Path, default=Path("data"), help="where prepared data sets lie")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    rounds = {"small_conv": 5 * options.rounds, "resnet18": options.rounds}
    steps, warm_up, checked, methods = 20, 5, CHECKED_STEPS, METHODS
    if options.quick:
        rounds, steps, warm_up, checked = {"small_conv": 2, "resnet18": 1}, 2, 1, 2
        methods = ("joint", "iprm", "aug")
    report = Report(
        "step through the trainer ÷ step of a plain loop",
        f"small_conv: digits, batch 64; resnet18: two 64x64 pictures, batch 16; {steps} steps a round; rounds {rounds}",
    )
    for encoder, method in itertools.product(rounds, methods):
        name = f"{encoder}/{method}"
        if options.only and name not in options.only:
            continue
        if options.quick and encoder == "resnet18" and method != "joint":
            continue  # a method is no other on another encoder, and this one takes seconds a step
        difference = check_losses(build_case(encoder, method, options.data_dir, "float64"), checked)
        case = build_case(encoder, method, options.data_dir)
        sides = {
            "ours": stepping(case.trainer, itertools.cycle(case.batches)),
            "plain": plain_stepping(case.plain, itertools.cycle(case.batches)),
        }
        results = measure(sides, rounds[encoder], steps, warm_up)
        report.add(ratio(name, results, "ours", "plain", BAR, f"losses agree to {difference:.0e}"))
    report.finish(options.json)


if __name__ == "__main__":
    main()
