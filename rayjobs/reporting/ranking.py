"""What is printed as a result: what each method adds to the reference, with what certainty, and at what cost.

Read from the files of finished searches and final models; computes nothing but what `mmcore.analysis.intervals` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mmcore.analysis.confusion import most_confused
from mmcore.analysis.intervals import mean_interval
from mmcore.metric_names import (
    CALIBRATION_ERROR,
    FUSED,
    MACRO_F1,
    MEAN_AVERAGE_PRECISION,
    PROBE_ACCURACY,
    of_head,
    own_metrics,
)
from rayjobs.experiment.folder import best_file, final_dirs, lacking_teacher
from rayjobs.experiment.search_result import SearchResult, read_search
from rayjobs.reporting.by_class import ClassRow, by_class, is_imbalanced
from rayjobs.reporting.comparison import all_folds, compare_folds, compare_seeds, rho_of
from rayjobs.reporting.finals import Final, Finals, accuracies_of, flattened, load_final, short_name
from rayjobs.reporting.notes import (
    budget_notes,
    chance_notes,
    dead_notes,
    elastic_notes,
    mended_notes,
    more_seeds,
    schedule_notes,
    teacher_notes,
    timing_notes,
)
from rayjobs.reporting.ranking_table import Failure, Mistake, OwnAccuracy, Ranking, RankingRow, RankingTable
from rayjobs.results_layout import LEDGER_FILE
from rayjobs.runs.environment import Environment, merged
from rayjobs.runs.predictions import FUSED_LOGITS, read_predictions
from rayjobs.search.outcome import Outcome
from rayjobs.trials.failures import failure_reason

if TYPE_CHECKING:
    from mmcore.config.schema import ProtocolConfig
    from mmcore.data.splits import Assignment
    from rayjobs.experiment.experiment import Experiment
    from rayjobs.experiment.plan import Plan

EQUAL_TRIALS = "Equal trials are not equal compute: compare epochs and device-seconds too."
SEARCHED_ONCE = "Searched on fold 0 alone: its validation samples are among the test samples of another fold."
MOST_MISTAKES = 3
NOT_SEARCHED = SearchResult(label="", trials=[], best=None, config=None)


def build_ranking(experiment: Experiment, plans: Sequence[Plan]) -> Ranking:
    """Returns the whole result of an experiment; one table per data set and protocol."""
    request, folder = experiment.request, experiment.folder
    made = [_table(experiment, plan) for plan in plans]
    tables = [table for table, _ in made]
    return Ranking(
        experiment=experiment.name,
        folder=experiment.mirror.address_of(folder),
        command=experiment.command,
        reference=request.reference,
        final_seeds=request.final_seeds,
        rankings=tables,
        ledger=_ledger(experiment),
        tensorboard=f"tensorboard --logdir {folder}",
        next=more_seeds(experiment, tables),
        notes=[EQUAL_TRIALS],
        environment=merged(environment for _, environment in made),
    )


def _ledger(experiment: Experiment) -> str:
    """Returns where the readings of test stand: in one file, or, at an address, in one of each final model."""
    if experiment.mirror:
        return f"{experiment.mirror.address_of(experiment.folder)}/*/final-*/{LEDGER_FILE}"
    return str(experiment.folder.parent / LEDGER_FILE)


def _table(experiment: Experiment, plan: Plan) -> tuple[RankingTable, Environment | None]:
    """Returns a data set's table, and on what and with what its final models were trained."""
    request, prepared = experiment.request, plan.prepared
    rows: list[RankingRow] = []
    finals: dict[str, Sequence[Sequence[Final]]] = {}
    at_once: dict[str, int | None] = {}
    for label in plan.labels:
        runs = _Runs(experiment, plan, label)
        finals[label] = [] if runs.failed else runs.finals
        rows.append(replace(_row(runs), mistakes=_mistakes(runs, prepared.spec.classes)))
        at_once[label] = max((stored.at_once or 0 for stored in runs.stored), default=0) or None
    cross_validated = len(plan.folds) > 1
    assignments = [prepared.assign(_on_fold(plan, fold)) for fold in plan.folds]
    if cross_validated:
        deltas, note = compare_folds(finals, request.reference, rho_of(prepared.index, assignments))
    else:
        deltas, note = compare_seeds(finals, request.reference)
    rows = [replace(row, delta=deltas.get(row.method)) for row in rows]
    tested = np.unique(np.concatenate([assignment.test for assignment in assignments]))
    table = RankingTable(
        dataset=prepared.directory.name,
        card=prepared.card,
        constructed=prepared.constructed,
        data_fingerprint=prepared.fingerprint,
        protocol=all_folds(assignments[0].line) if cross_validated else assignments[0].line,
        folds=len(plan.folds) if cross_validated else None,
        num_test_samples=len(tested),
        interval_note=note,
        chance_notes=[
            *chance_notes(rows, finals),
            *dead_notes(finals),
            *mended_notes(finals),
            *budget_notes(rows, plan),
            *timing_notes(at_once),
            *schedule_notes(rows),
            *teacher_notes(finals),
            *elastic_notes(experiment, plan),
        ],
        search_note=SEARCHED_ONCE if request.search_once else "",
        classes=_classes(plan, assignments[0], finals),
        rows=sorted(rows, key=lambda row: (row.accuracy is None, -(row.accuracy or 0.0))),
    )
    return table, merged(final.environment for folds in finals.values() for final in flattened(folds))


def _on_fold(plan: Plan, fold: int | None) -> ProtocolConfig:
    """Returns the protocol of a fold, also where another one was searched for it."""
    protocol = plan.searches_of(plan.labels[0], fold)[0].config.protocol
    return protocol if fold is None else protocol.model_copy(update={"fold": fold})


class _Runs:
    """What a row is made of: its searches, as they ended, and its final models by fold.

    Args:
        experiment: The experiment.
        plan: Plan of the data set's searches.
        label: The row.
    """

    def __init__(self, experiment: Experiment, plan: Plan, label: str):
        self.label = label
        self.searches = [search for search in plan.searches if search.label == label]
        self.folders = [experiment.folder / search.name for search in self.searches]
        self.stored = [read_search(folder) or NOT_SEARCHED for folder in self.folders]
        self.dirs = dirs = [final_dirs(plan, experiment, label, fold) for fold in plan.folds]
        loaded = [[load_final(run_dir) for run_dir in of_fold] for of_fold in dirs]
        self.finals = [[final for final in of_fold if final is not None] for of_fold in loaded]
        self.best_files = [
            str(best_file(search, experiment))
            for search, entry in zip(self.searches, self.stored, strict=True)
            if entry.best
        ]
        chosen = [
            all(self.stored[self.searches.index(search)].best for search in plan.searches_of(label, fold))
            for fold in plan.folds
        ]
        self.missing = [
            Failure(trial=short_name(path, label), reason=failure_reason(path))
            for paths, models, has_best in zip(dirs, loaded, chosen, strict=True)
            for path, model in zip(paths, models, strict=True)
            if has_best and model is None
        ]
        self.failed = self._failed(len(flattened(dirs)), experiment, plan)

    @property
    def trials(self) -> list[Outcome]:
        """Every trial of the row's searches."""
        return [
            replace(trial, name=short_name(folder / trial.name, self.label))
            for folder, entry in zip(self.folders, self.stored, strict=True)
            for trial in entry.trials
        ]

    def _failed(self, planned: int, experiment: Experiment, plan: Plan) -> str:
        """Returns why the row has no result: a mean over the runs that happened to work would be of other runs."""
        lacking = planned - len(flattened(self.finals))
        if not lacking:
            return ""
        found = [trial for trial in self.trials if trial.status == "failed"]
        if self.missing:
            why = f"{self.missing[0].trial}: {self.missing[0].reason}"
        elif found:
            why = f"no trial of a search succeeded; {found[0].name}: {found[0].reason}"
        else:
            untaught = (lacking_teacher(self.searches[0], fold, plan, experiment) for fold in plan.folds)
            over = "the time was over before a trial of a search had finished an epoch"
            why = next(filter(None, untaught), over)
        return f"{lacking} of {planned} final models are missing ({why})"


def _row(runs: _Runs) -> RankingRow:
    trials, finals, stored = runs.trials, flattened(runs.finals), runs.stored
    whole = [] if runs.failed else runs.finals
    of_folds = [mean_interval(accuracies_of(of_fold))[0] for of_fold in whole if of_fold]
    failed = [trial for trial in trials if trial.status == "failed"]
    has_folds = len(runs.finals) > 1
    return RankingRow(
        method=runs.label,
        accuracy=mean_interval(of_folds)[0] if of_folds else None,
        half_width=mean_interval(of_folds)[1] if has_folds and of_folds else None,
        folds=of_folds if has_folds else None,
        accuracies=accuracies_of(finals),
        seeds=[final.seed for final in finals],
        failed_because=runs.failed,
        delta=None,
        modalities=_modalities(flattened(whole)),
        metrics=_metrics(flattened(whole)),
        trials=len(trials),
        begun=sum(trial.epochs > 0 or trial.status == "failed" for trial in trials),
        failed=len(failed),
        stopped_early=sum(trial.status == "stopped" for trial in trials),
        epochs=sum(trial.epochs for trial in trials) + int(sum(final.cost["epochs"] for final in finals)),
        device_seconds=sum(trial.device_seconds for trial in trials)
        + sum(final.cost["device_seconds"] for final in finals),
        best=stored[0].best,
        best_of_folds=[entry.best for entry in stored] if len(stored) > 1 else None,
        config_file=runs.best_files[0] if runs.best_files else None,
        config_files=runs.best_files,
        failures=[Failure(trial=trial.name, reason=trial.reason) for trial in failed] + runs.missing,
    )


def _modalities(finals: Sequence[Final]) -> dict[str, OwnAccuracy]:
    """Returns each modality's own accuracy, by its own head where it has one, else by a linear probe."""
    if not finals:
        return {}
    return {
        name: OwnAccuracy(
            accuracy=mean_interval([final.metrics[key] for final in finals])[0],
            by="probe" if key == of_head(name, PROBE_ACCURACY) else "head",
        )
        for name, key in own_metrics(finals[0].metrics).items()
    }


def _metrics(finals: Sequence[Final]) -> dict[str, float]:
    """Returns the means of the fused answer's other figures that every model has."""
    keys = {name: of_head(FUSED, name) for name in (MACRO_F1, MEAN_AVERAGE_PRECISION, CALIBRATION_ERROR)}
    return {
        name: mean_interval([final.metrics[key] for final in finals])[0]
        for name, key in keys.items()
        if finals and all(key in final.metrics for final in finals)
    }


def _mistakes(runs: _Runs, classes: Sequence[str]) -> list[Mistake]:
    """Returns what a row's final models most often take for what, over all folds; nothing of a row without a result."""
    if runs.failed or not all(runs.dirs):
        return []
    labels, answers = [], []
    for of_fold in runs.dirs:
        stored = [read_predictions(run_dir) for run_dir in of_fold]
        orders = [np.argsort(arrays["sample_ids"]) for arrays in stored]
        labels.append(stored[0]["labels"][orders[0]])
        answers.append([arrays[FUSED_LOGITS].argmax(axis=1)[at] for arrays, at in zip(stored, orders, strict=True)])
    found = most_confused(np.concatenate(answers, axis=1), np.concatenate(labels), len(classes), MOST_MISTAKES)
    return [Mistake(label=classes[each.label], answer=classes[each.answer], share=each.share) for each in found]


def _classes(plan: Plan, assignment: Assignment, finals: Finals) -> list[ClassRow]:
    """Returns each row's accuracy by class, where classes are of unequal size or weighted; else nothing."""
    models = {label: flattened(folds) for label, folds in finals.items()}
    columns = {label: (FUSED, [final.metrics for final in own]) for label, own in models.items() if own}
    found = by_class(plan.prepared, assignment, columns)
    weighted = any(search.config.trainer.class_weights != "none" for search in plan.searches)
    return found if columns and (weighted or is_imbalanced(found)) else []
