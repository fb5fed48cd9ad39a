"""`--dry-run`: what would be searched, what a trial asks for, and how long it may take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from mmcore.config.plain import Plain
from mmcore.data.spec import DATASETS
from rayjobs.cli.terminal import format_seconds
from rayjobs.cluster import resources
from rayjobs.commands.disk import NOT_KNOWN, disk_need
from rayjobs.experiment.data import options_of
from rayjobs.experiment.machine import Machine, trial_shape
from rayjobs.experiment.paces import KnownPace, known_pace
from rayjobs.experiment.plan import check_weights, plan_searches
from rayjobs.experiment.request import Request
from rayjobs.experiment.search_result import Keep
from rayjobs.preparing.datasets import source_modalities
from rayjobs.search.searches import Search


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a command would do.

    Attributes:
        experiment: Its name; where the name is taken, a number is added to it.
        trial: What a trial asks for, in words.
        concurrent: Trials at once; None: as many as the cluster holds.
        final_models: How many are trained and tested.
        searches: Each search, and how long it may take, in words.
        whole: How long all may take, in words; "": not known.
        disk: What its checkpoints take, and what is free, in words.
    """

    experiment: str
    trial: str
    concurrent: int | None
    final_models: int
    searches: list[tuple[Search, str]]
    whole: str = ""
    disk: str = ""

    def to_dict(self) -> dict[str, Plain]:
        """Returns it as plain values, for `--json`."""
        return {
            "experiment": self.experiment,
            "trial": self.trial,
            "concurrent": self.concurrent,
            "final_models": self.final_models,
            "searches": [{**search.to_dict(), "time": time} for search, time in self.searches],
            "time": self.whole,
            "disk": self.disk,
        }


def preview(request: Request, machine: Machine, output: Path, keep: Keep = "best") -> Preview:
    """Returns the plan of a command; starts nothing and reads no data.

    Raises:
        UsageError: What the command would refuse.
    """
    searches = [
        search
        for dataset in request.datasets
        for search in plan_searches(
            request,
            dataset,
            dataset,
            source_modalities(dataset, options_of(request, dataset)),
            DATASETS.get(dataset).split_rules,
        )
    ]
    if not (machine.address or "").startswith("http"):  # a job's files are the cluster's
        check_weights(searches)
    nodes = None if machine.address else [resources.local_node(machine.cpus, machine.gpus)]
    shape = trial_shape(request, searches[0], nodes or [], streams=False)
    concurrent = resources.concurrent_trials(shape, nodes, machine.concurrent) if nodes else machine.concurrent
    paced = [(search, known_pace(search, output)) for search in searches]
    need = disk_need(searches, request, keep)
    return Preview(
        experiment=request.name(),
        trial=shape.describe(),
        concurrent=concurrent,
        final_models=request.final_seeds * sum(_final_rows(request, searches, name) for name in request.datasets),
        searches=[(search, _estimate(search, request, pace, concurrent or 1, output)) for search, pace in paced],
        whole=_whole(paced, request, concurrent or 1),
        disk=need.describe(output) if need else NOT_KNOWN,
    )


def print_preview(plan: Preview) -> None:
    """Prints what `preview` returned."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"experiment {plan.experiment} (dry run: nothing is started)")
    at_once = f"{plan.concurrent} at once" if plan.concurrent else "as many at once as the cluster holds"
    console.print(f"a trial is {plan.trial}; {at_once}")
    for search, time in plan.searches:
        console.print(
            f"\n{search.name}: {search.trials} trials of at most {search.max_epochs} epochs, "
            + f"{_course(search)}, chosen by {search.algorithm}"
        )
        for path, distribution in search.space.items():
            console.print(f"  {path}: {distribution.describe()}")
        for number, point in enumerate(search.points, start=1):
            console.print(f"  point {number}: " + ", ".join(f"{path}={value}" for path, value in point.items()))
        console.print(f"  time: {time}")
    console.print(f"\nthen {plan.final_models} final models, each tested once")
    if plan.whole:
        console.print(f"all of it: {plan.whole}")
    if plan.disk:
        console.print(plan.disk)


def _course(search: Search) -> str:
    """Returns what becomes of a search's trials as they run."""
    if search.scheduler == "fifo":
        return "all to their end"
    if search.scheduler == "pbt":
        return f"a population: every {search.grace_epochs} epochs weak ones continue from strong ones' weights"
    return f"stopped early from epoch {search.grace_epochs} on (1 of {search.reduction_factor:g} goes on)"


def _final_rows(request: Request, searches: Sequence[Search], dataset: str) -> int:
    """Returns how many configurations of a data set are trained finally: rows times folds."""
    labels = {search.label for search in searches if search.config.dataset.name == dataset}
    return len(labels) * len(DATASETS.get(dataset).split_rules.folds_of(request.protocol))


def _estimate(search: Search, request: Request, pace: KnownPace | None, concurrent: int, output: Path) -> str:
    """Returns an upper bound from the newest search of that name, or says that there is none to go by."""
    if pace is None:
        return f"unknown: {output} holds no earlier search of that name to go by"
    rounds = math.ceil(search.trials / concurrent) + math.ceil(request.final_seeds / concurrent)
    longest = pace.device_s * search.max_epochs * rounds / request.workers
    return f"at most {format_seconds(longest)}, by the pace of {pace.experiment}"


def _whole(paced: Sequence[tuple[Search, KnownPace | None]], request: Request, concurrent: int) -> str:
    """Returns how long all of it takes at most, on places that all stages share; "" where some are not known."""
    seconds = []
    for search, pace in paced:
        if pace is None:
            return ""
        folds = DATASETS.get(search.config.dataset.name).split_rules.folds_of(request.protocol)
        finals = request.final_seeds * (len(folds) if request.search_once else 1)
        seconds.append(pace.device_s / request.workers * search.max_epochs * (search.trials + finals))
    return f"at most {format_seconds(max(sum(seconds) / concurrent, 0))} where {concurrent} runs fit at once"
