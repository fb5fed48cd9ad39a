"""What a trial costs the process that drives it: many searches of trials that do nothing, in one run.

Milliseconds of the driver's main thread a trial (bar 15), beside Ray Tune as it comes (bar 1.0) and without its loggers
(bar 2.0), which is given the same searchers and schedulers, each in a process of its own. How they grow from the 100th
to 400th trial to the last 300 (bar 1.1), and the driver's memory (bar 500 MiB).

    python benchmarks/driver.py [--quick] [--searches 100] [--trials 20] [--places 4] [--sides pool tune] [--json PATH]

`python -m cProfile -o PATH benchmarks/driver.py --side pool` tells where the time goes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
from common import Ratio, Report, parser
from dealt import Dealer, Referee
from idle_trials import idle_body, idle_trial
from pooled import Ground, digits_search
from ray import tune
from ray.tune import Callback

from rayjobs.cluster import session
from rayjobs.feeding.handle import DataHandle
from rayjobs.pool.stage import Place
from rayjobs.pool.tune_run import Execution
from rayjobs.search.searches import Search

BAR_MS, MEMORY_BAR, GROWTH_BAR = 15.0, 500 * 2**20, 1.1
TUNE_BARS = {"tune": 1.0, "tune_without_loggers": 2.0}
EPOCHS = 2
PART = 0.15
"""Share of the trials at the end that is compared with as many that come after the first twentieth: 300 of 2,000."""


@dataclass
class Clock(Callback):
    """Notes, as each trial ends, the seconds of this thread's CPU and of the clock, and the most memory."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    memory: int = 0

    def on_trial_complete(self, **info: Any) -> None:
        self.cpu.append(time.thread_time())
        self.wall.append(time.perf_counter())
        if len(self.cpu) % 50 == 0:
            self.memory = max(self.memory, psutil.Process().memory_info().rss)


@dataclass(frozen=True)
class Figures:
    """What one side cost.

    Attributes:
        cpu: Seconds of the main thread a trial, from the first trial's end to the last one's.
        wall: Seconds of the clock.
        early: `cpu` of trials 100 to 400 of 2,000.
        late: `cpu` of the last 300.
        memory: Most bytes in memory.
    """

    cpu: float
    wall: float
    early: float
    late: float
    memory: int


def figures(clock: Clock) -> Figures:
    """Returns what trials cost by the times of their ends."""
    ends, number = clock.cpu, len(clock.cpu)
    part, first = max(1, round(number * PART)), round(number * 0.05)
    return Figures(
        cpu=(ends[-1] - ends[0]) / (number - 1),
        wall=(clock.wall[-1] - clock.wall[0]) / (number - 1),
        early=(ends[first + part] - ends[first]) / part,
        late=(ends[-1] - ends[-1 - part]) / part,
        memory=max(clock.memory, psutil.Process().memory_info().rss),
    )


def run_in_pool(searches: list[Search], ground: Ground) -> None:
    """Runs the searches as `rayjobs.tune` does, but one after another: each is a fold.

    Else the first trials of all would come first, which HyperOpt draws at random, and cost less than the later ones.
    """
    ground.run([ground.search_stage(search, Place(fold, 0, search.name)) for fold, search in enumerate(searches)])


def run_by_tune(searches: list[Search], ground: Ground) -> None:
    """Runs them by Ray Tune as it comes: its state, its loggers, its processes."""
    os.environ.pop("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS")
    run_without_loggers(searches, ground)


def run_without_loggers(searches: list[Search], ground: Ground) -> None:
    """Runs them by Ray Tune without its loggers."""
    tune.run(
        tune.with_resources(idle_trial, {"CPU": 1}),
        storage_path=str(ground.folder),
        num_samples=sum(search.trials for search in searches),
        search_alg=Dealer(searches),
        scheduler=Referee(searches),
        max_concurrent_trials=ground.places,
        callbacks=list(ground.execution.callbacks),
        reuse_actors=True,
        raise_on_failed_trial=False,
        verbose=0,
    )


Side = Callable[[list[Search], Ground], None]
SIDES: dict[str, Side] = {"pool": run_in_pool, "tune": run_by_tune, "tune_without_loggers": run_without_loggers}


def run_side(name: str, searches: int, trials: int, places: int, data_dir: Path) -> Figures:
    """Runs one side in this process."""
    search, prepared = digits_search(trials, EPOCHS, data_dir)
    alike = [replace(search, label=f"search-{number}") for number in range(searches)]  # a search is seeded by its name
    folder, clock = Path(tempfile.mkdtemp(prefix="equipoise-driver-")), Clock()
    execution = Execution(callbacks=(clock,), body=idle_body)
    try:
        with session.start(num_cpus=places):
            SIDES[name](alike, Ground(DataHandle(str(prepared.directory)), folder, places, execution=execution))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if len(clock.cpu) != searches * trials:
        raise SystemExit(f"{name}: {len(clock.cpu)} of {searches * trials} trials came to their end")
    return figures(clock)


def side_of(name: str, options: Any, report: Report) -> Figures:
    """Runs one side in a process of its own, and says what it cost."""
    command = [sys.executable, __file__, "--side", name, "--data-dir", str(options.data_dir.resolve())]
    for key in ("searches", "trials", "places"):
        command += [f"--{key}", str(getattr(options, key))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{name} ended with exit code {done.returncode}; its message is above")
    found = Figures(**json.loads(done.stdout.splitlines()[-1]))
    note = f"{found.wall * 1e3:.1f} ms of the clock, {found.memory / 2**20:.0f} MiB at most"
    report.part(f"{name}: main thread a trial", found.cpu, note)
    return found


def add_rows(report: Report, found: dict[str, Figures]) -> None:
    """Adds the ratios."""
    pool = found["pool"]
    report.add(Ratio("main_thread÷bar", {"trial": pool.cpu}, pool.cpu * 1e3 / BAR_MS, bar=1.0))
    for name, bar in TUNE_BARS.items():
        if name in found:
            seconds = {"pool": pool.cpu, name: found[name].cpu}
            report.add(Ratio(f"main_thread÷{name}", seconds, pool.cpu / found[name].cpu, bar=bar))
    late = {"late": pool.late, "early": pool.early}
    report.add(Ratio("main_thread/late÷early", late, pool.late / pool.early, bar=GROWTH_BAR))
    report.add(Ratio("memory÷bar", {}, pool.memory / MEMORY_BAR, bar=1.0, note=f"{pool.memory / 2**20:.0f} MiB"))


def main() -> None:
    arguments = parser(str(__doc__).split("\n", 1)[0])
    arguments.add_argument("--searches", type=int, default=100)
    arguments.add_argument("--trials", type=int, default=20, help="of each search")
    arguments.add_argument("--places", type=int, default=4, help="trials at once")
    arguments.add_argument(
        "--sides", nargs="+", choices=list(SIDES), default=list(SIDES), help="the pool is always run"
    )
    arguments.add_argument("--side", choices=list(SIDES), help="runs this one in this process, and prints its figures")
    arguments.add_argument("--data-dir", type=Path, default=Path("data"), help="where prepared data sets lie")
    options = arguments.parse_args()
    if options.quick:
        options.searches, options.trials, options.places = 4, 5, 2
        options.sides = ["pool", "tune"]  # the third is a part of the second
    os.environ.setdefault("RAY_worker_niceness", "0")
    if options.side:
        print(json.dumps(asdict(run_side(options.side, *_sizes(options), options.data_dir))))
        return
    report = Report(
        "a trial's cost for the driver",
        f"{options.searches} searches of {options.trials} trials that do nothing, {options.places} at once, "
        "by HyperOpt and ASHA, one trial at a time in each search",
    )
    sides = dict.fromkeys(["pool", *options.sides])
    add_rows(report, {name: side_of(name, options, report) for name in sides})
    report.finish(options.json)


def _sizes(options: Any) -> tuple[int, int, int]:
    return options.searches, options.trials, options.places


if __name__ == "__main__":
    main()
