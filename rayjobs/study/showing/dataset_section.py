"""The page's section of one data set: what each method reaches, what may be said of it, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from mmcore.metric_names import CALIBRATION_ERROR, MACRO_F1
from rayjobs.reporting import wording as search_wording
from rayjobs.study.document import CellEntry, Comparison, ScoreEntry
from rayjobs.study.showing import wording
from rayjobs.study.showing.blocks import Block, Details, Heading, Note, Section, split_columns
from rayjobs.study.showing.drawing.curves import COSTS, budget_figure, expected_figure, found
from rayjobs.study.showing.drawing.rows import fold_dots, forest
from rayjobs.study.showing.reading import Family, OfDataset
from rayjobs.templates import Grid

MOST_FOLDS, MOST_FOLDS_OF_SEEDS = 12, 5
"""Folds in one table, so that paper holds it."""
WORD = ("word",)
MARKED = 0.75
"""A share of folds won from here on is marked."""


def dataset_section(data: OfDataset, stem: str, labels: Sequence[str]) -> Section:
    """Returns the section of a data set.

    Args:
        data: The data set.
        stem: Begins the names of its figures' files.
        labels: The study's methods, in its order, which gives the colours.
    """
    blocks: list[Block] = [Note(_protocol(data)), _card(data)]
    if not data.scores:
        blocks.append(Note("No fold is finished by every method yet: there is nothing to compare.", "warning"))
    blocks += [*_compared(data, stem, labels), *_folds(data, stem, labels), *_others(data)]
    blocks += [*_budgets(data, stem, labels), *_noise(data)]
    return Section(f"data-{data.number}", data.name, blocks)


def _protocol(data: OfDataset) -> str:
    entry, lock = data.entry, data.document.lock
    units = f"{entry.groups} groups" if entry.groups else "samples"
    finals = "final model" if lock.seeds == 1 else "final models"
    scope = "" if entry.cross_validated else " One split: what follows is for these training data."
    return (
        f"Protocol: {entry.protocol}; {wording.folds_text(data.blocks)} of {len(entry.folds)}, {entry.n:,} test "
        f"samples, {lock.seeds} {finals} a cell, split by {units}. To answer the most frequent class always is right "
        f"in {wording.number(entry.chance)}\u00a0%. δ = {wording.points(data.margin)}, α = {lock.alpha:g}.{scope}"
    )


def _card(data: OfDataset) -> Note:
    entry = data.entry
    text = search_wording.card_text(entry.card, constructed=entry.constructed)
    return Note(text, "warning" if entry.constructed else "")


def _compared(data: OfDataset, stem: str, labels: Sequence[str]) -> list[Block]:
    if not data.scores:
        return []
    figure = forest(f"{stem}-differences", data, labels)
    measures = _measures(data)
    return [
        Heading(f"Against {data.reference}"),
        _main(data),
        *(Note(text) for text in _comparison_notes(data.primary.values())),
        *(Note(text, "failure") for score in data.scores if (text := wording.why_without(score))),
        *([figure] if figure else []),
        *([measures] if measures else []),
        *_tests(data),
    ]


def _main(data: OfDataset) -> Grid:
    headings = ("method", "accuracy", "Δ", "plain 95\u00a0%", "corrected 95\u00a0%", "word", "p\u00a0(Holm)",
                "worse / within / better")  # fmt: skip
    rows = [(score.method, wording.score(score), *_against(data, score)) for score in data.scores]
    caption = (
        "Test accuracy in percent, mean and half its plain 95 % interval over folds; Δ: points more than "
        f"{data.reference}; the chances of worse by more than δ, within it, and better by more (δ = "
        f"{wording.points(data.margin)})"
    )
    return Grid(caption, headings, rows, WORD)


def _against(data: OfDataset, score: ScoreEntry) -> Sequence[str]:
    """Returns what stands in the main table after a method's own accuracy."""
    comparison = data.primary.get(score.method)
    if comparison is None:
        return ("", "", "", wording.without_word(score, data.reference, data.references), "", "")
    return (*_estimate(comparison), marked_word(comparison.word), wording.p_value(comparison.p_holm),
            wording.three(comparison.bayes))  # fmt: skip


def _estimate(comparison: Comparison) -> tuple[str, str, str]:
    return wording.signed(comparison.d), wording.interval(comparison.plain), wording.interval(comparison.corrected)


def marked_word(word: str | None) -> str:
    """Returns a word for a cell: better is bold, and nothing else on the page."""
    if not word:
        return wording.MISSING
    return Markup("<strong>{}</strong>").format(word) if wording.is_better(word) else word


def _comparison_notes(comparisons: Iterable[Comparison]) -> list[str]:
    notes: dict[str, list[str]] = {}
    for each in comparisons:
        if each.note:
            notes.setdefault(each.note, []).append(each.a)
    return [f"{', '.join(labels)}: {note}." for note, labels in notes.items()]


def _measures(data: OfDataset) -> Grid | None:
    """Returns the other measures: macro-F1, calibration, each modality's own accuracy."""
    names = wording.modalities([score.metrics for score in data.scores])
    if not any(score.metrics for score in data.scores):
        return None
    headings = ("method", "macro-F1", "calibration error", *(f"{name} alone, %" for name in names))
    rows = [(score.method, *_metrics(score, names)) for score in data.scores]
    return Grid("Other measures on test, means over folds and seeds: no word is said of them", headings, rows)


def _metrics(score: ScoreEntry, names: Sequence[str]) -> list[str]:
    if score.status != "done":
        return [wording.without(score)] * (2 + len(names))
    shares = [wording.number(score.metrics.get(name), 3) for name in (MACRO_F1, CALIBRATION_ERROR)]
    return [*shares, *(wording.number(score.metrics.get(name)) for name in names)]


def _tests(data: OfDataset) -> list[Block]:
    """Returns every p, and what the spread of the differences is made of."""
    rows = [data.primary[score.method] for score in data.scores if score.method in data.primary]
    if not rows:
        return []
    p = wording.p_value
    tests = Grid(
        f"p of each question, alone and corrected over {data.family_size} (Holm): different? equivalent? not worse?",
        ("method", "different", "Holm", "equivalent", "Holm", "not worse, Holm", "folds won"),
        [(each.a, p(each.p), p(each.p_holm), p(each.p_tost), p(each.p_tost_holm), p(each.p_not_worse_holm), _won(each))
         for each in rows],
    )  # fmt: skip
    spread = Grid(
        "Where the spread comes from: deviation over folds in points, variance that folds and seeds add, and samples "
        "that one alone answered rightly",
        ("method", "deviation", "by folds", "by seeds", "what narrows it", "method alone", "reference alone"),
        [(each.a, wording.number(each.s_d, 2), *_variance(each), _narrowing(each), wording.number(each.only_a, 0),
          wording.number(each.only_b, 0)) for each in rows],
        ("what narrows it",),
    )  # fmt: skip
    return [Details(f"How each word against {data.reference} was decided", [tests, spread])]


def _won(comparison: Comparison) -> str:
    share = comparison.p_win
    return wording.percent(share) + (" *" if share is not None and share >= MARKED else "")


def _variance(comparison: Comparison) -> tuple[str, str]:
    if comparison.variance is None:
        return wording.MISSING, wording.MISSING
    return wording.number(comparison.variance[0], 2), wording.number(comparison.variance[1], 2)


def _narrowing(comparison: Comparison) -> str:
    return {"fold": "one more fold", "seed": "one more seed"}.get(
        comparison.narrows, comparison.narrows or wording.MISSING
    )


def _folds(data: OfDataset, stem: str, labels: Sequence[str]) -> list[Block]:
    having = [score for score in data.scores if score.folds]
    if not having:
        return []
    blocks = data.blocks
    names = [f"fold {fold}" for fold in blocks] if data.entry.cross_validated else ["test"]
    means = Grid(
        "Test accuracy by fold, mean over seeds, %",
        ("method", *names),
        [(score.method, *([wording.number(value) for value in score.folds] or [wording.without(score)] * len(names)))
         for score in data.scores],
    )  # fmt: skip
    seeds = Grid(
        "Test accuracy of each seed, %",
        ("method", *names),
        [(score.method, *([", ".join(map(wording.number, of_fold)) for of_fold in score.seeds]
                          or [wording.without(score)] * len(names))) for score in data.scores],
    )  # fmt: skip
    figure = fold_dots(f"{stem}-folds", data, labels)
    parts = [*split_columns(means, MOST_FOLDS), *split_columns(seeds, MOST_FOLDS_OF_SEEDS)]
    return [Heading("Folds and seeds"), *([figure] if figure else []), Details("Folds and seeds in numbers", parts)]


def _others(data: OfDataset) -> list[Block]:
    others = [family for family in data.families if not family.is_primary]
    if not others:
        return []
    note = "Exploratory: each of these is corrected by itself, and the study was not made to decide them."
    folded = [Details(_title(family), [_family(family)]) for family in others]
    return [Heading("Against other references"), Note(note), *folded]


def _title(family: Family) -> str:
    fitted = " of the same models, their heads summed by weights fitted on validation" if family.name == "fit" else ""
    return f"Against {family.reference}{fitted}"


def _family(family: Family) -> Grid:
    headings = (
        "method",
        "Δ",
        "plain 95\u00a0%",
        "corrected 95\u00a0%",
        "word",
        "p\u00a0(Holm)",
        "worse / within / better",
    )
    rows = [
        (each.a, *_estimate(each), marked_word(each.word), wording.p_value(each.p_holm), wording.three(each.bayes))
        for each in family.comparisons.values()
    ]
    return Grid(f"Difference to {family.reference}, in points", headings, rows, WORD)


def _budgets(data: OfDataset, stem: str, labels: Sequence[str]) -> list[Block]:
    if not data.budgets:
        return []
    scores = {score.method: score for score in data.scores}
    rows = []
    for each in data.budgets:
        steps, score = found(each, "trials"), scores.get(each.method)
        best = wording.number(float(steps.mean[-1])) if steps else wording.MISSING
        spread = f"{steps.low[-1]:.1f} to {steps.high[-1]:.1f}" if steps else wording.MISSING
        rows.append((each.method, str(each.trials), wording.count(each.epochs), f"{each.device_seconds:,.0f}",
                     wording.count(score.parameters if score else None), best, spread,
                     wording.number(each.at_common_cost)))  # fmt: skip
    table = Grid(
        "What was spent on all folds, final models counted, and the best on validation it found, %, mean over folds",
        ("method", "trials a cell", "epochs", "device-seconds", "parameters", "validation", "folds", "at least cost"),
        rows,
    )
    note = "At least cost: the best on validation once as many device-seconds were spent as the cheapest method spent."
    lacking = [each.method for each in data.budgets if found(each, "trials") is None]
    note += f" {NO_CURVE}: {', '.join(lacking)}." if lacking else ""
    figures = [budget_figure(f"{stem}-{cost}", data, labels, cost) for cost in COSTS]
    figures.append(expected_figure(f"{stem}-expected", data, labels))
    why = [] if figures[-1] else [Note(NOT_EXCHANGEABLE)]
    return [Heading("Budgets"), table, Note(note), *filter(None, figures), *why, *_incumbents(data)]


def _incumbents(data: OfDataset) -> list[Block]:
    """Returns what each search had after 1, 2, 4, ... trials: the numbers of the last figure."""
    curves = {each.method: steps for each in data.budgets if (steps := found(each, "trials"))}
    if not curves:
        return []
    most = max(float(steps.costs[-1]) for steps in curves.values())
    numbers = [2**power for power in range(math.ceil(math.log2(most)))] + [int(most)]
    rows = [(label, *(wording.number(steps.at(trials)) for trials in numbers)) for label, steps in curves.items()]
    grid = Grid("Best on validation after so many trials, %, mean over folds", ("method", *map(str, numbers)), rows)
    return [Details("The searches in numbers", split_columns(grid, MOST_FOLDS))]


NO_CURVE = "Without a curve, since some fold has no search of the whole model that found anything"
NOT_EXCHANGEABLE = (
    "The expected best of fewer trials is not drawn: it needs trials that know nothing of each other and run to their "
    "end (random search or a grid, none stopped early)."
)


def _noise(data: OfDataset) -> list[Block]:
    blocks: list[Block] = []
    best = data.best_of
    if best:
        chosen = {label: share for label, share in best.chosen.items() if wording.known(share)}
        blocks += [
            Note(_best_of_text(best.observed, best.corrected, len(chosen))),
            Grid(f"How often each method is the best, with the {best.units} drawn again",
                 ("method", "best in"), [(label, wording.percent(share)) for label, share in chosen.items()]),
        ]  # fmt: skip
    having = [cell for cell in data.cells if cell.shrinkage]
    if having:
        folds = sorted({cell.fold for cell in having})
        names = dict.fromkeys(cell.method for cell in having)
        table = Grid(
            "What the best trial's validation accuracy fell by when it was trained again, in points (in brackets: what "
            "noise alone gives; ! more than that: the search fits its validation samples)",
            ("method", *(f"fold {fold}" for fold in folds)),
            [(label, *(_fall(having, label, fold) for fold in folds)) for label in names],
        )  # fmt: skip
        blocks.append(Details("Luck inside each search", split_columns(table, MOST_FOLDS)))
    return [Heading("Luck in choosing"), *blocks] if blocks else []


def _best_of_text(observed: float, corrected: float | None, among: int) -> str:
    text = f"The best of {among} methods reaches {wording.number(observed)} %"
    if corrected is None or not wording.known(corrected):
        return f"{text}; what that is worth where it was not chosen by cannot be told from one fold."
    return f"{text}; chosen on some samples and scored on the others the best reaches {wording.number(corrected)} %."


def _fall(cells: Sequence[CellEntry], label: str, fold: int) -> str:
    found_cell = next((cell for cell in cells if (cell.method, cell.fold) == (label, fold)), None)
    entry = found_cell.shrinkage if found_cell else None
    if entry is None:
        return wording.MISSING
    noise = f" ({wording.number(entry.by_noise)})" if wording.known(entry.by_noise) else ""
    return wording.signed(entry.fall) + noise + (" !" if entry.fits_validation else "")
