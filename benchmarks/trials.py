"""What a search costs beside the trainings in it.

- From a trial's end to the first optimizer step of the next one in the same process (bar 0.5 s; median of 10 and more).
- A search of 12 trials without Ray's start ÷ the same 12 trainings in plain loops (`plain_training.py`), two processes
  of one thread each on both sides, the start of the processes and reading the data included (bar 1.3). HyperOpt draws
  the trials, ASHA watches them but stops none, so that both sides train the same epochs.

    python benchmarks/trials.py [--quick] [--rounds 3] [--json PATH]
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from common import Report, Rounds, median, parser, ratio
from pooled import Ground, digits_search
from timed_body import TIMES_FILE, timed_run

from mmcore.data.prepared.store import PreparedDataset
from rayjobs.cluster import resources, session
from rayjobs.feeding.handle import open_data
from rayjobs.pool.tune_run import Execution
from rayjobs.search.outcome import Outcome
from rayjobs.search.searches import Search
from rayjobs.storage.files import read_json

BAR, GAP_BAR_S = 1.3, 0.5
PROCESSES = 2


@dataclass
class SearchTimes:
    """One search, in seconds.

    Attributes:
        ray_start: `ray.init`.
        search: Everything after it, to the last trial's end.
        first_step: From Ray being there to the first optimizer step of all.
        gaps: From a trial's end to the next one's first step in the same process.
        waits: The part of the gaps before the next trial's body begins: Tune's.
        outcomes: What became of the trials.
    """

    ray_start: float
    search: float
    first_step: float
    gaps: list[float]
    waits: list[float]
    outcomes: list[Outcome]


def timed_search(search: Search, prepared: PreparedDataset, folder: Path) -> SearchTimes:
    """Starts Ray, runs the search, ends Ray."""
    start = time.time()
    with session.start(num_cpus=PROCESSES) as nodes:
        ready = time.time()
        data = open_data(prepared, None)
        shape = resources.TrialShape(cpus_per_worker=search.config.trainer.threads)
        places = resources.concurrent_trials(shape, nodes)
        (outcomes,) = Ground(data, folder, places, shape, Execution(body=timed_run)).searched([search], at_once=None)
        ended = time.time()
    unfinished = [outcome for outcome in outcomes if outcome.status != "done"]
    if unfinished:
        raise SystemExit(f"the search did not train every trial to its end: {unfinished}")
    times = [read_json(folder / search.name / outcome.name / TIMES_FILE) for outcome in outcomes]
    by_process: dict[int, list[dict[str, float]]] = {}
    for entry in sorted(times, key=lambda entry: entry["began"]):
        by_process.setdefault(int(entry["process"]), []).append(entry)
    turns = [pair for entries in by_process.values() for pair in pairwise(entries)]
    return SearchTimes(
        ray_start=ready - start,
        search=ended - ready,
        first_step=min(entry["first_step"] for entry in times) - ready,
        gaps=[after["first_step"] - before["ended"] for before, after in turns],
        waits=[after["began"] - before["ended"] for before, after in turns],
        outcomes=outcomes,
    )


def plain_search(search: Search, prepared: PreparedDataset, outcomes: list[Outcome]) -> float:
    """Trains the same settings in plain loops, in as many processes; returns the seconds until the last has ended."""
    runs = [{"lr": outcome.values["optimizer.lr"], "alpha": outcome.values["method.alpha"]} for outcome in outcomes]
    script = Path(__file__).with_name("plain_training.py")
    start = time.perf_counter()
    processes = []
    for number in range(PROCESSES):
        task = {
            "directory": str(prepared.directory),
            "epochs": search.max_epochs,
            "runs": runs[number::PROCESSES],
        }
        processes.append(subprocess.Popen([sys.executable, str(script), json.dumps(task)], stdout=subprocess.PIPE))
    accuracies = [json.loads(process.communicate()[0]) for process in processes]
    seconds = time.perf_counter() - start
    trained = sum(len(part) for part in accuracies)
    if trained != len(runs):
        raise SystemExit(f"plain loops trained {trained} of {len(runs)} runs")
    return seconds


def main() -> None:
    arguments = parser("a search of short trials ÷ the same trainings in plain loops")
    arguments.add_argument("--rounds", type=int, default=3, help="of a search and the plain loops")
    arguments.add_argument("--trials", type=int, default=12, help="of a search")
    arguments.add_argument("--epochs", type=int, help="of a trial; default: the search space's")
    arguments.add_argument("--data-dir", type=Path, default=Path("data"), help="where prepared data sets lie")
    options = arguments.parse_args()
    if options.quick:
        options.rounds, options.trials, options.epochs = 1, 4, 1
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 would lose to whatever else runs here
    search, prepared = digits_search(options.trials, options.epochs, options.data_dir)
    search = replace(search, grace_epochs=search.max_epochs)  # every trial may go on to its end
    report = Report(
        "a search ÷ the same trainings in plain loops",
        f"IPRM on digits, {search.trials} trials of {search.max_epochs} epochs, {PROCESSES} processes, "
        f"{options.rounds} rounds",
    )
    folder = Path(tempfile.mkdtemp(prefix="equipoise-trials-"))
    results = {"search": Rounds(), "plain": Rounds()}
    measured: list[SearchTimes] = []
    try:
        for number in range(options.rounds):
            measured.append(timed_search(search, prepared, folder / f"round-{number}"))
            results["search"].wall.append(measured[-1].search)
            results["plain"].wall.append(plain_search(search, prepared, measured[-1].outcomes))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report.add(ratio(f"search of {search.trials}".replace(" ", "_"), results, "search", "plain", BAR))
    report.part("Ray's start, not in the search", median([entry.ray_start for entry in measured]))
    report.part("from Ray's start to the first step", median([entry.first_step for entry in measured]))
    gaps = [gap for entry in measured for gap in entry.gaps]
    gap = median(gaps)
    verdict = "ok" if gap <= GAP_BAR_S else "OVER"
    spread = f"median of {len(gaps)}, {min(gaps):.2f} to {max(gaps):.2f} s; bar {GAP_BAR_S} s: {verdict}"
    report.part("from a trial's end to the next one's step", gap, spread)
    report.part("of it before the next trial's body", median([wait for entry in measured for wait in entry.waits]))
    report.finish(options.json)


if __name__ == "__main__":
    main()
