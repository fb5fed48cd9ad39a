"""What a search left in its folder, read back: finished or not, on this machine or a copy of it."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mmcore.config.plain import Settings
from mmcore.config.sections import get_path
from mmcore.data.prepared.store import PreparedDataset
from mmcore.errors import DataError, EquipoiseError, UsageError
from mmcore.metric_names import VAL_ACCURACY
from mmcore.storage import read_json_lines
from mmcore.training.run_log import METRICS_FILE, Row, read_rows
from rayjobs.experiment.experiment import StoredExperiment
from rayjobs.experiment.search_result import SearchResult
from rayjobs.reporting.ranking_table import Ranking
from rayjobs.results_layout import (
    CONFIG_FILE,
    EXPERIMENT_FILE,
    FAILURE_FILE,
    LEDGER_FILE,
    PLAN_FILE,
    PROGRESS_FILE,
    RANKING_FILE,
    READABLE_FORMATS,
    RESULT_FILE,
    SEARCH_FILE,
)
from rayjobs.runs.epochs.progress import EPOCH, OBJECTIVE
from rayjobs.runs.result import RunResult
from rayjobs.runs.test_ledger import look_at_ledger
from rayjobs.search.outcome import Outcome
from rayjobs.storage.files import read_json
from rayjobs.storage.json_record import JsonRecord
from rayjobs.trials.failures import failure_reason

R = TypeVar("R", bound=JsonRecord)
OPEN = "running or stopped"
"""State of a trial that neither failed nor came to its end, in a search that has not ended: it cannot be told which."""


@dataclass(frozen=True, kw_only=True)
class StoredPlan(JsonRecord):
    """What a report reads of `plan.json`: a search as it was begun.

    Attributes:
        name: Name of the search, and of its folder in the experiment's.
        label: The row's name. The first releases did not say.
        trials: How many it was to have.
        space: Path -> what it is drawn from, in words.
        config: What all trials have in common.
    """

    name: str
    label: str = ""
    trials: int
    space: Mapping[str, str]
    config: Settings


@dataclass(frozen=True)
class TrialRecord:
    """One trial.

    Attributes:
        name: Name of its folder: `trial-001`.
        values: Path -> searched value.
        status: "done", "stopped" (early), "failed", or "running or stopped" while the search has not ended.
        epochs: Finished epochs.
        objective: Best validation accuracy so far.
        objective_loss: Validation loss of that epoch, which decides between trials of one accuracy.
        reason: Why it failed.
        rows: One per epoch.
    """

    name: str
    values: Settings
    status: str
    epochs: int
    objective: float | None
    objective_loss: float
    reason: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class SearchRecord:
    """One search: of a method, on a data set, on one fold where there are folds.

    Attributes:
        dataset: Name of the prepared data set.
        label: The row's name in the ranking; of a part with the modality it is of.
        fold: None where there is one split.
        protocol: How samples were split; "" until a trial has ended.
        planned: Trials it was to have.
        space: Path -> what it is drawn from, in words.
        select: Whether the best or the last epoch of a trial counts.
        finished: Whether it ended.
        trials: Those started, in that order.
    """

    dataset: str
    label: str
    fold: int | None
    protocol: str
    planned: int
    space: Mapping[str, str]
    select: str
    finished: bool
    trials: Sequence[TrialRecord]

    @property
    def best(self) -> TrialRecord | None:
        """The trial with the best result so far."""
        return best_of(self.trials)

    def accuracies(self) -> list[float]:
        """Returns the validation accuracy after each epoch spent, trial by trial; NaN where it cannot be chosen.

        That is all of a failed trial, and all but the last epoch of one whose last epoch counts.
        """
        values: list[float] = []
        for trial in self.trials:
            own = [row[VAL_ACCURACY] for row in trial.rows]
            if trial.status == "failed":
                own = [math.nan] * len(own)
            elif self.select == "last" and own:
                own = [math.nan] * (len(own) - 1) + own[-1:]
            values += own
        return values


def best_of(trials: Iterable[TrialRecord]) -> TrialRecord | None:
    """Returns the trial with the best result, chosen as a search itself chooses; None where no trial has one."""
    having = [trial for trial in trials if trial.objective is not None and trial.status != "failed"]
    return max(having, key=lambda trial: (trial.objective or 0.0, -trial.objective_loss), default=None)


@dataclass(frozen=True)
class ExperimentRecord:
    """A whole experiment.

    Attributes:
        folder: Where it lies.
        stored: Its `experiment.json`: command, time, request.
        searches: In the order of their names.
        ranking: What was printed at its end; None if it did not come to that.
        test_readings: How often it read test, by the ledger.
        damage: What of its files could not be read and is left out, in words.
    """

    folder: Path
    stored: StoredExperiment
    searches: Sequence[SearchRecord]
    ranking: Ranking | None
    test_readings: int
    damage: Sequence[str] = ()

    @property
    def datasets(self) -> list[str]:
        """Names of its data sets."""
        return list(dict.fromkeys(search.dataset for search in self.searches))

    def of_dataset(self, dataset: str) -> dict[str, list[SearchRecord]]:
        """Returns a data set's searches: label -> one per fold."""
        labels: dict[str, list[SearchRecord]] = {}
        for search in self.searches:
            if search.dataset == dataset:
                labels.setdefault(search.label, []).append(search)
        return labels

    def card(self, dataset: str) -> tuple[str, bool] | None:
        """Returns a data set's card, and whether it was made to show an effect; None where the data is not at hand."""
        for table in self.ranking.rankings if self.ranking else ():
            if table.dataset == dataset:
                return table.card, table.constructed
        try:
            prepared = PreparedDataset.open(Path(self.stored.request.data_dir) / dataset)
        except EquipoiseError:
            return None
        return prepared.card, prepared.constructed


def load_experiment(folder: Path) -> ExperimentRecord:
    """Reads an experiment's folder.

    Raises:
        UsageError: It holds no experiment, or one of another release.
        DataError: One of its files is damaged.
    """
    stored = StoredExperiment.read(folder / EXPERIMENT_FILE)
    if not stored:
        raise UsageError(_no_experiment(folder))
    if stored.format_version not in READABLE_FORMATS:
        raise UsageError(f"{folder} was written by another release (format {stored.format_version})")
    places = ("*", "*/fold-*", "*/part-*", "*/fold-*/part-*")
    plans = sorted(path for place in places for path in folder.glob(f"{place}/{PLAN_FILE}"))
    # At an address each final model has a ledger of its own.
    own = [*folder.glob(f"*/final-*/{LEDGER_FILE}"), *folder.glob(f"*/fold-*/final-*/{LEDGER_FILE}")]
    looked_at = [look_at_ledger(path) for path in (folder.parent / LEDGER_FILE, *own)]
    inside = [Path(entry["run_dir"]).is_relative_to(stored.folder) for entries, _ in looked_at for entry in entries]
    searches = [load_search(path.parent) for path in plans]
    damage = [problem for _, problems in looked_at for problem in problems]
    damage += [problem for path in plans for problem in _damaged_rows(path.parent)]
    ranking = _stored(Ranking, folder / RANKING_FILE)
    return ExperimentRecord(folder, stored, searches, ranking, sum(inside), damage)


def _damaged_rows(folder: Path) -> list[str]:
    """Returns what is wrong with the rows of a search's trials, in words."""
    return [problem for file in sorted(folder.glob(f"*/{METRICS_FILE}")) for problem in read_json_lines(file)[1]]


def _no_experiment(folder: Path) -> str:
    known = sorted(path.parent.name for path in folder.glob(f"*/{EXPERIMENT_FILE}"))
    if known:
        return f"{folder} holds several experiments, not one: name one of them, as in {folder / known[0]}"
    return f"{folder} holds no search ({EXPERIMENT_FILE} is missing): name the folder that rayjobs.tune printed"


def load_search(folder: Path) -> SearchRecord:
    """Reads a search's folder.

    Raises:
        DataError: One of its files is damaged.
    """
    plan, ended = _stored(StoredPlan, folder / PLAN_FILE), _stored(SearchResult, folder / SEARCH_FILE)
    if plan is None:
        raise DataError(f"{folder} holds no search: {PLAN_FILE} is missing")
    name, _, part = plan.name.partition("/part-")
    name, _, fold = name.partition("/fold-")
    # The folder's name ends with the label. The first releases did not say it: it begins with its method's name.
    ending = plan.label or str(get_path(plan.config, "method.name"))
    start = name.rfind(f"-{ending}")
    trials = [_ended(folder, trial) for trial in ended.trials] if ended else _running(folder, plan.space)
    return SearchRecord(
        dataset=name[:start],
        label=f"{name[start + 1 :]} {part}".strip(),
        fold=int(fold) if fold else None,
        protocol=_protocol(folder, trials),
        planned=plan.trials,
        space=plan.space,
        select=get_path(plan.config, "trainer.select"),
        finished=ended is not None,
        trials=trials,
    )


def _stored(kind: type[R], path: Path) -> R | None:
    """Returns what a file holds, None where there is no file; one that cannot be read is no missing one."""
    try:
        return kind.read(path)
    except DataError as error:
        raise DataError(f"{error}: the search can write it again (rayjobs.tune --resume)") from None


def _ended(folder: Path, trial: Outcome) -> TrialRecord:
    return TrialRecord(
        name=trial.name,
        values=trial.values,
        status=trial.status,
        epochs=trial.epochs,
        objective=trial.objective,
        objective_loss=trial.objective_loss,
        reason=trial.reason,
        rows=read_rows(folder / Path(trial.name).name),
    )


def _running(folder: Path, space: Mapping[str, str]) -> list[TrialRecord]:
    """Reads the trials of a search that has not ended from their own folders."""
    names = sorted(path.name for path in folder.glob("trial-*") if re.fullmatch(r"trial-\d+", path.name))
    return [_running_trial(folder / name, space) for name in names]


def _running_trial(run_dir: Path, space: Mapping[str, str]) -> TrialRecord:
    progress, config = read_json(run_dir / PROGRESS_FILE) or {}, read_json(run_dir / CONFIG_FILE)
    failed = (run_dir / FAILURE_FILE).exists()
    status = "failed" if failed else "done" if (run_dir / RESULT_FILE).exists() else OPEN
    return TrialRecord(
        name=run_dir.name,
        values={path: get_path(config, path) for path in space} if config else {},
        status=status,
        epochs=int(progress.get(EPOCH, 0)),
        objective=progress.get(OBJECTIVE),
        objective_loss=float(progress.get("objective_loss", 0.0)),
        reason=failure_reason(run_dir) if failed else "",
        rows=read_rows(run_dir),
    )


def _protocol(folder: Path, trials: Sequence[TrialRecord]) -> str:
    for trial in trials:
        with contextlib.suppress(DataError):  # all trials have one protocol: the next one tells it too
            result = RunResult.read(folder / Path(trial.name).name / RESULT_FILE)
            if result:
                return result.protocol
    return ""
