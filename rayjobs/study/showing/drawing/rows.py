"""Figures of one row a method: differences with their intervals, folds and seeds, ranks, differences by data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from markupsafe import Markup

from rayjobs.study.document import Comparison, OverDatasets
from rayjobs.study.showing import wording
from rayjobs.study.showing.drawing.shapes import (
    AXIS_PX,
    LABELS_END,
    PLOT,
    ROW_PX,
    WORDS_AT,
    Figure,
    Scale,
    axis,
    box,
    dot,
    line,
    method_class,
    scale_over,
    text,
)
from rayjobs.study.showing.reading import OfDataset

TOP = 6.0
RANKS = (PLOT[0], 70.0)
"""Where ranks lie, so that a number has room beside the last."""
ACROSS_PX = 9
"""Height of one data set in a row."""


def forest(stem: str, data: OfDataset, labels: Sequence[str]) -> Figure | None:
    """Draws what each method adds to the primary reference, with both intervals, each fold, and the word.

    Args:
        stem: Name of its file.
        data: The data set.
        labels: The study's methods, in its order, which gives the colours.

    Returns:
        None where nothing is compared.
    """
    rows = [score.method for score in data.scores if score.method not in data.references]
    compared, without = data.primary, {score.method: wording.without(score) for score in data.scores}
    if not any(label in compared for label in rows):
        return None
    scale = scale_over(chain([data.margin, -data.margin], *(_extent(each) for each in compared.values())))
    bottom = TOP + ROW_PX * len(rows)
    drawn = [
        box((scale.at(-data.margin), scale.at(data.margin)), (TOP, bottom), "band"),
        *axis(scale, TOP, bottom, f"points more than {wording.shortened(data.reference)}", sign=True),
        line((scale.at(0), TOP), (scale.at(0), bottom), "axis"),
    ]
    for row, label in enumerate(rows):
        y = TOP + ROW_PX * (row + 0.5)
        drawn.append(_label(y, label))
        if label in compared:
            drawn += _difference(compared[label], scale, y, method_class(labels.index(label)))
        else:
            drawn.append(text(WORDS_AT, y, without[label]))
    told = "; ".join(_told(compared[each]) if each in compared else f"{each}: {without[each]}" for each in rows)
    return Figure(
        stem=stem,
        title=f"{data.name}: what each method adds to {data.reference}, in points of test accuracy",
        description=f"{told}.",
        caption=(
            f"Right of 0: more right answers on test than {data.reference}. Thick: the plain 95 % interval, over these "
            "folds. Thin: the corrected one, by which the word is decided; the word allows besides for how many are "
            "compared (Holm), so that such an interval may leave 0 out and the word be undecided. Small rings: single "
            f"folds. Shaded: within {wording.points(data.margin)}, which does not matter. F: failed, no result."
        ),
        height=bottom + AXIS_PX,
        shapes=drawn,
    )


def fold_dots(stem: str, data: OfDataset, labels: Sequence[str]) -> Figure | None:
    """Draws the test accuracy of each method on each fold, and of each seed; None where there is none."""
    rows = data.scores
    values = [value for score in rows for of_fold in (score.folds, *score.seeds) for value in of_fold]
    if not values:
        return None
    scale = scale_over(values)
    bottom = TOP + ROW_PX * len(rows)
    drawn = axis(scale, TOP, bottom, "test accuracy, %")
    for row, score in enumerate(rows):
        y, name = TOP + ROW_PX * (row + 0.5), method_class(labels.index(score.method))
        drawn += [_label(y, score.method), line((PLOT[0], y + 11), (PLOT[1], y + 11), "faint", width=0.7)]
        drawn += [dot(scale.at(value), y + 5, name, 1.6, opacity=0.7) for of_fold in score.seeds for value in of_fold]
        drawn += [dot(scale.at(value), y - 3, name, 3) for value in score.folds]
        if score.mean is not None and wording.known(score.mean):
            drawn.append(line((scale.at(score.mean), y - 9), (scale.at(score.mean), y + 9), "axis", width=2))
        drawn.append(text(WORDS_AT, y, wording.score(score)))
    told = "; ".join(f"{score.method} {_spread(score.folds)}" for score in rows)
    single = "seeds" if data.entry.cross_validated else "seeds of the one split"
    return Figure(
        stem=stem,
        title=f"{data.name}: test accuracy by fold and by seed",
        description=f"{told}.",
        caption=(
            f"Large dots: folds, each the mean of its seeds. Small dots beneath: {single}. Upright line: the mean. "
            "Folds differ in how hard they are, for all methods alike: compare by the differences above."
        ),
        height=bottom + AXIS_PX,
        shapes=drawn,
    )


def critical_differences(stem: str, over: OverDatasets, labels: Sequence[str]) -> Figure | None:
    """Draws mean ranks over data sets, with a bar beside each run of methods no two of whom differ.

    Returns:
        None where there is no diagram.
    """
    if over.cd_bars is None:
        return None
    rows = sorted(over.ranks, key=lambda label: (over.ranks[label], label))
    place = {label: TOP + ROW_PX * (row + 0.5) for row, label in enumerate(rows)}
    scale, bottom = Scale(1, max(len(rows), 2), RANKS), TOP + ROW_PX * len(rows)
    drawn = axis(scale, TOP, bottom, "mean rank, 1 is best")
    for label in rows:
        x, y, name = scale.at(over.ranks[label]), place[label], method_class(labels.index(label))
        drawn += [_label(y, label), line((PLOT[0], y), (x, y), "faint", width=0.7), dot(x, y, name, 4)]
        drawn.append(text(x + 1.5, y - 1, wording.number(over.ranks[label], 2)))
    step = min(2.0, 21.0 / max(len(over.cd_bars), 1))
    for number, bar in enumerate(over.cd_bars):
        ends = [place[label] for label in bar]
        x = 79 + step * number
        drawn.append(line((x, min(ends) - 5), (x, max(ends) + 5), "axis", width=3, round_ends=True))
    bars = "; ".join(", ".join(sorted(bar, key=rows.index)) for bar in over.cd_bars) or "none"
    ranks = "; ".join(f"{label} {over.ranks[label]:.2f}" for label in rows)
    return Figure(
        stem=stem,
        title=f"Mean ranks over {len(over.units)} data sets, and which methods do not differ",
        description=f"Mean ranks: {ranks}. Not told apart: {bars}.",
        caption=(
            "The critical-difference diagram, turned so that every label can be read. A bar to the right stands beside "
            "methods no two of whom differ (Wilcoxon's signed-rank test, Holm)."
        ),
        height=bottom + AXIS_PX,
        shapes=drawn,
    )


def differences_by_set(
    stem: str, of_sets: Mapping[str, Mapping[str, Comparison]], rows: Sequence[str], labels: Sequence[str]
) -> Figure | None:
    """Draws each method's difference from the reference on each data set, with the plain interval.

    Args:
        stem: Name of its file.
        of_sets: Data set -> label -> its comparison with the primary reference.
        rows: Labels to show.
        labels: The study's methods, in its order.

    Returns:
        None where nothing is compared.
    """
    shown = [label for label in rows if any(label in compared for compared in of_sets.values())]
    if not shown:
        return None
    extents = [_extent(each, corrected=False) for compared in of_sets.values() for each in compared.values()]
    scale = scale_over(chain([0.0], *extents))
    height = ACROSS_PX * len(of_sets) + 8
    bottom = TOP + height * len(shown)
    drawn = [*axis(scale, TOP, bottom, "points more than the reference", sign=True)]
    drawn.append(line((scale.at(0), TOP), (scale.at(0), bottom), "axis"))
    for row, label in enumerate(shown):
        top, name = TOP + height * row, method_class(labels.index(label))
        drawn += [_label(top + height / 2, label), line((0, top), (100, top), "faint", width=0.7)]
        for number, compared in enumerate(of_sets.values(), start=1):
            y = top + 4 + ACROSS_PX * (number - 0.5)
            drawn += _one_set(compared.get(label), number, scale, y, name)
    numbered = ", ".join(f"{number} {name}" for number, name in enumerate(of_sets, start=1))
    told = "; ".join(
        f"{label}: " + ", ".join(f"{name} {wording.signed(of[label].d)}" for name, of in of_sets.items() if label in of)
        for label in shown
    )
    return Figure(
        stem=stem,
        title="Difference from the reference on each data set",
        description=f"{told}.",
        caption=f"Lines: plain 95 % intervals. Data sets, from above: {numbered}.",
        height=bottom + AXIS_PX,
        shapes=drawn,
    )


def _label(y: float, label: str) -> Markup:
    return text(LABELS_END, y, wording.shortened(label), anchor="end", whole=label)


def _extent(comparison: Comparison, *, corrected: bool = True) -> list[float]:
    ends = [comparison.plain, comparison.corrected if corrected else None]
    values = [comparison.d, *(comparison.folds if corrected else ())]
    return [value for value in chain(values, *filter(None, ends)) if wording.known(value)]


def _difference(comparison: Comparison, scale: Scale, y: float, name: str) -> list[Markup]:
    drawn = [dot(scale.at(value), y + 7, name, 1.8, hollow=True, opacity=0.8) for value in comparison.folds]
    for ends, width in ((comparison.corrected, 1.2), (comparison.plain, 4.0)):
        if ends and all(map(wording.known, ends)):
            drawn.append(line((scale.at(ends[0]), y), (scale.at(ends[1]), y), name, width=width))
    drawn.append(dot(scale.at(comparison.d), y, name, 4.5))
    shown = wording.short_word(comparison.word) if comparison.word else wording.MISSING
    return [*drawn, text(WORDS_AT, y, shown, whole=wording.word(comparison))]


def _one_set(comparison: Comparison | None, number: int, scale: Scale, y: float, name: str) -> list[Markup]:
    if comparison is None:
        return [text(WORDS_AT, y, f"{number}: {wording.MISSING}")]
    drawn = []
    if comparison.plain and all(map(wording.known, comparison.plain)):
        low, high = comparison.plain
        drawn.append(line((scale.at(low), y), (scale.at(high), y), name, width=1.5))
    return [*drawn, dot(scale.at(comparison.d), y, name, 3)]


def _told(comparison: Comparison) -> str:
    plain, corrected = wording.interval(comparison.plain), wording.interval(comparison.corrected)
    word = comparison.word or "no word"
    return f"{comparison.a} {wording.signed(comparison.d)}, plain {plain}, corrected {corrected}: {word}"


def _spread(folds: Sequence[float]) -> str:
    return f"{min(folds):.1f} to {max(folds):.1f}" if folds else "without a result"
