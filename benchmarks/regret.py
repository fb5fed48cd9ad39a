"""How far a search ends from the best configuration there is, and for how many epochs: ours, random, a full grid.

The grid trains every combination of a fine grid to its end, once; its best validation accuracy is the best there is.
Each search has the space's own trials, points and ASHA, and learns from each trial before it chooses the next. Beside
it: two trials at a time, and random search, which draws what HyperOpt would choose. The searches of all seeds share a
pool. Only the searcher's seed differs between them: the models' own is the grid's. Regret is in points of validation
accuracy, below 0 where a search found something between the grid's values.

    python benchmarks/regret.py [--quick] [--seeds 5] [--dataset digits] [--method iprm] [--json PATH]
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import Ratio, Report, median, parser
from feeding import RAW_DIRS
from pooled import Ground

from mmcore.data.prepared.prepare import prepare
from rayjobs.cluster import resources, session
from rayjobs.experiment.plan import plan_searches
from rayjobs.experiment.request import Request
from rayjobs.feeding.handle import open_data
from rayjobs.search.distributions import Distribution
from rayjobs.search.outcome import Outcome, succeeded
from rayjobs.search.searches import Search, _grid

FINE = 6
"""Values of a range in the grid."""
SEARCHERS = {"hyperopt": ("hyperopt", 1), "hyperopt_2_at_once": ("hyperopt", 2), "random": ("random", 1)}
"""Name -> the algorithm, and how many trials of a search run at a time."""


class Bench:
    """One method on one data set."""

    def __init__(self, search: Search, ground: Ground):
        self.search = search
        self._ground = replace(ground, folder=ground.folder / search.name)

    def grid(self, fine: int) -> list[Outcome]:
        """Trains every combination to its end."""
        space = {path: as_choice(distribution, fine) for path, distribution in self.search.space.items()}
        points = _grid(space, "grid")
        changed = {"label": "grid", "algorithm": "grid", "scheduler": "fifo", "trials": len(points)}
        (outcomes,) = self._ground.searched([replace(self.search, space=space, points=points, **changed)], at_once=None)
        return outcomes

    def run(self, searcher: str, seeds: int) -> list[list[Outcome]]:
        """Runs one search of each seed, all in one pool; a search's name is what its searcher is seeded by."""
        algorithm, at_once = SEARCHERS[searcher]
        searches = [replace(self.search, label=f"seed-{seed}", algorithm=algorithm) for seed in range(seeds)]
        return replace(self._ground, folder=self._ground.folder / searcher).searched(searches, at_once)


def as_choice(distribution: Distribution, fine: int) -> Distribution:
    """Returns a choice of so many values spread evenly over a range (of the orders of magnitude, if it is drawn so)."""
    if distribution.choice is not None:
        return distribution
    low, high = distribution.ends()
    spread = np.geomspace if distribution.kind.startswith("log") else np.linspace
    values = [float(value) for value in spread(low, high, fine)]
    if distribution.kind.endswith("randint"):
        values = sorted({round(value) for value in values})
    return Distribution(choice=values)


def best_of(outcomes: list[Outcome]) -> float:
    """Returns the best validation accuracy of the trials."""
    found = [outcome.objective for outcome in succeeded(outcomes) if outcome.objective is not None]
    if not found:
        raise SystemExit(f"no trial of {len(outcomes)} succeeded: {outcomes[0].reason}")
    return max(found)


def epochs_of(outcomes: list[Outcome]) -> int:
    """Returns the epochs all trials trained."""
    return sum(outcome.epochs for outcome in outcomes)


def compare(report: Report, bench: Bench, seeds: int, fine: int) -> None:
    """Adds the ratios of one method on one data set."""
    grid = bench.grid(fine)
    there, spent = best_of(grid), epochs_of(grid)
    report.say(f"{bench.search.name}: {len(grid)} combinations, best {there:.2%}, {spent} epochs")
    for searcher in SEARCHERS:
        found = bench.run(searcher, seeds)
        shares = [epochs_of(outcomes) / spent for outcomes in found]
        regrets = [100 * (there - best_of(outcomes)) for outcomes in found]
        spread = statistics.stdev(regrets) if len(regrets) > 1 else 0.0
        note = (
            f"regret {statistics.mean(regrets):+.2f} points, deviation {spread:.2f} over {seeds} seeds "
            f"({', '.join(f'{regret:+.2f}' for regret in regrets)})"
        )
        report.add(Ratio(f"{bench.search.name}/{searcher}_epochs÷grid", {}, median(shares), note=note))


def main() -> None:
    arguments = parser("a search's epochs and regret ÷ a full grid's")
    arguments.add_argument("--seeds", type=int, default=5, help="of the searchers")
    arguments.add_argument("--dataset", action="append", choices=sorted(RAW_DIRS), help="repeatable; default: all")
    arguments.add_argument("--method", default="iprm")
    arguments.add_argument("--data-dir", type=Path, default=Path("data"), help="where prepared data sets lie")
    options = arguments.parse_args()
    names = options.dataset or (["digits"] if options.quick else list(RAW_DIRS))
    seeds, fine, trials, epochs = (1, 1, 1, 1) if options.quick else (options.seeds, FINE, None, None)
    os.environ.setdefault("RAY_worker_niceness", "0")
    report = Report(
        "a search ÷ a full grid",
        f"{options.method}, {seeds} seeds, {fine} values of each range: {', '.join(names)}",
    )
    folder = Path(tempfile.mkdtemp(prefix="equipoise-regret-"))
    try:
        with session.start() as nodes:
            for name in names:
                raw_dir = RAW_DIRS[name]
                if raw_dir is not None and not raw_dir.is_dir():
                    report.say(f"{name}: left out, {raw_dir} is not there")
                    continue
                prepared = prepare(name, None, raw_dir, options.data_dir)
                request = Request(datasets=(name,), methods=(options.method,), trials=trials, max_epochs=epochs)
                layout = prepared.directory.name, prepared.spec.modality_names, prepared.rules
                search = plan_searches(request, name, *layout)[0]
                shape = resources.TrialShape(cpus_per_worker=search.config.trainer.threads)
                ground = Ground(open_data(prepared, None), folder, resources.concurrent_trials(shape, nodes), shape)
                compare(report, Bench(search, ground), seeds, fine)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report.finish(options.json)


if __name__ == "__main__":
    main()
