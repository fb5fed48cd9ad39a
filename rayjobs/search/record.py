"""A search as it stands: what was tried, what is tried next, which trials go on.

It is a function of its seed and of what it is told, in that order: `next`, `report`, `end`. Each event stands in the
search's journal before anything follows from it, and a search is resumed by telling it the journal again. With one
trial at a time no event depends on how fast a machine is, or on what else runs there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from mmcore.assembly.config import with_values
from mmcore.config.plain import Plain, Settings
from mmcore.errors import CheckpointError
from mmcore.seeding import derive_seed
from rayjobs.results_layout import CONFIG_FILE, JOURNAL_FILE
from rayjobs.runs.epochs.progress import EPOCH, FATAL, OBJECTIVE, missed_rows
from rayjobs.runs.handover import hand_over, read_schedule
from rayjobs.search.halving import Decision, Halving, Rule, ToTheEnd
from rayjobs.search.journal import CLOSE, DRAW, END, EXCHANGE, REPORT, Event, Journal
from rayjobs.search.outcome import Outcome
from rayjobs.search.population import Population
from rayjobs.search.searches import Search
from rayjobs.search.suggestions import suggestions_of
from rayjobs.storage.files import read_json
from rayjobs.storage.mirror import NO_MIRROR, Mirror

Row = Mapping[str, float]


@dataclass
class Trial:
    """A trial as far as it has come.

    Attributes:
        number: From 1, in the order they were drawn.
        values: Path -> searched value.
        epoch: Finished epochs that were reported.
        objective: What it reported last; None before the first epoch.
        objective_loss: Validation loss of the epoch that comes from.
        device_seconds: Spent so far.
        decision: What became of it at its last report.
        status: "" until it has ended; then done, stopped or failed.
        reason: Why it failed.
    """

    number: int
    values: dict[str, Plain]
    epoch: int = 0
    objective: float | None = None
    objective_loss: float = 0.0
    device_seconds: float = 0.0
    decision: Decision = "go"
    status: str = ""
    reason: str = ""

    @property
    def name(self) -> str:
        """Its name, and that of its folder."""
        return f"trial-{self.number:03d}"


@dataclass
class SearchRecord:
    """One search's trials.

    Attributes:
        search: What is searched.
        folder: The search's folder; each trial has one in it.
        at_once: Most trials at a time; None: as many as there is room for, where it makes no difference.
        notify: Told, in words, what had to be mended.
        mirror: Where the folder has its twin.
        trials: Those begun, in order.
    """

    search: Search
    folder: Path
    at_once: int | None = 1
    notify: Callable[[str], None] = print
    mirror: Mirror = NO_MIRROR
    trials: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._suggestions = suggestions_of(self.search)
        self._rule = rule_of(self.search)
        self._journal = Journal(self.folder / JOURNAL_FILE)
        self._running: set[int] = set()
        self._is_closed = False
        self._is_replayed = False
        for event in self._journal.read(self.notify):
            self._apply(event)
        self._is_replayed = True
        for trial in self._left():  # the driver was killed between the two events
            if trial.decision == "stop" or self._is_closed:
                self._end(trial, "stopped")
        self._exchange()

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to run."""
        if self._running:
            return False
        return self._is_closed or (len(self.trials) >= self.search.trials and not self._left())

    def next(self) -> Trial | None:
        """Returns the next trial to run, a new one or one to go on with; None if there is none for now."""
        if self._is_closed or (self.at_once is not None and len(self._running) >= self.at_once):
            return None
        waiting = [trial for trial in self._left() if trial.number not in self._running and not self._waits(trial)]
        trial = waiting[0] if waiting else self._draw() if len(self.trials) < self.search.trials else None
        if trial is not None:
            self._running.add(trial.number)
        return trial

    def report(self, trial: Trial, row: Row) -> Decision:
        """Enters an epoch, and those before it that were never passed on; returns what becomes of the trial."""
        if row.get(FATAL):
            return "go"  # it fails by itself
        epoch = int(row[EPOCH])
        if epoch <= trial.epoch:  # known before its process, or the driver, was lost
            return trial.decision if epoch == trial.epoch else "go"
        select = self.search.config.trainer.select
        for each in [*missed_rows(self.folder / trial.name, select, trial.epoch, epoch), row]:
            if self._enter(trial, each) != "go":
                break
        return trial.decision

    def end(self, trial: Trial, failure: str = "") -> None:
        """Enters that a trial runs no longer: it is over, it waits for the others, or it failed for good."""
        self._running.discard(trial.number)
        if failure:
            self._end(trial, "failed", failure)
        elif trial.decision != "wait" or self._is_closed:
            self._end(trial, "done" if trial.epoch >= self.search.max_epochs else "stopped")
        self._exchange()

    def close(self) -> None:
        """Ends the search: no trial is begun any more; those that run are to be ended by whoever runs them."""
        if not self._is_closed:
            self._is_closed = True
            self._write(Event(event=CLOSE))
            for trial in self._left():
                if trial.number not in self._running:
                    self._end(trial, "stopped")

    def outcomes(self) -> list[Outcome]:
        """Returns what became of each trial."""
        return [self._outcome(trial) for trial in self.trials]

    # Parts

    def _left(self) -> list[Trial]:
        return [trial for trial in self.trials if not trial.status]

    def _waits(self, trial: Trial) -> bool:
        return isinstance(self._rule, Population) and self._rule.is_waiting(trial.number)

    def _draw(self) -> Trial:
        number = len(self.trials) + 1
        trial = Trial(number, self._suggestions.suggest(number))
        self._write(Event(event=DRAW, trial=number, values=trial.values))
        self.trials.append(trial)
        self._set_aside(trial)
        return trial

    def _draw_again(self, values: dict[str, Plain]) -> None:
        """Enters a trial of the journal; what chooses the next ones must have drawn it alike."""
        number = len(self.trials) + 1
        drawn = self._suggestions.suggest(number)
        if drawn != values:
            raise CheckpointError(
                f"{self.folder / JOURNAL_FILE}: trial {number} is {values} there, and the search's seed gives {drawn}: "
                "it was begun by another version of this program or of HyperOpt; finish it with that one, or begin anew"
            )
        self.trials.append(Trial(number, values))

    def _set_aside(self, trial: Trial) -> None:
        """Renames the folder of another trial of that name, whose events were lost, where its settings were others."""
        run_dir = self.folder / trial.name
        stored = read_json(run_dir / CONFIG_FILE)
        if stored is not None and stored != with_values(self.search.config, trial.values).to_dict():
            aside = run_dir.with_name(f"{trial.name}.set-aside")
            run_dir.rename(aside)
            self.mirror.rename(run_dir, aside)
            self.notify(f"{trial.name} was another trial before its events were lost: set aside")

    def _enter(self, trial: Trial, row: Row) -> Decision:
        epoch, objective = int(row[EPOCH]), float(row[OBJECTIVE])
        loss, spent = float(row.get("objective_loss", 0.0)), float(row.get("device_seconds", trial.device_seconds))
        decision = self._rule.decide(trial.number, epoch, objective)
        self._write(
            Event(
                event=REPORT,
                trial=trial.number,
                epoch=epoch,
                objective=objective,
                objective_loss=loss,
                device_seconds=spent,
                decision=decision,
            )
        )
        trial.epoch, trial.objective, trial.decision = epoch, objective, decision
        trial.objective_loss, trial.device_seconds = loss, spent
        return decision

    def _end(self, trial: Trial, status: str, reason: str = "") -> None:
        self._write(Event(event=END, trial=trial.number, status=status, reason=reason))
        trial.status, trial.reason = status, reason
        self._suggestions.complete(trial.number, None if status == "failed" else trial.objective)

    def _exchange(self) -> None:
        """Lets the weak of a population continue from the strong, as soon as all that are left wait for it."""
        if not isinstance(self._rule, Population) or len(self.trials) < self.search.trials or self._is_closed:
            return
        changes = self._rule.changes({trial.number: trial.values for trial in self._left()})
        if changes is None:
            return
        for change in changes:
            weak, strong = self.trials[change.trial - 1], self.trials[change.source - 1]
            folders = self.folder / strong.name, self.folder / weak.name
            hand_over(*folders, self._rule.next_exchange, strong.values, change.values)
        values = {str(change.trial): change.values for change in changes}
        self._apply(Event(event=EXCHANGE, epoch=self._rule.next_exchange, values=values))

    def _write(self, event: Event) -> None:
        if self._is_replayed:
            self._journal.append(event)

    def _apply(self, event: Event) -> None:
        """Does what an event tells of."""
        trial = self.trials[event.trial - 1] if event.trial and event.event != DRAW else None
        if event.event == DRAW:
            self._draw_again(dict(event.values or {}))
        elif event.event == REPORT and trial is not None:
            self._enter(trial, _row(event))
            trial.decision = cast(Decision, event.decision)
        elif event.event == END and trial is not None:
            self._end(trial, str(event.status), event.reason or "")
        elif event.event == EXCHANGE and isinstance(self._rule, Population):
            self._write(event)
            for number, values in (event.values or {}).items():
                self.trials[int(number) - 1].values = dict(cast(Settings, values))
            for each in self._left():
                each.decision = "go"
            self._rule.exchanged()
        elif event.event == CLOSE:
            self._is_closed = True

    def _outcome(self, trial: Trial) -> Outcome:
        schedule = read_schedule(self.folder / trial.name)
        return Outcome(
            name=trial.name,
            values=schedule[-1].values if schedule else trial.values,
            status=trial.status or "unfinished",
            epochs=trial.epoch,
            objective=trial.objective,
            objective_loss=trial.objective_loss,
            device_seconds=trial.device_seconds,
            reason=trial.reason,
            schedule=schedule,
        )


def rule_of(search: Search) -> Rule:
    """Returns what decides on a search's trials."""
    if search.scheduler == "asha":
        return Halving(search.max_epochs, search.grace_epochs, search.reduction_factor)
    if search.scheduler == "pbt":
        changing = {path: search.space[path] for path in search.changeable}
        seed = derive_seed(search.config.seed, "population", search.name) % 2**32
        return Population(changing, max_epochs=search.max_epochs, interval=search.grace_epochs, seed=seed)
    return ToTheEnd()


def _row(event: Event) -> Row:
    return {
        EPOCH: event.epoch or 0,
        OBJECTIVE: cast(float, event.objective),
        "objective_loss": event.objective_loss or 0.0,
        "device_seconds": event.device_seconds or 0.0,
    }
