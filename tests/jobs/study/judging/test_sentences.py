"""The answer in words says what the words say, and no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from study_files import MadeData, MadeStudy, write_study

from rayjobs.study.document import OverDatasets, PairOverSets
from rayjobs.study.judging.blocks import blocks_of
from rayjobs.study.judging.comparisons import comparisons_of
from rayjobs.study.judging.power import power_of
from rayjobs.study.judging.sentences import sentence_of, sentence_over
from rayjobs.study.results import load_study

REFERENCE = [0.70, 0.74, 0.78, 0.72, 0.76, 0.70]
GOOD = [0.90, 0.92, 0.98, 0.92, 0.94, 0.90]
ALIKE = [0.70, 0.75, 0.78, 0.72, 0.75, 0.70]
UNSURE = [0.66, 0.78, 0.78, 0.76, 0.76, 0.72]
POOR = [0.50, 0.56, 0.58, 0.52, 0.54, 0.50]


def said(tmp_path: Path, **made: Any) -> str:
    study = {"seeds": 2, "margin": 2.5, **made, "methods": {**made["methods"], "ensemble-tuned": REFERENCE}}
    results = load_study(write_study(tmp_path / "results" / "study", MadeStudy(**study)))
    comparisons = comparisons_of(results)
    (blocks,) = blocks_of(results)
    return sentence_of(blocks, comparisons, power_of(blocks, comparisons))


CASES = {
    "On made aug is better than ensemble-tuned; iprm is equivalent within 2.5 points; ogm is worse.": {
        "methods": {"aug": GOOD, "iprm": ALIKE, "ogm": POOR}
    },
    "On made no method is better than ensemble-tuned by 2.5 points; iprm is equivalent within 2.5 points; ogm is "
    "worse.": {"methods": {"iprm": ALIKE, "ogm": POOR}},
    "On made no method that finished is better than ensemble-tuned by 2.5 points; iprm is equivalent within 2.5 "
    "points; ogm failed.": {"methods": {"iprm": ALIKE, "ogm": POOR}, "failed": {("made", "ogm", 1): "loss nan"}},
    "On made nothing is decided: 3 folds, and under 5 nothing is; a cross-validation of 5 folds or more would do.": {
        "methods": {"iprm": ALIKE}, "data": [MadeData(folds=3)]
    },
    "On made nothing is decided: 3 folds, and under 5 nothing is; it takes 2 more groups, which the data does not "
    "have.": {"methods": {"iprm": ALIKE}, "data": [MadeData(folds=3, groups=1)]},
    "On made nothing is decided: 2 folds, and under 5 nothing is; 3 more folds of the 6 there are would do.": {
        "methods": {"iprm": ALIKE}, "folds": [0, 1]
    },
    "On made nothing is decided so far (4 of 6 folds): 4 folds, and under 5 nothing is; 6 are planned.": {
        "methods": {"iprm": ALIKE}, "open": frozenset({("made", "iprm", 4), ("made", "iprm", 5)})
    },
    "On made so far (5 of 6 folds) aug is better than ensemble-tuned.": {
        "methods": {"aug": GOOD}, "open": frozenset({("made", "aug", 5)})
    },
    "On made nothing can be said yet: none of 6 folds is finished by every method.": {
        "methods": {"aug": GOOD}, "open": frozenset(("made", "aug", fold) for fold in range(6))
    },
    "On made nothing was compared: ensemble-tuned failed on 1 of 6 folds (2): no trial of the search succeeded; "
    "trial-001: loss nan.": {"methods": {"aug": GOOD}, "failed": {("made", "ensemble-tuned", 2): "loss nan"}},
    "On made nothing was compared: no method has a result.": {
        "methods": {"aug": GOOD}, "failed": {("made", "aug", 2): "loss nan"}
    },
    "On made, for these training data, aug is better than ensemble-tuned.": {
        "methods": {"aug": GOOD}, "data": [MadeData(folds=None)]
    },
    "On made, for these training data, no method is shown to be better than ensemble-tuned; aug is undecided; no "
    "choice of other groups was seen: folds over them (--protocol cv) could decide.": {
        "methods": {"aug": GOOD}, "data": [MadeData(folds=None, groups=10)]
    },
    "On made nothing is decided: 5 test clusters are too few for any word; 6 or more, or folds (--protocol cv), could "
    "decide.": {"methods": {"aug": GOOD}, "data": [MadeData(folds=None, groups=5)]},
}  # fmt: skip


@pytest.mark.parametrize("sentence", CASES)
def test_a_data_set(tmp_path: Path, sentence: str) -> None:
    assert said(tmp_path, **CASES[sentence]) == sentence


def test_what_is_undecided_is_never_called_no_better_by_the_margin(tmp_path: Path) -> None:
    sentence = said(tmp_path, methods={"iprm": UNSURE, "ogm": ALIKE}, data=[MadeData(groups=1)], margin=2)
    start, _, shown = sentence.partition("; 6 folds show differences from ")
    assert start == (
        "On made no method is shown to be better than ensemble-tuned; ogm is equivalent within 2 points; iprm is "
        "undecided"
    )
    now, _, more = shown.partition(" points on; 6 more groups could show ")
    assert float(now) > float(more.removesuffix(" points.")) > 2


def test_many_methods_are_counted(tmp_path: Path) -> None:
    sentence = said(tmp_path, methods={f"m{number}": GOOD for number in range(6)}, folds=[0, 1, 2, 3, 4])
    assert sentence == "On made m0, m1, m2 and 3 more are better than ensemble-tuned."


def test_over_data_sets() -> None:
    def pair(label: str, p: float | None, sign: int) -> PairOverSets:
        differences = {f"set{number}": sign * 1.0 for number in range(8)}
        return PairOverSets(a=label, b="joint", differences=differences, bayes=None, p=p, p_holm=p, note="")

    over = OverDatasets(
        units=[f"set{number}" for number in range(8)], left_out={}, friedman=None, ranks={}, cd_bars=None,
        pairs=[pair("aug", 0.01, 1), pair("ogm", 0.02, -1), pair("iprm", 0.3, 1)], profiles={}, needed=8, note="",
    )  # fmt: skip
    assert sentence_over(over, "joint", 0.05) == ["Over 8 data sets aug is better than joint; ogm is worse than joint."]
    none = replace(over, pairs=over.pairs[2:])
    assert sentence_over(none, "joint", 0.05) == ["Over 8 data sets no method is shown to differ from joint."]
    few = replace(over, units=over.units[:3])
    assert sentence_over(few, "joint", 0.05) == ["3 data sets are too few for a test over them: 8 would do."]
    assert sentence_over(None, "joint", 0.05) == []
