"""One training step with all diagnostics ÷ the same step without any (bar 1.03).

All: linear probes in every step, gradient norms every 20 steps, and the cosine of joint and own gradient in one of 100,
as often as ever in a run (a round is 100 steps, so each holds one). Both sides are handed the same stored batches. What
the probes alone cost is printed beside it. Own accuracies, readings and the methods' own numbers come once an epoch.

    python benchmarks/diagnostics.py [--quick] [--only small_conv/iprm] [--rounds 9] [--json PATH]
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import torch
from common import Report, measure, parser, ratio
from setups import digits_trainer, pictures_trainer, stepping

from mmcore.evaluation.readings import COSINE_EVERY_STEPS

BAR = 1.03
METHODS = ("joint_unimodal", "iprm", "aug")
SIDES = {
    "all": {"diagnostics": True, "probes": True},
    "probes": {"diagnostics": False, "probes": True},
    "none": {"diagnostics": False, "probes": False},
}


def build_sides(encoder: str, method: str, data_dir: Path) -> dict[str, Callable[[], object]]:
    """Returns, for each side, a call that does one step of a trainer of its own."""
    calls: dict[str, Callable[[], object]] = {}
    for name, settings in SIDES.items():
        if encoder == "small_conv":
            trainer, batches = digits_trainer(method, data_dir, **settings)
        else:
            trainer, batches = pictures_trainer(method, **settings)
        calls[name] = stepping(trainer, itertools.cycle(batches))
    return calls


def main() -> None:
    arguments = parser("one training step: with all diagnostics ÷ without any")
    arguments.add_argument("--only", action="append", default=[], help="a case, small_conv/iprm say; repeatable")
    arguments.add_argument("--rounds", type=int, default=9, help="of 100 steps on resnet18 (on small_conv 5 times)")
    arguments.add_argument("--data-dir", type=Path, default=Path("data"), help="where prepared data sets lie")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    rounds = {"small_conv": 5 * options.rounds, "resnet18": options.rounds}
    steps, warm_up = COSINE_EVERY_STEPS, 2
    if options.quick:
        rounds, steps, warm_up = {"small_conv": 2, "resnet18": 1}, 2, 1
    report = Report(
        "step with all diagnostics ÷ step without any",
        f"small_conv: digits, batch 64; resnet18: two 64x64 pictures, batch 16; {steps} steps a round; rounds {rounds}",
    )
    for encoder, method in itertools.product(rounds, METHODS):
        name = f"{encoder}/{method}"
        if options.only and name not in options.only:
            continue
        results = measure(build_sides(encoder, method, options.data_dir), rounds[encoder], steps, warm_up)
        report.add(ratio(name, results, "all", "none", BAR))
        report.add(ratio(f"{name}/probes", results, "probes", "none"))
    report.finish(options.json)


if __name__ == "__main__":
    main()
