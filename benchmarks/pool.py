"""How well many searches fill the places they share: trials of random length that wait, on a simulated machine.

Seconds from when all places run to the last run's end, each search with one trial at a time,
- ÷ what the same runs take in the order before the pool (each search with all places to itself, then all final models),
  computed without any overhead (bar 1/5 on 64 places),
- ÷ what they take in the pool's own order, computed without any overhead (bar 1.10),
- ÷ work by places.

    python benchmarks/pool.py [--quick] [--places 64] [--methods 20] [--folds 6] [--seconds 10 40] [--json PATH]

A place is a process of its own, 0.1 GiB, that takes seconds of CPU to start. `--computed` runs none.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from common import Ratio, Report, parser
from pooled import Ground, digits_search
from ray.tune import Callback
from waiting import START, Study, ideal, one_after_another, waiting_trials

from rayjobs.cluster import session
from rayjobs.feeding.handle import DataHandle
from rayjobs.pool.tune_run import Execution
from rayjobs.trials.ticket import ticket_of

ORDER_BAR, IDEAL_BAR = 0.2, 1.10
EPOCHS = 4


@dataclass
class Clock(Callback):
    """Notes when all places ran, and when the last run ended."""

    began: float = field(default_factory=time.perf_counter)
    start: float = 0.0
    end: float = 0.0
    runs: int = 0

    def on_trial_complete(self, trial: Any, **info: Any) -> None:
        self.end = time.perf_counter()
        if ticket_of(trial).stage == START:
            self.start = self.end
        else:
            self.runs += 1


def run(study: Study, ground: Ground) -> Clock:
    """Runs a study; returns its times."""
    clock = Clock()
    ground = replace(ground, execution=Execution(hang_limit_s=0, callbacks=(clock,)))
    stages = [study.start_stage(ground), *study.stages(ground, frozenset({START}))]
    with session.start(num_cpus=ground.places), waiting_trials(partial(study.task, ground=ground)):
        ground.run(stages)
    return clock


def compare(report: Report, study: Study, ground: Ground, *, is_run: bool) -> None:
    """Adds the ratios; without a run, of what is computed."""
    places = ground.places
    computed = replace(ground, folder=ground.folder / "computed")
    best, took = ideal(study.stages(computed), places, partial(study.task, ground=computed))
    work = sum(sum(seconds) for seconds in took.values())
    number = sum(map(len, took.values()))
    before = one_after_another(took, places)
    report.say(f"{number} runs of {work / number:.1f} s in the mean")
    report.part("in the order before the pool, computed", before)
    report.part("in the pool's own order, computed", best)
    report.part("work by places", work / places)
    measured, name = best, "computed"
    if is_run:
        clock = run(study, replace(ground, folder=ground.folder / "run"))
        if clock.runs != number:
            raise SystemExit(f"{clock.runs} of {number} runs came to their end")
        measured, name = clock.end - clock.start, "pool"
        report.part("until all places ran", clock.start - clock.began)
        report.part("from then to the end", measured, f"{1 - work / places / measured:.1%} of the places' time idle")
    bar = ORDER_BAR if places == 64 else None
    rows: Mapping[str, tuple[float, float | None]] = {
        "before": (before, bar), "own_order": (best, IDEAL_BAR), "work_by_places": (work / places, None),
    }  # fmt: skip
    for against, (seconds, limit) in rows.items():
        report.add(Ratio(f"{name}÷{against}", {name: measured, against: seconds}, measured / seconds, bar=limit))


def main() -> None:
    arguments = parser("the time many searches take on places they share ÷ other orders of the same work")
    arguments.add_argument("--places", type=int, default=64)
    arguments.add_argument("--methods", type=int, default=20)
    arguments.add_argument("--folds", type=int, default=6)
    arguments.add_argument("--trials", type=int, default=8, help="of each search")
    arguments.add_argument("--finals", type=int, default=3, help="final models of each search")
    arguments.add_argument("--seconds", type=float, nargs=2, default=(10, 40), help="the least and the most of a trial")
    arguments.add_argument("--computed", action="store_true", help="runs nothing: only what is computed")
    arguments.add_argument("--data-dir", type=Path, default=Path("data"), help="where prepared data sets lie")
    options = arguments.parse_args()
    if options.quick:
        options.places, options.methods, options.folds, options.seconds = 2, 2, 2, (0.1, 0.4)
    os.environ.setdefault("RAY_worker_niceness", "0")
    report = Report(
        "searches on places they share",
        f"{options.methods} methods, {options.folds} folds, {options.trials} trials and {options.finals} final models "
        f"each, of {options.seconds[0]:g} to {options.seconds[1]:g} s, {options.places} places",
    )
    search, prepared = digits_search(options.trials, EPOCHS, options.data_dir)
    study = Study(search, options.methods, options.folds, options.finals, tuple(options.seconds))
    folder = Path(tempfile.mkdtemp(prefix="equipoise-pool-"))
    try:
        ground = Ground(DataHandle(str(prepared.directory)), folder, options.places)
        compare(report, study, ground, is_run=not options.computed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report.finish(options.json)


if __name__ == "__main__":
    main()
