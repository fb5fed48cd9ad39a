r"""LaTeX tables of a study, for `\usepackage{booktabs}`: bold for better alone, a dagger for equivalent, F for failed.

A failed method has no number, a highest number is not marked, and the caption says which interval stands there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmcore.metric_names import CALIBRATION_ERROR, MACRO_F1
from rayjobs.study.document import Comparison, OverDatasets, ScoreEntry, StudyDocument
from rayjobs.study.showing import wording
from rayjobs.study.showing.reading import OfDataset, of_datasets

SPECIALS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "{''}", "δ": r"$\delta$", "Δ": r"$\Delta$", "±": r"$\pm$", "≥": r"$\ge$",
    "≤": r"$\le$", "–": "--", "…": r"\dots{}", "→": r"$\to$", "α": r"$\alpha$", "σ": r"$\sigma$", "×": r"$\times$",
}  # fmt: skip
DAGGER = r"$^{\dagger}$"


def escaped(text: str) -> str:
    """Returns a text as LaTeX sets it, whatever stands in it, in one line."""
    return re.sub(r"[\s\x00-\x1f]+", " ", "".join(SPECIALS.get(each, each) for each in text))


def dataset_table(data: OfDataset, stem: str) -> str:
    """Returns the table of one data set: accuracy, difference with its corrected interval, word, other measures.

    Args:
        data: The data set.
        stem: Of the table's label.
    """
    names = wording.modalities([score.metrics for score in data.scores])
    headings = ["Method", "Accuracy", r"$\Delta$ (95\,\%)", "Word", "Macro-F1", "ECE", *map(escaped, names)]
    rows = [
        [escaped(score.method), _accuracy(score, data.primary.get(score.method)), *_difference(data, score),
         *_measures(score, names)]
        for score in data.scores
    ]  # fmt: skip
    caption = (
        f"{escaped(data.name)}: test accuracy in percent, {_half_width(data)}; $\\Delta$: points more than "
        f"{escaped(data.reference)}, with {_decides(data)}; the modalities by themselves in percent. {_terms(data)}"
    )
    return _table(caption, f"tab:{stem}", "llrl" + "r" * (len(headings) - 4), headings, rows)


def summary_table(document: StudyDocument) -> str:
    """Returns the table of all data sets: a column each, accuracy alone."""
    datasets = of_datasets(document)
    rows = []
    for method in document.methods:
        cells = []
        for data in datasets:
            score = next((score for score in data.scores if score.method == method.label), None)
            cells.append(_accuracy(score, data.primary.get(method.label)) if score else "--")
        rows.append([escaped(method.label), *cells])
    own = " ".join(f"{escaped(data.name)}: {_terms(data, marks=False)}" for data in datasets)
    caption = (
        f"Test accuracy in percent, $\\pm$ half its plain 95\\,\\% interval over folds where there are three or more; "
        f"words against {escaped(document.lock.reference)}. {own} {MARKS}"
    )
    headings = ["Method", *(escaped(data.name) for data in datasets)]
    return _table(caption, "tab:summary", "l" + "l" * len(datasets), headings, rows)


def ranks_table(over: OverDatasets, labels: Sequence[str]) -> str:
    """Returns the table over data sets: mean ranks, probabilities and p against the reference."""
    pairs = {pair.a: pair for pair in over.pairs}
    rows = []
    for label in sorted(labels, key=lambda name: (over.ranks.get(name, float("inf")), name)):
        pair = pairs.get(label)
        bayes = escaped(wording.three(pair.bayes)) if pair else ""
        p = _p(pair.p_holm) if pair else ""
        rows.append([escaped(label), escaped(wording.number(over.ranks.get(label), 2)), bayes, p])
    caption = (
        f"Mean ranks over {len(over.units)} data sets, 1 is best; probabilities of worse by more than $\\delta$, "
        "within it, better by more (Bayesian signed ranks); p of Wilcoxon's signed ranks, corrected by Holm."
    )
    headings = ["Method", "Mean rank", "Worse / within / better", "$p$"]
    return _table(caption, "tab:ranks", "lrrr", headings, rows)


MARKS = (
    r"\textbf{Bold}: better; $^{\dagger}$: equivalent within $\delta$; unmarked: neither was shown, or worse; "
    "F: failed. The highest number is not marked as such."
)


def _terms(data: OfDataset, *, marks: bool = True) -> str:
    lock = data.document.lock
    folds = f"$k = {len(data.blocks)}$ folds" if data.entry.cross_validated else "one split"
    trials = f"$T = {lock.trials}$ trials, " if lock.trials else ""
    terms = (
        f"{folds}, $S = {lock.seeds}$ seeds, {trials}$\\delta = {data.margin:g}$, $\\alpha = {lock.alpha:g}$, Holm "
        f"over {data.family_size}."
    )
    return f"{terms} {MARKS}" if marks else terms


def _half_width(data: OfDataset) -> str:
    if data.entry.cross_validated:
        return r"mean $\pm$ half its plain 95\,\% interval over folds ($t_{k-1}$)"
    return "mean over seeds"


def _decides(data: OfDataset) -> str:
    if data.entry.cross_validated:
        return r"the 95\,\% interval corrected for the folds' shared samples (Nadeau and Bengio)"
    return r"the paired bootstrap's 95\,\% interval, for these training data"


def _accuracy(score: ScoreEntry, comparison: Comparison | None) -> str:
    if score.status != "done" or not wording.known(score.mean):
        return escaped(wording.without(score))
    text = escaped(wording.score(score))
    word = comparison.word if comparison else None
    if wording.is_better(word):
        text = rf"\textbf{{{text}}}"
    return text + (DAGGER if wording.is_equivalent(word) else "")


def _difference(data: OfDataset, score: ScoreEntry) -> tuple[str, str]:
    """Returns the difference with the interval that decides, and the word."""
    comparison = data.primary.get(score.method)
    if comparison is None:
        return "", escaped(wording.without_word(score, data.reference, data.references))
    ends = comparison.corrected or comparison.plain
    shown = f" {wording.interval(ends)}" if ends else ""
    return _minus(f"{wording.signed(comparison.d)}{shown}"), escaped(comparison.word or "")


def _measures(score: ScoreEntry, names: Sequence[str]) -> list[str]:
    if score.status != "done":
        return [escaped(wording.without(score))] * (2 + len(names))
    values = [(score.metrics.get(MACRO_F1), 3), (score.metrics.get(CALIBRATION_ERROR), 3)]
    values += [(score.metrics.get(name), 1) for name in names]
    return [escaped(wording.number(value, decimals)) for value, decimals in values]


def _p(value: float | None) -> str:
    return escaped(wording.p_value(value))


def _minus(text: str) -> str:
    """Returns numbers with a true minus; brackets are kept from being taken for an option of the line before."""
    return "".join("$-$" if each == "-" else "{[}" if each == "[" else each for each in escaped(text))


def _table(caption: str, label: str, columns: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [" & ".join(row) + r" \\" for row in rows]
    return "\n".join([
        r"\begin{table}", r"\centering", r"\small", rf"\caption{{{caption}}}", rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{{columns}}}", r"\toprule", " & ".join(headings) + r" \\", r"\midrule", *lines,
        r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
    ])  # fmt: skip
