"""What averaging gradients costs: two gloo processes of one thread, ResNet-18, batch 8 each.

Ours (`mmcore.training.update.gradient_buckets`, sent while backward runs) ÷ torch's DistributedDataParallel, ÷ one flat
message after backward, ÷ no communication at all, all in the same plain loop, step by step in turns. All but the last
must end with the same weights, or it ends with an error. Both processes must have a core of their own: with fewer, the
figures are worthless.

    python benchmarks/communication.py [--quick] [--rounds 9] [--json PATH]
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F
from common import Report, Rounds, measure, parser, ratio
from plain import resnet18
from torch import Tensor, nn

from mmcore.training.update.gradient_buckets import GradientAverager

WORLD_SIZE = 2
BATCH_SIZE, NUM_CLASSES = 8, 10
CHECKED_STEPS = 5
TOLERANCE = 1e-9
"""Allowed difference of weights in double precision, whose rounding differs with the order of sums."""
SIDES = ("ours", "ddp", "flat", "none")
AGAINST = {"ddp": "DistributedDataParallel", "flat": "one message after backward", "none": "no communication"}


class Loop:
    """A plain training loop with one way of averaging gradients.

    Args:
        side: One of `SIDES`.
        size: Height and width of the pictures.
        dtype: Type of the weights and pictures.
    """

    def __init__(self, side: str, size: int, dtype: torch.dtype):
        torch.manual_seed(0)
        self.network = nn.Sequential(resnet18(3), nn.Linear(512, NUM_CLASSES)).to(dtype)
        self.parameters = list(self.network.parameters())
        self.model = nn.parallel.DistributedDataParallel(self.network) if side == "ddp" else self.network
        self.averager = GradientAverager() if side == "ours" else None
        self.side = side
        self.optimizer = torch.optim.SGD(self.parameters, lr=0.01, momentum=0.9)
        generator = torch.Generator().manual_seed(1 + dist.get_rank())
        self.pictures = torch.randn(4, BATCH_SIZE, 3, size, size, generator=generator).to(dtype)
        self.labels = torch.randint(0, NUM_CLASSES, (4, BATCH_SIZE), generator=generator)
        self.num_steps = 0

    def step(self) -> None:
        """Does one optimizer step."""
        index = self.num_steps % len(self.pictures)
        self.num_steps += 1
        loss = F.cross_entropy(self.model(self.pictures[index]), self.labels[index])
        self.optimizer.zero_grad()
        if self.averager:
            self.averager.begin("joint", self.parameters, 1.0)
        loss.backward()
        if self.averager:
            self.averager.finish("joint", self.parameters, 1.0)
        elif self.side == "flat":
            self._average_flat()
        self.optimizer.step()

    @torch.no_grad()
    def weights(self) -> Tensor:
        """Returns all weights in one vector."""
        return torch.cat([parameter.flatten() for parameter in self.parameters])

    @torch.no_grad()
    def _average_flat(self) -> None:
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= WORLD_SIZE
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def largest_difference(size: int, steps: int) -> float:
    """Trains every way that averages for some steps; returns the largest difference of their weights.

    Raises:
        SystemExit: They do not compute the same.
    """
    weights = []
    for side in SIDES[:3]:
        loop = Loop(side, size, torch.float64)
        for _ in range(steps):
            loop.step()
        weights.append(loop.weights())
    worst = max(float((weights[0] - other).abs().max()) for other in weights[1:])
    if not worst <= TOLERANCE:
        raise SystemExit(f"weights differ by {worst:.2g} after {steps} steps, allowed {TOLERANCE:g}")
    return worst


def together(step: Callable[[], None]) -> Callable[[], None]:
    """Returns a step that both processes begin at one time, so that none is timed while it waits for the other."""

    def call() -> None:
        dist.barrier()
        step()

    return call


def measure_here(rank: int, folder: str, size: int, rounds: int, steps: int, warm_up: int) -> None:
    """What each process runs; rank 0 leaves the times in `folder`."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder}/rendezvous", timedelta(seconds=300), world_size=WORLD_SIZE, rank=rank
    )
    difference = largest_difference(size, CHECKED_STEPS)
    loops = {side: Loop(side, size, torch.float32) for side in SIDES}
    results = measure({side: together(loop.step) for side, loop in loops.items()}, rounds, steps, warm_up)
    if rank == 0:
        torch.save((results, difference), Path(folder) / "results.pt")
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    arguments = parser("averaging gradients: ours ÷ DDP, ÷ one flat message, ÷ none")
    arguments.add_argument("--rounds", type=int, default=9, help="of 20 steps of each")
    arguments.add_argument("--size", type=int, default=64, help="height and width of a picture")
    options = arguments.parse_args()
    rounds, steps, warm_up = (2, 1, 1) if options.quick else (options.rounds, 20, 3)
    size = min(options.size, 32) if options.quick else options.size
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    report = Report(
        "averaging gradients over two processes: ours ÷ other ways",
        f"resnet18, {size}x{size} pictures, batch {BATCH_SIZE} a process, gloo, one thread a process; "
        f"{rounds} rounds of {steps} steps",
    )
    with tempfile.TemporaryDirectory() as folder:
        task = (folder, size, rounds, steps, warm_up)
        torch.multiprocessing.spawn(measure_here, task, nprocs=WORLD_SIZE)
        with torch.serialization.safe_globals([Rounds]):
            results, difference = torch.load(Path(folder) / "results.pt")
    for side, description in AGAINST.items():
        note = description if side == "none" else f"{description}; weights agree to {difference:.0e}"
        report.add(ratio(f"resnet18/ours÷{side}", results, "ours", side, note=note))
    report.finish(options.json)


if __name__ == "__main__":
    main()
