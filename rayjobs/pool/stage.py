"""Stages: the runs of one search, or the final models of one row on one fold. A pool deals them out, mixed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from mmcore.assembly.config import with_values
from rayjobs.cluster.resources import TrialShape
from rayjobs.runs.epochs.progress import EPOCH, OBJECTIVE
from rayjobs.runs.job import Job
from rayjobs.search.halving import Decision
from rayjobs.search.record import Row, SearchRecord, Trial
from rayjobs.trials.ticket import Ticket


@dataclass(frozen=True)
class Place:
    """Where a stage stands among the others.

    Attributes:
        fold: Position of its fold; one after another, so that an interrupted experiment holds whole ones.
        number: Its position among the stages of its fold.
        row: What runs of about the same length have in common: data set and method.
    """

    fold: int
    number: int
    row: str


@dataclass
class Count:
    """How far a stage has come.

    Attributes:
        total: Its runs.
        done: Those that ended well; stopped early counts.
        failed: Those that failed for good.
        best: The best objective so far.
        epochs: Finished epochs of all runs.
        epochs_left: Epochs to come, if no further run is stopped early.
        epochs_saved: Epochs that were left out because runs were stopped early.
        device_seconds: Spent on all runs.
    """

    total: int
    done: int = 0
    failed: int = 0
    best: float | None = None
    epochs: int = 0
    epochs_left: int = 0
    epochs_saved: int = 0
    device_seconds: float = 0.0


class Stage(Protocol):
    """What a pool deals out runs of."""

    name: str
    place: Place
    shape: TrialShape
    is_search: bool
    after: frozenset[str]
    """Names of stages that must be over before."""

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to run; asked only after `begin`."""

    @property
    def at_once(self) -> int | None:
        """Most runs at a time; None: as many as there is room for."""

    def begin(self) -> None:
        """Makes it ready: the stages it waits for are over. May be called again."""

    def next(self) -> Ticket | None:
        """Returns the next run; None if there is none for now."""

    def report(self, ticket: Ticket, row: Row) -> Decision:
        """Enters an epoch of a run; returns what becomes of it."""

    def end(self, ticket: Ticket, failure: str = "") -> None:
        """Enters that a run has ended; with the reason, that it failed for good."""

    def close(self) -> None:
        """Begins no more runs."""

    def finish(self) -> None:
        """Does what is left to do when all is over; called once."""

    def count(self) -> Count:
        """Returns how far it has come."""


@dataclass
class SearchStage:
    """The trials of a search.

    Attributes:
        record: The search as it stands.
        job: What its trials have in common: a job with the search's configuration, in the search's folder.
        shape: What a trial asks for.
        place: Where it stands among the others.
        on_over: Called with the record when the search is over.
        after: Names of stages that must be over before.
        lacking: Asked once, when those are over; returns what its trials would need of them and lack. With a word of
            it the stage is over, but not the search: a later command may go on with it.
    """

    record: SearchRecord
    job: Job
    shape: TrialShape
    place: Place
    on_over: Callable[[SearchRecord], None]
    after: frozenset[str] = frozenset()
    lacking: Callable[[], str] = str
    is_search: bool = True

    def __post_init__(self) -> None:
        self.name = self.record.search.name
        self._dealt: dict[str, Trial] = {}
        self._lacks: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to run."""
        return bool(self._lacks) or self.record.is_over

    @property
    def at_once(self) -> int | None:
        """Most trials at a time."""
        return self.record.at_once

    def begin(self) -> None:
        """Looks whether it can begin, and says why not."""
        if self._lacks is None:
            self._lacks = self.lacking()
            if self._lacks:
                self.record.notify(self._lacks)

    def next(self) -> Ticket | None:
        """Returns the next trial."""
        trial = self.record.next()
        if trial is None:
            return None
        self._dealt[trial.name] = trial
        config = with_values(self.record.search.config, trial.values).to_dict()
        run_dir = Path(self.job.run_dir) / trial.name
        job = replace(_without_data(self.job), config=config, run_dir=str(run_dir))
        return Ticket(self.name, trial.name, self.shape, job, trial.values)

    def report(self, ticket: Ticket, row: Row) -> Decision:
        """Enters an epoch of a trial."""
        return self.record.report(self._dealt[ticket.name], row)

    def end(self, ticket: Ticket, failure: str = "") -> None:
        """Enters that a trial runs no longer."""
        self.record.end(self._dealt[ticket.name], failure)

    def close(self) -> None:
        """Begins no more trials."""
        self.record.close()

    def finish(self) -> None:
        """Hands the finished search on."""
        if not self._lacks:
            self.on_over(self.record)

    def count(self) -> Count:
        """Returns how far it has come."""
        trials, search = self.record.trials, self.record.search
        objectives = [trial.objective for trial in trials if trial.objective is not None and trial.status != "failed"]
        left = sum(search.max_epochs - trial.epoch for trial in trials if not trial.status)
        saved = sum(search.max_epochs - trial.epoch for trial in trials if trial.status == "stopped")
        return Count(
            total=len(trials) if self.is_over else search.trials,
            done=sum(trial.status in {"done", "stopped"} for trial in trials),
            failed=sum(trial.status == "failed" for trial in trials),
            best=max(objectives, default=None),
            epochs=sum(trial.epoch for trial in trials),
            epochs_left=0 if self.is_over else left + (search.trials - len(trials)) * search.max_epochs,
            epochs_saved=saved,
            device_seconds=sum(trial.device_seconds for trial in trials),
        )


@dataclass
class GivenStage:
    """Runs that are given one by one, each trained to its end: the final models of a row on a fold.

    Attributes:
        name: For a person.
        make_jobs: Returns the runs; called when the stages it waits for are over.
        total: How many there will be, as far as is known before.
        max_epochs: Length of each.
        shape: What each asks for.
        place: Where it stands among the others.
        after: Names of stages that must be over before.
        is_settled: Tells whether a run was finished by an earlier command.
        on_over: Told, when all is over, which runs failed for good: name -> reason.
    """

    name: str
    make_jobs: Callable[[], Sequence[Job]]
    total: int
    max_epochs: int
    shape: TrialShape
    place: Place
    after: frozenset[str]
    is_settled: Callable[[Job], bool]
    on_over: Callable[[Mapping[str, str]], None] | None = None
    is_search: bool = False
    at_once: int | None = None
    epochs: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._jobs: list[Job] | None = None
        self._waiting: list[Job] = []
        self._running: set[str] = set()
        self._best: float | None = None
        self._failures: dict[str, str] = {}

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to run."""
        return self._jobs is not None and not self._waiting and not self._running

    def begin(self) -> None:
        """Makes the runs; the stages it waits for are over."""
        if self._jobs is None:
            self._jobs = list(self.make_jobs())
            self._waiting = [job for job in self._jobs if not self.is_settled(job)]
            self.total = len(self._jobs)

    def next(self) -> Ticket | None:
        """Returns the next run."""
        if not self._waiting:
            return None
        job = self._waiting.pop(0)
        ticket = Ticket(self.name, Path(job.run_dir).name, self.shape, _without_data(job))
        self._running.add(ticket.name)
        return ticket

    def report(self, ticket: Ticket, row: Row) -> Decision:
        """Notes an epoch; nothing stops these runs."""
        if OBJECTIVE in row:
            self.epochs[ticket.name] = int(row[EPOCH])
            self._best = max(self._best or 0.0, row[OBJECTIVE])
        return "go"

    def end(self, ticket: Ticket, failure: str = "") -> None:
        """Notes that a run has ended."""
        self._running.discard(ticket.name)
        if failure:
            self._failures[ticket.name] = failure

    def close(self) -> None:
        """Begins no more runs."""
        self.total -= len(self._waiting)
        self._waiting.clear()

    def finish(self) -> None:
        """Leaves everything where the runs wrote it, and tells what is missing there."""
        if self.on_over is not None:
            self.on_over(self._failures)

    def count(self) -> Count:
        """Returns how far it has come."""
        left = len(self._waiting) + len(self._running) if self._jobs is not None else self.total
        epochs = sum(self.epochs.values())
        begun = sum(self.epochs.get(name, 0) for name in self._running)
        failed = len(self._failures)
        done = self.total - left - failed
        return Count(self.total, done, failed, self._best, epochs, left * self.max_epochs - begun)


@dataclass
class FinishedStage:
    """A search that an earlier command finished: others may wait for it, and a person wants to see it.

    Attributes:
        name: The search's.
        place: Where it stood among the others.
        shape: What its trials asked for.
        counted: How far it came.
    """

    name: str
    place: Place
    shape: TrialShape
    counted: Count
    is_search: bool = True
    after: frozenset[str] = frozenset()
    is_over: bool = True
    at_once: int | None = None

    def begin(self) -> None:
        """Has nothing to make ready."""

    def next(self) -> Ticket | None:
        """Has no run."""
        return None

    def report(self, ticket: Ticket, row: Row) -> Decision:
        """Is never told: it has no run."""
        raise NotImplementedError

    def end(self, ticket: Ticket, failure: str = "") -> None:
        """Is never told: it has no run."""
        raise NotImplementedError

    def close(self) -> None:
        """Is closed."""

    def finish(self) -> None:
        """Is finished."""

    def count(self) -> Count:
        """Returns how far it came."""
        return self.counted


@dataclass
class GatedStage:
    """A stage of which it is decided, once those it waits for are over, whether it is run or left out.

    Attributes:
        inner: The stage.
        waits_for: Names of further stages that must be over before.
        is_left_out: Asked once.
    """

    inner: Stage
    waits_for: frozenset[str]
    is_left_out: Callable[[], bool]

    def __post_init__(self) -> None:
        self.name, self.place, self.shape = self.inner.name, self.inner.place, self.inner.shape
        self.is_search = self.inner.is_search
        self.after = self.inner.after | self.waits_for
        self._left_out: bool | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to run."""
        return bool(self._left_out) or self.inner.is_over

    @property
    def at_once(self) -> int | None:
        """Most runs at a time."""
        return self.inner.at_once

    def begin(self) -> None:
        """Decides, and makes what is run ready."""
        if self._left_out is None:
            self._left_out = self.is_left_out()
        if not self._left_out:
            self.inner.begin()

    def next(self) -> Ticket | None:
        """Returns the next run."""
        return None if self._left_out else self.inner.next()

    def report(self, ticket: Ticket, row: Row) -> Decision:
        """Enters an epoch of a run."""
        return self.inner.report(ticket, row)

    def end(self, ticket: Ticket, failure: str = "") -> None:
        """Enters that a run has ended."""
        self.inner.end(ticket, failure)

    def close(self) -> None:
        """Begins no more runs."""
        self.inner.close()

    def finish(self) -> None:
        """Does what is left to do; of what was left out nothing."""
        if not self._left_out:
            self.inner.finish()

    def count(self) -> Count:
        """Returns how far it has come; what was left out has no runs."""
        return Count(0) if self._left_out else self.inner.count()


def _without_data(job: Job) -> Job:
    """Returns a job with its data's directory alone: a ticket travels, the data stays."""
    return replace(job, data=replace(job.data, cached=None))
