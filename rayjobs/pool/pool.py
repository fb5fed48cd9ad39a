"""Deals out the runs of all stages: which is next, and whether there is room for it.

The order of work: folds one after another, so that an interrupted experiment holds whole folds of all methods; within a
fold what is known to take longest first; then data sets and methods in the order of the command. With a budget the
search that has spent least comes first, and final models wait for the searches, but for those that a search waits for.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rayjobs.cluster.resources import TrialShape
from rayjobs.pool.budget import Budget, over_share
from rayjobs.pool.pace import Pace
from rayjobs.pool.stage import Count, Stage
from rayjobs.search.halving import Decision
from rayjobs.search.record import Row
from rayjobs.trials.ticket import Ticket

Key = tuple[str, str]
"""Stage and name of a run."""


@dataclass
class Run:
    """A run that was dealt out and has not ended.

    Attributes:
        ticket: What was dealt.
        dealt: When, by the pool's clock.
        started: When its process had it; None: it waits for one.
        first: Epochs it had before; None before its first report.
        epoch: Finished epochs.
        row: What it reported last.
        is_again: Whether its process was lost, and it was started again.
        decision: What became of it at its last report.
    """

    ticket: Ticket
    dealt: float
    started: float | None = None
    first: int | None = None
    epoch: int = 0
    row: Row = field(default_factory=dict)
    is_again: bool = False
    decision: Decision = "go"


class Pool:
    """The stages of an experiment and the runs that were dealt out of them.

    Attributes:
        stages: Name -> stage.
        runs: Those that were dealt out and have not ended.
        began: When the first was dealt out, by the pool's clock; None before.
        places: Most runs at once.

    Args:
        stages: All of them, in the order of the command.
        capacity: Shape -> how many such runs fit at once, where nothing else runs.
        budget: Of all searches together.
        pace: How long runs take.
        clock: Seconds, for tests.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        capacity: Callable[[TrialShape], int],
        budget: Budget = Budget(),  # noqa: B008 - it never changes
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.stages = {stage.name: stage for stage in stages}
        self.runs: dict[Key, Run] = {}
        self.began: float | None = None
        self._capacity = functools.cache(capacity)
        self._budget = budget
        self._pace = pace or Pace()
        self._clock = clock
        self._waited_for = frozenset(name for stage in stages if stage.is_search for name in stage.after)
        self._finished: set[str] = set()
        self._closed: set[str] = set()
        self._spent: dict[str, float] = {}
        self.places = max((self._capacity(stage.shape) for stage in stages), default=1)
        self._counts: dict[str, Count] = {}  # of the stages of which nothing was heard since they were counted
        self._settle()

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to run."""
        return len(self._finished) == len(self.stages)

    def deal(self) -> Ticket | None:
        """Returns the next run; None if there is none for now, or no room for it.

        What is next waits for its room: else it would wait for ever while smaller runs take turns.
        """
        self.began = self._clock() if self.began is None else self.began
        left = 1 + 1e-9 - sum(1 / self._capacity(run.ticket.shape) for run in self.runs.values())
        if left < 1 / self.places:
            return None  # Tune asks at every step, most of the time with all places taken
        for stage in self._in_order():
            if left < 1 / self._capacity(stage.shape):
                return None
            ticket = stage.next()
            if ticket is not None:
                self._counts.pop(stage.name, None)
                self.runs[ticket.stage, ticket.name] = Run(ticket, self._clock())
                return ticket
        return None

    def started(self, ticket: Ticket) -> None:
        """Notes that a process has a run, for the first time or again."""
        run = self.runs[ticket.stage, ticket.name]
        run.is_again = run.started is not None
        run.started = run.started or self._clock()

    def report(self, ticket: Ticket, row: Row) -> Decision:
        """Enters an epoch of a run; returns what becomes of it."""
        run, epoch = self.runs[ticket.stage, ticket.name], int(row.get("epoch", 0))
        run.first = max(0, epoch - 1) if run.first is None else run.first
        run.epoch, run.row = max(run.epoch, epoch), row
        run.decision = self.stages[ticket.stage].report(ticket, row)
        self._counts.pop(ticket.stage, None)
        return run.decision

    def end(self, ticket: Ticket, failure: str = "") -> None:
        """Enters that a run has ended; with the reason, that it failed for good."""
        run, stage = self.runs.pop((ticket.stage, ticket.name)), self.stages[ticket.stage]
        now = self._clock()
        self._spent[stage.name] = self._spent.get(stage.name, 0.0) + now - run.dealt
        if run.started is not None and run.first is not None:
            self._pace.note(stage.place.row, now - run.started, run.epoch - run.first)
        stage.end(ticket, failure)
        self._counts.pop(stage.name, None)
        self._settle()

    def overdue(self) -> list[Key]:
        """Closes the searches whose budget is spent; returns their runs, which are to be ended."""
        if not self._budget or self.began is None:
            return []
        open_ones = frozenset(stage.name for stage in self._unfinished() if stage.is_search)
        for name in self._over_budget(open_ones) - self._closed:
            self._closed.add(name)
            self.stages[name].close()
            self._counts.pop(name, None)
        self._settle()
        return [key for key in self.runs if key[0] in self._closed]

    def count(self, name: str) -> Count:
        """Returns how far a stage has come."""
        if name not in self._counts:
            self._counts[name] = self.stages[name].count()
        return self._counts[name]

    def left_s(self) -> tuple[float, float] | None:
        """Returns the least and the most seconds to the end, as far as is known; None without any measure.

        The most: no further trial is stopped early. The least: as many as so far.
        """
        share, least, most = self._trained_share(), _Sum(), _Sum()
        for stage in self._unfinished():
            pace, count = self._pace.of(stage.place.row), self.count(stage.name)
            if pace is None:
                return None
            seconds, places = pace * count.epochs_left, self._capacity(stage.shape)
            together = max(1, min(stage.at_once or count.total, count.total, places))
            most.add(seconds, places, together)
            least.add(seconds * (share if stage.is_search else 1), places, together)
        return least.seconds, most.seconds

    def left_of(self, name: str) -> float | None:
        """Returns the seconds a stage will take once it is its turn, no run stopped early; None: not known."""
        stage = self.stages[name]
        pace, count = self._pace.of(stage.place.row), self.count(name)
        if pace is None:
            return None
        return pace * count.epochs_left / max(1, min(stage.at_once or count.total, count.total, self.places))

    def without_place(self, limit_s: float) -> list[tuple[Run, float]]:
        """Returns the runs no process has had for longer than that, and the seconds they have waited."""
        waited = [(run, self._clock() - run.dealt) for run in self.runs.values() if run.started is None]
        return [(run, seconds) for run, seconds in waited if seconds > limit_s]

    def idle_hint(self) -> int | None:
        """Returns how many trials of each search at a time would fill the places; None where they are filled."""
        searches = [stage for stage in self._unfinished() if stage.is_search]
        limited = [stage for stage in searches if stage.at_once is not None]
        if not limited or len(limited) < len(searches):
            return None
        together = sum(stage.at_once or 0 for stage in limited)
        return -(-self.places // len(limited)) if together < self.places else None

    # Parts

    def _unfinished(self) -> list[Stage]:
        return [stage for name, stage in self.stages.items() if name not in self._finished]

    def _open(self) -> list[Stage]:
        return [stage for stage in self._unfinished() if stage.after <= self._finished]

    def _in_order(self) -> list[Stage]:
        """Returns the open stages, what comes first first."""
        spent = self._spent_by_now() if self._budget else {}
        return sorted(self._open(), key=lambda stage: self._rank(stage, spent))

    def _rank(self, stage: Stage, spent: Mapping[str, float]) -> tuple[float, ...]:
        place = stage.place
        if self._budget:
            is_waited_for = stage.is_search or stage.name in self._waited_for
            return (not is_waited_for, spent.get(stage.name, 0.0), place.fold, place.number)
        pace = self._pace.of(place.row)
        left = 0.0 if pace is None else pace * self.count(stage.name).epochs_left
        return (place.fold, -left, place.number)

    def _spent_by_now(self) -> dict[str, float]:
        """Returns stage -> seconds on places, of the runs that go on, too."""
        now, spent = self._clock(), dict(self._spent)
        for run in self.runs.values():
            spent[run.ticket.stage] = spent.get(run.ticket.stage, 0.0) + now - run.dealt
        return spent

    def _over_budget(self, open_ones: frozenset[str]) -> frozenset[str]:
        """Returns the searches to be closed."""
        elapsed = self._clock() - (self.began or 0.0)
        if self._budget.is_over(elapsed):
            return open_ones
        over: frozenset[str] = frozenset()
        searches = [name for name, stage in self.stages.items() if stage.is_search]
        if self._budget.time_s is not None:
            by_now = self._spent_by_now()
            spent = {name: by_now.get(name, 0.0) for name in searches}
            over |= over_share(self._budget.time_s * self.places, spent, open_ones)
        if self._budget.device_s is not None:
            spent = {name: self.count(name).device_seconds for name in searches}
            over |= over_share(self._budget.device_s, spent, open_ones)
        return over

    def _trained_share(self) -> float:
        """Returns which share of their epochs trials were trained for so far."""
        counts = [self.count(name) for name, stage in self.stages.items() if stage.is_search]
        epochs, saved = sum(count.epochs for count in counts), sum(count.epochs_saved for count in counts)
        return epochs / (epochs + saved) if epochs else 1.0

    def _settle(self) -> None:
        """Finishes the stages that are over; each may make others ready."""
        while over := [stage for stage in self._open() if self._is_done(stage)]:
            for stage in over:
                stage.finish()
                self._finished.add(stage.name)
            self._counts.clear()  # what begins now knows its runs only now

    def _is_done(self, stage: Stage) -> bool:
        stage.begin()
        return stage.is_over


@dataclass
class _Sum:
    """How long stages take on places they share: no less than the longest of them, which fills only some."""

    shared: float = 0.0
    longest: float = 0.0

    def add(self, seconds: float, places: int, together: int) -> None:
        self.shared += seconds / places
        self.longest = max(self.longest, seconds / together)

    @property
    def seconds(self) -> float:
        return max(self.shared, self.longest)
