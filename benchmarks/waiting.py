"""An experiment whose trials wait instead of training: how long each takes, and how schedules of them come out.

A trial's processes import neither torch nor this project, so that a small machine carries many of them.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from idle_trials import Task, quality, waiting_trial
from pooled import Ground
from ray import tune

from rayjobs.pool import tune_run
from rayjobs.pool.pool import Pool
from rayjobs.pool.stage import Place, Stage
from rayjobs.runs.job import Job
from rayjobs.search.searches import Search
from rayjobs.trials.ticket import Ticket

START = "all places"
"""The stage that ends when every place runs."""
FINALS = " final models"


@dataclass(frozen=True)
class Study:
    """An experiment of methods, folds, trials and final models.

    Attributes:
        search: What all searches are like; only their names, which seed them, differ.
        methods: Each with runs of about the same length.
        folds: Of each method.
        finals: Of each search.
        seconds: The least and the most a trial takes; methods lie between them evenly over the orders of magnitude.
    """

    search: Search
    methods: int
    folds: int
    finals: int
    seconds: tuple[float, float]

    @property
    def names(self) -> list[str]:
        """Names of the searches, in the order of a command."""
        return [self._search(method, fold).name for fold in range(self.folds) for method in range(self.methods)]

    def stages(self, ground: Ground, after: frozenset[str] = frozenset()) -> list[Stage]:
        """Returns its stages; the searches wait for those in `after`."""
        stages: list[Stage] = []
        for fold in range(self.folds):
            for method in range(self.methods):
                search = self._search(method, fold)
                place = Place(fold, len(stages), search.label)
                stages.append(ground.search_stage(search, place, after=after))
                jobs = [
                    Job(search.config.to_dict(), ground.data, f"{ground.folder / search.name}/final-{number}")
                    for number in range(self.finals)
                ]
                if jobs:
                    place = replace(place, number=len(stages))
                    before = frozenset({search.name})
                    stages.append(ground.given_stage(search.name + FINALS, jobs, place, before, lambda job: False))
        return stages

    def start_stage(self, ground: Ground) -> Stage:
        """Returns the stage that is over when every place runs."""
        config = self.search.config.to_dict()
        jobs = [Job(config, ground.data, f"{ground.folder}/start/{number}") for number in range(ground.places)]
        return ground.given_stage(START, jobs, Place(0, -1, START), is_done=lambda job: False)

    def task(self, ticket: Ticket, ground: Ground) -> Task:
        """Returns what a run does: how long it takes follows from its name, how good it is from its learning rate."""
        objective = quality(ticket.job.config["optimizer"]["lr"])
        if ticket.stage == START:
            return Task((0.0,), objective, (str(ground.folder / "met"), ground.places))
        label = ticket.stage.partition("/")[0]
        low, high = self.seconds
        whole = low * (high / (1.5 * low)) ** random.Random(label).random()
        whole *= 1 + 0.5 * random.Random(f"{ticket.stage} {ticket.name}").random()
        epochs = ticket.job.max_epochs
        return Task((whole / epochs,) * epochs, objective)

    def _search(self, method: int, fold: int) -> Search:
        return replace(self.search, label=f"method-{method:02d}", fold=fold)


@contextmanager
def waiting_trials(task_of: Callable[[Ticket], Task]) -> Iterator[None]:
    """Makes a pool's trials wait for the time of a `with` block; what travels to them of a ticket is its task."""
    before = tune_run.make_trainable
    Ticket.__reduce__ = lambda ticket: task_of(ticket).__reduce__()  # type: ignore[method-assign, return-value]
    tune_run.make_trainable = lambda data, body=None: tune.with_resources(waiting_trial, {"CPU": 1})
    try:
        yield
    finally:
        tune_run.make_trainable = before
        del Ticket.__reduce__


class VirtualTime:
    """A clock that is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def ideal(
    stages: Sequence[Stage], places: int, task_of: Callable[[Ticket], Task]
) -> tuple[float, dict[str, list[float]]]:
    """Plays a pool's stages through, as if nothing but the runs took any time.

    Returns:
        Seconds until all is over; stage -> how long each of its runs took, in the order they ended.
    """
    clock, took = VirtualTime(), {stage.name: [] for stage in stages}
    pool = Pool(stages, lambda shape: places, clock=clock)
    events: list[tuple[float, int, Any]] = []  # the next report of each run
    numbers = itertools.count()
    while not pool.is_over:
        while (ticket := pool.deal()) is not None:
            pool.started(ticket)
            task = task_of(ticket)
            heapq.heappush(events, (clock.now + task.seconds[0], next(numbers), (ticket, task, 1)))
        clock.now, _, (ticket, task, epoch) = heapq.heappop(events)
        decision = pool.report(ticket, {"epoch": epoch, "objective": task.objective})
        if decision == "go" and epoch < len(task.seconds):
            heapq.heappush(events, (clock.now + task.seconds[epoch], next(numbers), (ticket, task, epoch + 1)))
        else:
            took[ticket.stage].append(sum(task.seconds[:epoch]))
            pool.end(ticket)
    return clock.now, took


def listed(seconds: Sequence[float], places: int) -> float:
    """Returns how long runs take in their order, each on the place that is free first."""
    free = [0.0] * places
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def one_after_another(took: dict[str, list[float]], places: int) -> float:
    """Returns how long the same runs take if each search has all places to itself, and then all final models."""
    finals = [each for name, seconds in took.items() if name.endswith(FINALS) for each in seconds]
    searches = [seconds for name, seconds in took.items() if not name.endswith(FINALS)]
    return sum(listed(seconds, places) for seconds in searches) + listed(finals, places)
