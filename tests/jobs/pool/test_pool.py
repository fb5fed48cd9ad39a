"""The order of work, the room there is, budgets, and what waits for what; no Ray: the pool is told what happens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rayjobs.cluster.resources import TrialShape
from rayjobs.feeding.handle import DataHandle
from rayjobs.pool.budget import Budget, over_share
from rayjobs.pool.pool import Pool
from rayjobs.pool.stage import Count, FinishedStage, GivenStage, Place
from rayjobs.runs.job import Job
from rayjobs.search.record import Row
from rayjobs.trials.ticket import Ticket

CPU, GROUP = TrialShape(), TrialShape(workers=2)
EPOCHS = 10


def jobs_of(name: str, runs: int) -> list[Job]:
    config = {"trainer": {"max_epochs": EPOCHS, "select": "best"}}
    return [Job(config, DataHandle(""), f"/nowhere/{name}/run-{number}") for number in range(1, runs + 1)]  # type: ignore[dict-item]


@dataclass
class StubSearch(GivenStage):
    """A search whose trials are known; so many at a time."""

    seconds: dict[str, float] = field(default_factory=dict)
    num_running: int = 0
    num_counts: int = 0

    def next(self) -> Ticket | None:
        if self.at_once is not None and self.num_running >= self.at_once:
            return None
        ticket = super().next()
        self.num_running += ticket is not None
        return ticket

    def end(self, ticket: Ticket, failure: str = "") -> None:
        self.num_running -= 1
        super().end(ticket, failure)

    def report(self, ticket: Ticket, row: Row):  # type: ignore[no-untyped-def]
        self.seconds[ticket.name] = row.get("device_seconds", 0.0)
        return super().report(ticket, row)

    def count(self) -> Count:
        self.num_counts += 1
        counted = super().count()
        counted.device_seconds = sum(self.seconds.values())
        return counted


def search(
    name: str,
    runs: int = 3,
    *,
    fold: int = 0,
    number: int = 0,
    row: str = "",
    shape: TrialShape = CPU,
    at_once: int = 1,
) -> StubSearch:
    place, nothing = Place(fold, number, row or name), frozenset[str]()
    stage = StubSearch(name, lambda: jobs_of(name, runs), runs, EPOCHS, shape, place, nothing, lambda job: False)
    stage.is_search, stage.at_once = True, at_once
    return stage


def finals(name: str, after: Sequence[str], runs: int = 2, *, fold: int = 0, number: int = 100) -> GivenStage:
    place = Place(fold, number, name)
    return GivenStage(name, lambda: jobs_of(name, runs), runs, EPOCHS, CPU, place, frozenset(after), lambda job: False)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def dealt(pool: Pool) -> list[str]:
    """Returns what is dealt until there is no room, by stage and run."""
    return [f"{ticket.stage} {ticket.name[-1]}" for ticket in iter(pool.deal, None)]


def end(pool: Pool, name: str, failure: str = "") -> None:
    """Ends a run, having trained it to its end."""
    stage, _, number = name.rpartition(" ")
    ticket = pool.runs[stage, f"run-{number}"].ticket
    pool.started(ticket)
    pool.report(ticket, {"epoch": EPOCHS, "objective": 0.5})
    pool.end(ticket, failure)


def test_folds_come_before_methods_and_methods_before_further_trials() -> None:
    stages = [search(f"{method}/{fold}", fold=fold, number=number)
              for number, (method, fold) in enumerate((m, f) for m in ("iprm", "aug") for f in (0, 1))]  # fmt: skip
    assert dealt(Pool(stages, lambda shape: 3)) == ["iprm/0 1", "aug/0 1", "iprm/1 1"]


def test_final_models_start_as_soon_as_what_they_wait_for_is_over() -> None:
    stages = [search("iprm", 1), search("ensemble", 1, number=1), finals("iprm finals", ["iprm", "ensemble"])]
    pool = Pool(stages, lambda shape: 2)
    assert dealt(pool) == ["iprm 1", "ensemble 1"]
    end(pool, "iprm 1")
    assert dealt(pool) == [], "what the ensemble's modalities reach alone is not known yet"
    end(pool, "ensemble 1", "no good")
    assert dealt(pool) == ["iprm finals 1", "iprm finals 2"], "a source that fails keeps nobody waiting"
    end(pool, "iprm finals 1")
    assert not pool.is_over
    end(pool, "iprm finals 2")
    assert pool.is_over


def test_what_was_finished_before_is_waited_for_no_more() -> None:
    before = FinishedStage("iprm", Place(0, 0, "iprm"), CPU, Count(total=3, done=3))
    pool = Pool([before, finals("iprm finals", ["iprm"], 1)], lambda shape: 2)
    assert dealt(pool) == ["iprm finals 1"]


def test_a_stage_without_runs_is_over_by_itself() -> None:
    """As the final models of a search whose every trial failed; others that wait for it go on."""
    empty = finals("empty", [], 0)
    pool = Pool([empty, finals("next", ["empty"], 1)], lambda shape: 1)
    assert dealt(pool) == ["next 1"]
    assert Pool([finals("empty", [], 0)], lambda shape: 1).is_over


def test_what_is_known_to_take_longest_comes_first() -> None:
    """Slow takes four times as long as quick, by their first fold; in the second it goes before."""
    clock = Clock()
    stages = [search("quick/0", 1, row="quick"), search("slow/0", 1, number=1, row="slow"),
              search("quick/1", 1, fold=1, row="quick"), search("slow/1", 1, fold=1, number=1, row="slow")]  # fmt: skip
    pool = Pool(stages, lambda shape: 2, clock=clock)
    assert dealt(pool) == ["quick/0 1", "slow/0 1"]
    for name, seconds in (("quick/0 1", 10), ("slow/0 1", 30)):
        ticket = pool.runs[name.split()[0], "run-1"].ticket
        pool.started(ticket)
        clock.now += seconds
        for epoch in range(1, EPOCHS + 1):
            pool.report(ticket, {"epoch": epoch, "objective": 0.5})
        pool.end(ticket)
    assert dealt(pool) == ["slow/1 1", "quick/1 1"]
    assert pool.left_s() == (pytest.approx(30), pytest.approx(30))
    assert pool.left_of("quick/1") == pytest.approx(10)


def test_runs_of_different_shapes_share_the_places_and_the_next_one_waits_for_its_room() -> None:
    """A group takes two of four places: two searches of single processes, then one group, then none."""
    stages = [search("a", at_once=3), search("group", number=1, shape=GROUP, at_once=2), search("b", number=2)]
    pool = Pool(stages, lambda shape: 2 if shape.workers == 2 else 4)
    assert dealt(pool) == ["a 1", "a 2", "a 3"], "the group would need two places, and b must not take the last"
    end(pool, "a 1")
    assert dealt(pool) == ["group 1"]
    end(pool, "a 2")
    assert dealt(pool) == []
    end(pool, "a 3")
    assert dealt(pool) == ["group 2"]


def test_a_stage_is_counted_anew_only_when_something_was_heard_of_it() -> None:
    """Tune asks for a run at every step; with a hundred searches of twenty trials, counting was most of a step."""
    stages = [search(name, 2, number=number) for number, name in enumerate(("iprm", "aug", "joint"))]
    pool = Pool(stages, lambda shape: 2)
    assert dealt(pool) == ["iprm 1", "aug 1"]
    end(pool, "iprm 1")
    before = sum(stage.num_counts for stage in stages)
    for _ in range(10):
        dealt(pool)
        assert (pool.count("iprm").done, pool.count("aug").done) == (1, 0)
    assert sum(stage.num_counts for stage in stages) - before <= len(stages)
    pool.report(pool.runs["aug", "run-1"].ticket, {"epoch": 3, "objective": 0.5})
    assert pool.count("aug").epochs_left == 2 * EPOCHS - 3


def test_idle_places_are_told_with_the_number_that_would_fill_them() -> None:
    pool = Pool([search("a"), search("b", number=1)], lambda shape: 5)
    assert pool.idle_hint() == 3
    assert Pool([search("a"), search("b", number=1)], lambda shape: 2).idle_hint() is None


def test_a_budget_is_shared_evenly_and_what_one_leaves_goes_to_the_others() -> None:
    assert over_share(90.0, {"a": 30.0, "b": 29.0}, frozenset("abc")) == {"a"}
    assert over_share(90.0, {"a": 10.0, "b": 39.0, "c": 40.0}, frozenset("bc")) == {"c"}
    assert over_share(90.0, {}, frozenset()) == frozenset()


def test_a_time_budget_ends_each_search_at_its_share_and_final_models_follow() -> None:
    clock = Clock()
    stages = [search("a", 50), search("b", 50, number=1), finals("a finals", ["a"], 1)]
    pool = Pool(stages, lambda shape: 1, Budget(time_s=20), clock=clock)
    order = []
    while not pool.is_over:
        names = dealt(pool)
        order += names
        clock.now += 2
        closed = pool.overdue()
        for stage, run in closed:
            pool.end(pool.runs[stage, run].ticket)
        for key in list(pool.runs):
            end(pool, f"{key[0]} {key[1][-1]}")
    assert order[:4] == ["a 1", "b 1", "a 2", "b 2"], "the one that has spent least is next"
    assert sum(name.startswith("a ") and "finals" not in name for name in order) == 5
    assert sum(name.startswith("b ") for name in order) == 5
    assert order[-1] == "a finals 1"


def test_a_search_that_hangs_is_ended_when_the_time_is_over() -> None:
    clock = Clock()
    pool = Pool([search("a")], lambda shape: 1, Budget(time_s=5), clock=clock)
    assert dealt(pool) == ["a 1"]
    assert pool.overdue() == []
    clock.now = 6
    assert pool.overdue() == [("a", "run-1")]
    pool.end(pool.runs["a", "run-1"].ticket)
    assert pool.is_over


def test_device_seconds_are_a_budget_too() -> None:
    pool = Pool([search("a", 9), search("b", 9, number=1)], lambda shape: 2, Budget(device_s=100))
    assert dealt(pool) == ["a 1", "b 1"]
    pool.report(pool.runs["a", "run-1"].ticket, {"epoch": 1, "objective": 0.5, "device_seconds": 49.0})
    assert pool.overdue() == []
    pool.report(pool.runs["a", "run-1"].ticket, {"epoch": 2, "objective": 0.5, "device_seconds": 51.0})
    assert pool.overdue() == [("a", "run-1")]


def test_a_run_given_again_is_the_same_folder(tmp_path: Path) -> None:
    pool = Pool([search("a", 1)], lambda shape: 1)
    ticket = pool.deal()
    assert ticket
    assert (str(ticket), ticket.run_dir) == ("a run-1", Path("/nowhere/a/run-1"))
    assert copy.deepcopy({"ticket": ticket})["ticket"] is ticket, "Tune copies it three times for each trial"
    pool.started(ticket)
    assert not pool.runs["a", "run-1"].is_again
    pool.started(ticket)
    assert pool.runs["a", "run-1"].is_again
