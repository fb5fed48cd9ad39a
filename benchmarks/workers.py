"""Two workers of one thread on two cores ÷ what the machine allows two processes at all.

Both sides train the same number of samples of two ResNet-18: two processes that know nothing of each other, a global
batch each, and two workers that share two global batches one after the other. The first is the machine's own ceiling,
often far under twice one process on shared cores; a ratio of 1.11 is a speed-up of 0.9 times the ceiling's (bar).
The batch is the papers', 64; of a smaller one the 90 MB of gradients, as many at any batch, are a larger share.

    python benchmarks/workers.py [--quick] [--batch 64] [--rounds 9] [--json PATH]
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from common import Report, measure, median, parser, ratio
from setups import pictures_trainer, stepping

from mmcore.data.feeding.loader import shard_bounds

WORKERS = 2
METHOD = "joint"
BAR = 1 / 0.9
START_S = 300


def serve(connection: Connection, rank: int, rendezvous: str, batch_size: int) -> None:
    """Does as many steps as it is told, until it is told none; a member of a group where there is a `rendezvous`."""
    torch.set_num_threads(1)
    if rendezvous:
        timeout = timedelta(seconds=START_S)
        dist.init_process_group("gloo", f"file://{rendezvous}", timeout, world_size=WORKERS, rank=rank)
    trainer, batches = pictures_trainer(METHOD, batch_size=batch_size)
    if rendezvous:
        batches = [batch.select(*shard_bounds(batch.num_samples, rank, WORKERS)) for batch in batches]
    step = stepping(trainer, itertools.cycle(batches))
    connection.send("ready")
    while count := connection.recv():
        for _ in range(count):
            step()
        connection.send("done")


class Processes:
    """Processes that train at once.

    Args:
        count: How many.
        batch_size: Samples of a step, over all members of the group.
        rendezvous: A file by which they find each other; "": each is on its own.
    """

    def __init__(self, count: int, batch_size: int, rendezvous: str = ""):
        context = torch.multiprocessing.get_context("spawn")
        self._connections: list[Any] = []
        self._processes = []
        for rank in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, rank, rendezvous, batch_size), daemon=True)
            process.start()
            self._processes.append(process)
            self._connections.append(ours)
        self._wait(self._connections)

    def steps(self, steps: int, count: int) -> Callable[[], None]:
        """Returns a call that does `steps` steps in each of the first `count` processes."""

        def call() -> None:
            for connection in self._connections[:count]:
                connection.send(steps)
            self._wait(self._connections[:count])

        return call

    def close(self) -> None:
        """Ends them."""
        for connection in self._connections:
            connection.send(0)
        for process in self._processes:
            process.join()

    @staticmethod
    def _wait(connections: list[Any]) -> None:
        for connection in connections:
            if not connection.poll(START_S):
                raise SystemExit("a process that trains gave no answer")
            connection.recv()


def main() -> None:
    arguments = parser("two workers ÷ two independent processes, the same samples")
    arguments.add_argument("--rounds", type=int, default=9, help="of a few steps of each side, in turns")
    arguments.add_argument("--batch", type=int, default=64, help="samples of a step over all workers")
    options = arguments.parse_args()
    batch, rounds, calls, warm_up = (16, 2, 1, 1) if options.quick else (options.batch, options.rounds, 2, 1)
    os.environ["OMP_NUM_THREADS"] = "1"
    report = Report(
        "two workers on two cores ÷ two independent processes",
        f"{METHOD}, two resnet18 on 64x64 pictures, global batch {batch}, gloo, one thread a process; {rounds} rounds "
        f"of {calls} x 2 steps of two workers, of one process, and of 1 step in each of two processes",
    )
    with tempfile.TemporaryDirectory() as folder:
        apart, together = Processes(WORKERS, batch), Processes(WORKERS, batch, f"{folder}/rendezvous")
        sides = {
            "one": apart.steps(WORKERS, 1),
            "apart": apart.steps(1, WORKERS),
            "together": together.steps(WORKERS, WORKERS),
        }
        results = measure(sides, rounds, calls, warm_up)
        for processes in (apart, together):
            processes.close()
    for side in results.values():
        side.cpu.clear()  # of this process, which only waits
    for result in (
        ratio("resnet18/workers÷ceiling", results, "together", "apart", BAR),
        ratio("resnet18/workers÷one", results, "together", "one"),
    ):
        report.add(result)
    one, apart_s, together_s = (median(results[side].wall) for side in ("one", "apart", "together"))
    report.say(
        f"  speed-up of two workers {one / together_s:.2f}, of two independent processes {one / apart_s:.2f}: "
        f"{apart_s / together_s:.2f} of the ceiling"
    )
    report.finish(options.json)


if __name__ == "__main__":
    main()
