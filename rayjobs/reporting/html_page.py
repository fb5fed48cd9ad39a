"""The report as one HTML page: what stands in it, from the records of a search and its ranking.

Everything in it that comes from files or from a command line is escaped by the template.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmcore.analysis.importance import Importance, parameter_importance
from mmcore.analysis.intervals import best_so_far, mean_curve
from rayjobs.reporting import by_class, figures, wording
from rayjobs.reporting.figures import Picture
from rayjobs.reporting.ranking_table import Ranking, RankingTable
from rayjobs.reporting.records import OPEN, ExperimentRecord, SearchRecord, TrialRecord, best_of
from rayjobs.templates import Grid, file_stem, render

NO_CARD = "What the data is cannot be told: its prepared files are not at hand."
MISTAKES = "class as another"
RUNNING = (
    "This search has not ended: what follows is validation alone, on which the trials were chosen, and is no result. "
    "The ranking, on test, is made at its end. Make this report again to see more."
)


@dataclass(frozen=True)
class Group:
    """Figures that belong together, and why some are not there."""

    heading: str
    pictures: Sequence[Picture]
    left_out: Sequence[str] = ()


def build_page(experiment: ExperimentRecord) -> tuple[str, list[Picture]]:
    """Returns the page, with every figure in it, and the figures."""
    sections = [_section(experiment, dataset) for dataset in experiment.datasets]
    pictures = [picture for section in sections for group in section["groups"] for picture in group.pictures]
    values = {
        "title": f"Search {experiment.folder.resolve().name}",
        "created": experiment.stored.created,
        "command": experiment.stored.command,
        "state": [*([] if experiment.ranking else [RUNNING]), *experiment.damage],
        "facts": _facts(experiment),
        "sections": [{**section, "groups": [_encoded(group) for group in section["groups"]]} for section in sections],
    }
    return render("report.html", values), pictures


def _facts(experiment: ExperimentRecord) -> list[str]:
    readings = experiment.test_readings
    known = f"Test was read {readings} times by it, each entered in the ledger." if readings else ""
    ranking = experiment.ranking
    made = wording.environment_text(ranking.environment) if ranking and ranking.environment else ""
    return [*(ranking.notes if ranking else []), *filter(None, (known, made))]


def _encoded(group: Group) -> dict[str, Any]:
    pictures = [
        {"alt": picture.alt, "caption": picture.caption, "data": base64.b64encode(picture.png).decode()}
        for picture in group.pictures
    ]
    return {"heading": group.heading, "pictures": pictures, "left_out": group.left_out}


def _section(experiment: ExperimentRecord, dataset: str) -> dict[str, Any]:
    ranking, searches = experiment.ranking, experiment.of_dataset(dataset)
    tables = ranking.rankings if ranking else []
    table = next((table for table in tables if table.dataset == dataset), None)
    card = experiment.card(dataset)
    return {
        "heading": wording.headline(table) if table else f"{dataset}: validation so far",
        "protocol": _protocol(table, ranking, searches),
        "card": wording.card_text(card[0], constructed=card[1]) if card else NO_CARD,
        "is_warning": card is None or card[1],
        "results": _results(table, ranking.reference) if table and ranking else [],
        "notes": _notes(table),
        "warnings": table.chance_notes if table else [],
        "failures": wording.failure_lines(table) if table else _failures(searches),
        "searches": [_spent(searches), _found(searches)],
        "groups": _groups(dataset, table, ranking.reference if ranking else None, searches),
        "trials": _trials(searches),
    }


def _protocol(
    table: RankingTable | None, ranking: Ranking | None, searches: Mapping[str, Sequence[SearchRecord]]
) -> str:
    if table and ranking:
        return wording.protocol_text(table, ranking.final_seeds)
    lines = dict.fromkeys(search.protocol for of_label in searches.values() for search in of_label if search.protocol)
    return f"Protocol: {', '.join(lines) or 'told as soon as a trial has ended'}."


def _results(table: RankingTable, reference: str | None) -> list[Grid]:
    """Returns what the terminal prints: the ranking, the folds, and each modality's own accuracy."""
    rows, names = table.rows, wording.modality_names(table)
    headings: tuple[str, ...] = (
        "method",
        "test",
        wording.delta_heading(table, reference),
        "trials",
        "epochs",
        "device-seconds",
    )
    cells: list[tuple[str, ...]] = [
        (row.method, wording.test_text(row), wording.delta_text(row, reference), wording.trials_text(row),
         str(row.epochs), f"{row.device_seconds:.0f}")
        for row in rows
    ]  # fmt: skip
    if any(row.delta and row.delta.word for row in rows):
        words = [row.delta.word or "" if row.delta else "" for row in rows]
        headings, cells = (*headings, "word"), [(*cell, word) for cell, word in zip(cells, words, strict=True)]
    grids = [Grid("Ranking by test accuracy", headings, cells)]
    if table.folds:
        numbers = [f"fold {number}" for number in range(table.folds or 0)]
        grids.append(
            Grid("Test accuracy by fold", ("method", *numbers),
                 [(row.method, *wording.fold_texts(table, row)) for row in rows])
        )  # fmt: skip
    if names:
        own = [(row.method, *(wording.own_text(row.modalities.get(name)) for name in names)) for row in rows]
        grids.append(Grid("Each modality alone, on test", ("method", *names), own))
    if any(row.mistakes for row in table.rows):
        taken = [(row.method, wording.mistakes_text(row)) for row in rows]
        grids.append(Grid("What is most often taken for what, of a class's test samples", ("method", MISTAKES), taken,
                          words=(MISTAKES,)))  # fmt: skip
    return [*grids, *_figures(table), *_classes(table)]


def _figures(table: RankingTable) -> list[Grid]:
    """Returns the other figures on test, and each final model's accuracy; nothing where none is known."""
    names = [name for name in wording.FIGURES if any(name in row.metrics for row in table.rows)]
    if not names:
        return []
    seeds = "each final model" if table.folds is None else "each final model, fold by fold"
    cells: list[tuple[str, ...]] = [
        (row.method, *(wording.figure_text(row, name) for name in names), wording.seeds_text(row)) for row in table.rows
    ]
    headings = ("method", *(wording.FIGURES[name] for name in names), f"test of {seeds}")
    return [Grid("Other figures on test, means over the final models", headings, cells)]


def _classes(table: RankingTable) -> list[Grid]:
    """Returns each class's accuracy, where classes are of unequal size."""
    if not table.classes:
        return []
    methods = [row.method for row in table.rows]
    some, note = by_class.shown(table.classes)
    caption = "Right on test by class, in percent" + (f": {note}" if note else "")
    return [Grid(caption, ("class", "train", "test", *methods), [by_class.cells(row, methods) for row in some])]


def _notes(table: RankingTable | None) -> list[str]:
    if not table:
        return []
    return [*([wording.PROBE_NOTE] if wording.uses_probes(table) else []), *wording.table_notes(table)]


def _failures(searches: Mapping[str, Sequence[SearchRecord]]) -> list[str]:
    return [
        f"{label} {_place(search, trial)} failed: {trial.reason}"
        for label, search, trial in _all_trials(searches)
        if trial.status == "failed"
    ]


def _spent(searches: Mapping[str, Sequence[SearchRecord]]) -> Grid:
    """Returns what each method's search has come to: what is left of it, and what it cost."""
    states = {"stopped early": "stopped", "failed": "failed"}
    if not all(search.finished for of_label in searches.values() for search in of_label):
        states[OPEN] = OPEN
    rows = []
    for label, of_label in searches.items():
        trials = [trial for search in of_label for trial in search.trials]
        counts = [str(sum(trial.status == status for trial in trials)) for status in states.values()]
        planned = sum(search.planned for search in of_label)
        begun = sum(trial.epochs > 0 or trial.status == "failed" for trial in trials)
        rows.append((label, f"{begun} of {planned}", *counts, str(sum(trial.epochs for trial in trials))))
    return Grid("What the searches spent, final models aside", ("method", "trials", *states, "epochs"), rows)


def _found(searches: Mapping[str, Sequence[SearchRecord]]) -> Grid:
    rows = [
        (_of_fold(label, search), f"{best.objective:.1%}", best.name, wording.values_text(best.values))
        for label, of_label in searches.items()
        for search in of_label
        if (best := search.best)
    ]
    return Grid("Best on validation, which chose it", ("method", "validation", "trial", "settings"), rows)


def _groups(
    dataset: str, table: RankingTable | None, reference: str | None, searches: Mapping[str, Sequence[SearchRecord]]
) -> list[Group]:
    intervals = None
    if table and reference:
        intervals = figures.intervals_picture(file_stem(dataset, "intervals"), table, reference)
    return [
        Group("The methods compared", _those(intervals, _budget(dataset, table, searches))),
        _learning(dataset, searches),
        _importances(dataset, searches),
    ]


def _budget(dataset: str, table: RankingTable | None, searches: Mapping[str, Sequence[SearchRecord]]) -> Picture | None:
    ranked = [row.method for row in table.rows] if table else []
    # A method without a curve keeps its place, and so its colour; parts of a row, which has none itself, come last.
    curves: dict[str, NDArray[np.float64]] = {label: np.array([np.nan]) for label in ranked}
    for label, of_label in searches.items():
        of_folds = [best_so_far(values) for search in of_label if (values := search.accuracies())]
        if of_folds:
            curves[label] = mean_curve(of_folds)
    return figures.budget_picture(file_stem(dataset, "budget"), curves, max(map(len, searches.values()), default=1))


def _learning(dataset: str, searches: Mapping[str, Sequence[SearchRecord]]) -> Group:
    pictures = []
    for label, of_label in searches.items():
        trials = [trial for search in of_label for trial in search.trials]
        best = best_of(trials)
        if best:
            pictures.append(figures.learning_picture(file_stem(dataset, "learning", label), label, trials, best))
    return Group("How the trials learned", _those(*pictures))


def _importances(dataset: str, searches: Mapping[str, Sequence[SearchRecord]]) -> Group:
    pictures, left_out = [], []
    for label, of_label in searches.items():
        importance = _importance(of_label)
        if importance.reason:
            left_out.append(f"{label}: not drawn: {importance.reason}.")
        else:
            pictures.append(figures.importance_picture(file_stem(dataset, "importance", label), label, importance))
    return Group("Which settings mattered", pictures, left_out)


def _importance(of_label: Sequence[SearchRecord]) -> Importance:
    """Returns the importance of a method's settings over all its folds, whose own levels do not count."""
    having = [(search.fold, trial) for search in of_label for trial in search.trials
              if trial.objective is not None and trial.values and trial.status != "failed"]  # fmt: skip
    return parameter_importance(
        [trial.values for _, trial in having],
        [trial.objective or 0.0 for _, trial in having],
        [fold for fold, _ in having],
    )


def _trials(searches: Mapping[str, Sequence[SearchRecord]]) -> Grid:
    rows = [
        (f"{label} {_place(search, trial)}", trial.status, str(trial.epochs),
         "" if trial.objective is None else f"{trial.objective:.1%}", wording.values_text(trial.values), trial.reason)
        for label, search, trial in _all_trials(searches)
    ]  # fmt: skip
    return Grid("Every trial", ("trial", "state", "epochs", "validation", "settings", "reason"), rows)


def _all_trials(
    searches: Mapping[str, Sequence[SearchRecord]],
) -> Iterable[tuple[str, SearchRecord, TrialRecord]]:
    for label, of_label in searches.items():
        for search in of_label:
            for trial in search.trials:
                yield label, search, trial


def _place(search: SearchRecord, trial: TrialRecord) -> str:
    return trial.name if search.fold is None else f"fold-{search.fold} {trial.name}"


def _of_fold(label: str, search: SearchRecord) -> str:
    return label if search.fold is None else f"{label}, fold {search.fold}"


def _those(*pictures: Picture | None) -> list[Picture]:
    return [picture for picture in pictures if picture]
