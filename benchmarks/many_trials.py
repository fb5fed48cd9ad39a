"""What a trial more costs a search that has run many, on a simulated cluster of 16 nodes; the trials do nothing.

Seconds from the 400th to the 500th trial's end ÷ those from the 50th to the 150th (bar 1.3), and the driver's memory
(bar 1 GiB). The nodes are processes of this machine: how fast a trial is tells nothing, how it changes does.

    python benchmarks/many_trials.py [--quick] [--nodes 16] [--trials 500] [--json PATH]
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from common import Ratio, Report, parser
from pooled import Ground, digits_search
from ray.cluster_utils import Cluster
from ray.tune import Callback
from timed_body import idle_run

from rayjobs.cluster import resources, session
from rayjobs.feeding.handle import DataHandle
from rayjobs.pool.tune_run import Execution

BAR, MEMORY_BAR = 1.3, 2**30
EPOCHS = 2
LATE, EARLY = (0.8, 1.0), (0.1, 0.3)
"""Shares of the trials that are compared: of 500, numbers 400 to 500 and 50 to 150."""


class Clock(Callback):
    """Notes when each trial ended and the most memory of this process."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.memory = 0

    def on_trial_complete(self, **info: Any) -> None:
        self.ends.append(time.perf_counter())
        self.memory = max(self.memory, psutil.Process().memory_info().rss)

    def seconds(self, part: tuple[float, float]) -> float:
        """Returns how long a part of the trials took, each of them."""
        first, last = (round(end * len(self.ends)) for end in part)
        return (self.ends[last - 1] - self.ends[first - 1]) / (last - first)


def run(nodes: int, trials: int, data_dir: Path, folder: Path) -> Clock:
    """Runs one search on a cluster of so many nodes of one CPU."""
    search, prepared = digits_search(trials, EPOCHS, data_dir)
    clock, simulated = Clock(), Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(nodes):
            simulated.add_node(num_cpus=1)
        with session.start(simulated.address) as found:
            shape = resources.TrialShape()
            concurrent = resources.concurrent_trials(shape, found)
            execution = Execution(hang_limit_s=0, callbacks=(clock,), body=idle_run)
            ground = Ground(DataHandle(str(prepared.directory)), folder, concurrent, shape, execution)
            (outcomes,) = ground.searched([replace(search, grace_epochs=EPOCHS)], at_once=None)
    finally:
        simulated.shutdown()
        simulated.global_state.disconnect()
    if len(clock.ends) != trials or any(outcome.status != "done" for outcome in outcomes):
        raise SystemExit(f"{len(clock.ends)} of {trials} trials came to their end")
    return clock


def main() -> None:
    arguments = parser("the cost of a trial late in a search ÷ early in it, on a simulated cluster")
    arguments.add_argument("--nodes", type=int, default=16, help="of one CPU")
    arguments.add_argument("--trials", type=int, default=500)
    arguments.add_argument("--data-dir", type=Path, default=Path("data"), help="where prepared data sets lie")
    options = arguments.parse_args()
    if options.quick:
        options.nodes, options.trials = 2, 20
    os.environ.setdefault("RAY_worker_niceness", "0")
    report = Report(
        "a trial late in a search ÷ a trial early in it",
        f"{options.trials} trials that do nothing, by HyperOpt and ASHA, {options.nodes} simulated nodes",
    )
    folder = Path(tempfile.mkdtemp(prefix="equipoise-many-"))
    try:
        clock = run(options.nodes, options.trials, options.data_dir, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    late, early = clock.seconds(LATE), clock.seconds(EARLY)
    report.add(Ratio("trial/late÷early", {"late": late, "early": early}, late / early, bar=BAR))
    memory = Ratio("driver_memory÷bar", {}, clock.memory / MEMORY_BAR, bar=1.0, note=f"{clock.memory / 2**20:.0f} MiB")
    report.add(memory)
    report.finish(options.json)


if __name__ == "__main__":
    main()
