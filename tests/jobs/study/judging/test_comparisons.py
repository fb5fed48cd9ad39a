"""Comparisons against plain loops over the same files, and the rules for studies that are no good six folds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from study_files import MadeData, MadeStudy, Place, write_study

from mmcore.errors import DataError
from rayjobs.study.document import Comparison
from rayjobs.study.judging.comparisons import comparisons_of
from rayjobs.study.results import StudyResults, load_study

REFERENCE = [0.70, 0.74, 0.78, 0.72, 0.76, 0.70]
GOOD = [0.90, 0.92, 0.98, 0.92, 0.94, 0.90]
ALIKE = [0.70, 0.75, 0.78, 0.72, 0.75, 0.70]
UNSURE = [0.60, 0.84, 0.78, 0.82, 0.76, 0.80]
POOR = [0.50, 0.56, 0.58, 0.52, 0.54, 0.50]


def loaded(tmp_path: Path, **made: Any) -> StudyResults:
    return load_study(write_study(tmp_path / "results" / "study", MadeStudy(**{"seeds": 2, **made})))


def judged(tmp_path: Path, **made: Any) -> dict[str, Comparison]:
    """Label -> its comparison with the primary reference, of a study of one data set."""
    return {each.a: each for each in comparisons_of(loaded(tmp_path, **made)) if each.family == "primary"}


def test_figures_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    methods = {"aug": UNSURE, "iprm": GOOD, "ensemble-tuned": REFERENCE, "joint": POOR}
    results = loaded(tmp_path, methods=methods, seeds=3, seed_spread=0.01, margin=2.0)
    found = comparisons_of(results)
    assert [(each.a, each.b, each.family) for each in found] == [
        ("aug", "ensemble-tuned", "primary"),
        ("iprm", "ensemble-tuned", "primary"),
        ("aug", "joint", "joint"),
        ("iprm", "joint", "joint"),
    ]
    ps = {}
    for each in found[:2]:
        differences, alone = [], [0.0, 0.0]
        for mine, theirs in zip(results.of("made", each.a), results.of("made", each.b), strict=True):
            sums = [0.0, 0.0]
            for a, b in zip(mine.finals, theirs.finals, strict=True):
                for x, y in zip(a.final.correct, b.final.correct, strict=True):
                    sums[0] += x / 300
                    sums[1] += y / 300
                    alone[0] += (x and not y) / 3
                    alone[1] += (y and not x) / 3
            differences.append(100 * (sums[0] - sums[1]))
        d, s = np.mean(differences), np.std(differences, ddof=1)
        plain, error = s / np.sqrt(6), s * np.sqrt(1 / 6 + 1 / 4)
        quantile = stats.t.ppf(0.975, 5)
        assert (each.k, each.rho) == (6, pytest.approx(1 / 4))
        assert (each.d, each.s_d) == (pytest.approx(d), pytest.approx(s))
        assert each.folds == pytest.approx(differences)
        assert each.plain == pytest.approx((d - quantile * plain, d + quantile * plain))
        assert each.corrected == pytest.approx((d - quantile * error, d + quantile * error))
        assert each.p == pytest.approx(2 * stats.t.sf(abs(d) / error, 5))
        tost = max(stats.t.sf((d + 2) / error, 5), stats.t.cdf((d - 2) / error, 5))
        assert each.p_tost == pytest.approx(tost)
        assert each.bayes == pytest.approx(
            (stats.t.cdf((-2 - d) / error, 5), 1 - stats.t.cdf((-2 - d) / error, 5) - stats.t.sf((2 - d) / error, 5),
             stats.t.sf((2 - d) / error, 5)), abs=1e-12,
        )  # fmt: skip
        assert each.p_win == np.mean([(x > 1e-9) + (abs(x) < 1e-9) / 2 for x in differences])
        assert (each.only_a, each.only_b) == pytest.approx(tuple(alone))
        ps[each.a] = each.p
    first, last = sorted(ps, key=lambda label: ps[label] or 0)
    by_label = {each.a: each for each in found[:2]}
    assert by_label[first].p_holm == pytest.approx(2 * ps[first])
    assert by_label[last].p_holm == pytest.approx(max(2 * ps[first], ps[last]))


def test_words_are_in_points(tmp_path: Path) -> None:
    methods = {"good": GOOD, "alike": ALIKE, "unsure": UNSURE, "poor": POOR, "ensemble-tuned": REFERENCE}
    found = judged(tmp_path, methods=methods, margin=2.5)
    assert {label: each.word for label, each in found.items()} == {
        "good": "better",
        "alike": "equivalent within 2.5 points",
        "unsure": "undecided",
        "poor": "worse",
    }


def test_a_margin_is_a_data_sets_own(tmp_path: Path) -> None:
    data = [MadeData(), MadeData(name="other", margin=0.1)]
    results = loaded(tmp_path, methods={"alike": ALIKE, "ensemble-tuned": REFERENCE}, data=data, margin=2.5)
    words = {each.dataset: each.word for each in comparisons_of(results)}
    assert words == {"made": "equivalent within 2.5 points", "other": "undecided"}


def test_who_failed_leaves_the_tests_and_counts_in_the_family(tmp_path: Path) -> None:
    methods = {"aug": GOOD, "iprm": GOOD, "ensemble-tuned": REFERENCE, "joint": REFERENCE}
    failed = {("made", "iprm", 2): "loss nan", ("made", "joint", 0): "loss nan"}
    results = loaded(tmp_path, methods=methods, failed=failed)
    (found,) = comparisons_of(results)  # none with iprm, none against joint
    assert (found.a, found.b, found.k) == ("aug", "ensemble-tuned", 6)
    assert found.p_holm == pytest.approx(2 * (found.p or 0))
    assert results.lock is not None
    more = replace(results.lock.terms, families={"ensemble-tuned": ["aug", "iprm", "left"], "joint": ["aug"]})
    again = comparisons_of(replace(results, lock=replace(results.lock, terms=more)))
    assert again[0].p_holm == pytest.approx(3 * (found.p or 0))


def test_a_failed_seed_leaves_the_mean_to_the_others(tmp_path: Path) -> None:
    methods = {"aug": GOOD, "ensemble-tuned": REFERENCE}
    gone = {("made", "aug", 1, 3): "out of memory"}
    found = judged(tmp_path, methods=methods, seeds=3, seed_spread=0.02, failed_seeds=gone)["aug"]
    assert found.folds == pytest.approx([20.0, 17.0, 20.0, 20.0, 18.0, 20.0])  # fold 1: 91, not 92
    assert "1 final model failed: the means are of the others" in found.note


@pytest.mark.parametrize(
    ("data", "folds", "word", "has_interval", "note"),
    [
        (MadeData(), [0, 1], None, False, "k < 5; fewer than 3 folds: differences alone"),
        (MadeData(folds=3, groups=1), None, "undecided", True, "k < 5; within these groups"),
        (MadeData(), [0, 1, 2, 3], "undecided", True, "k < 5"),
        (MadeData(), [0, 1, 2, 3, 4], "better", True, ""),
    ],
)
def test_few_folds(
    tmp_path: Path, data: MadeData, folds: list[int] | None, word: str | None, has_interval: bool, note: str
) -> None:
    found = judged(tmp_path, methods={"aug": GOOD, "ensemble-tuned": REFERENCE}, data=[data], folds=folds)["aug"]
    assert (found.word, found.corrected is not None, found.note) == (word, has_interval, note)
    assert found.k == (len(folds) if folds else 3)


def test_an_unfinished_study_compares_whole_folds_and_says_so(tmp_path: Path) -> None:
    methods = {"aug": GOOD, "iprm": ALIKE, "ensemble-tuned": REFERENCE}
    found = judged(tmp_path, methods=methods, open=frozenset({("made", "iprm", 3)}))["aug"]
    assert (found.k, found.note) == (5, "5 of 6 folds so far")
    assert found.folds == pytest.approx([20, 18, 20, 18, 20])
    none = judged(tmp_path / "none", methods=methods, open=frozenset(("made", "iprm", fold) for fold in range(6)))
    assert none == {}


def test_identical_answers_are_no_difference(tmp_path: Path) -> None:
    def answers(place: Place, number: int) -> np.ndarray:
        return np.arange(100) % (3 + place[2]) > 0

    found = judged(tmp_path, methods={"aug": 0.0, "ensemble-tuned": 0.0}, answers=answers)["aug"]
    assert (found.d, found.p, found.word) == (0, 1, "equivalent within 1 point")  # .99^600 = .002
    assert found.note == "differ in 0 of 600"
    split = judged(
        tmp_path / "split", methods={"aug": 0.0, "ensemble-tuned": 0.0}, answers=answers, data=[MadeData(folds=None)]
    )["aug"]
    assert (split.p, split.word) == (1, "undecided")
    assert "differ in 0 of 100" in split.note


def test_folds_that_do_not_differ_are_tested_by_their_samples(tmp_path: Path) -> None:
    found = judged(tmp_path, methods={"aug": 0.75, "ensemble-tuned": 0.75})["aug"]
    assert (found.s_d, found.d) == (0, 0)
    assert found.corrected is not None
    assert found.corrected[1] > 1
    assert "(McNemar)" in found.note


def test_too_few_errors_are_said(tmp_path: Path) -> None:
    found = judged(tmp_path, methods={"aug": 1.0, "ensemble-tuned": [0.97] * 6})["aug"]
    assert found.note.endswith(
        "too few errors to compare: the reference errs on 18 of 600; the method alone is right on 18, the reference "
        "alone on 0"
    )


@pytest.mark.parametrize(
    ("groups", "seeds", "word", "note"),
    [
        (0, 3, "better", "for these training data"),
        (0, 2, "better", "for these training data"),  # no interval, but a test
        (10, 3, "undecided", "for these training data; within these groups"),
        (5, 3, None, "for these training data; 5 test clusters: under 6 no p can be under .05"),
    ],
)
def test_one_split_is_of_its_training_data(
    tmp_path: Path, groups: int, seeds: int, word: str | None, note: str
) -> None:
    data = [MadeData(folds=None, groups=groups)]
    found = judged(tmp_path, methods={"aug": 0.9, "ensemble-tuned": 0.7}, data=data, seeds=seeds)["aug"]
    assert (found.word, found.note, found.k, found.corrected) == (word, note, 1, None)
    assert found.d == pytest.approx(20)
    assert (found.plain is None) == (seeds < 3)
    if found.plain:
        assert found.plain[0] < 20 < found.plain[1]


def test_one_fold_that_was_asked_for_is_one_split(tmp_path: Path) -> None:
    found = judged(tmp_path, methods={"aug": 0.9, "ensemble-tuned": 0.7}, folds=[2], seeds=3)["aug"]
    assert (found.k, found.corrected, found.word) == (1, None, "better")
    unfinished = {("made", "aug", fold) for fold in range(1, 6)}
    found = judged(tmp_path / "b", methods={"aug": 0.9, "ensemble-tuned": 0.7}, open=frozenset(unfinished))["aug"]
    assert (found.k, found.plain, found.word) == (1, None, None)  # of six folds one is there: a difference alone


def test_models_of_one_seed_are_paired(tmp_path: Path) -> None:
    made = {"methods": {"aug": 0.9, "ensemble-tuned": 0.7}, "seeds": 4, "seed_spread": 0.02}
    gone = {"failed_seeds": {("made", "aug", 0, 1): "out of memory"}}
    split = judged(tmp_path, **made, **gone, data=[MadeData(folds=None)])["aug"]
    assert split.d == pytest.approx(20)  # of seeds 2 to 4, not of 2 to 4 against 1 to 3
    folds = judged(tmp_path / "folds", **made, **gone, data=[MadeData(folds=3)])["aug"]
    assert folds.variance is not None
    assert folds.variance[1] == pytest.approx(0, abs=1e-9)


def test_folds_narrow_more_than_seeds_where_folds_differ(tmp_path: Path) -> None:
    found = judged(tmp_path, methods={"aug": UNSURE, "ensemble-tuned": REFERENCE}, seed_spread=0.01)["aug"]
    assert found.narrows == "fold"
    assert found.variance is not None
    assert found.variance[1] == pytest.approx(0, abs=1e-9)  # both gain by the same from seed to seed
    assert found.s_d is not None
    assert found.variance[0] == pytest.approx(found.s_d**2)


def test_what_is_of_other_data_is_never_compared(tmp_path: Path) -> None:
    results = loaded(tmp_path, methods={"aug": GOOD, "ensemble-tuned": REFERENCE})
    first = results.cells[0]
    for change, words in ({"fingerprint": "other"}, "different data"), ({"protocol": "holdout"}, "different splits"):
        cells = [replace(first, cell=replace(first.cell, **change)), *results.cells[1:]]
        with pytest.raises(DataError, match=words):
            comparisons_of(replace(results, cells=cells))
    model = first.finals[0]
    ids = np.char.add(model.final.sample_ids, "x")
    moved = replace(model, final=replace(model.final, sample_ids=ids))
    with pytest.raises(DataError, match="different samples of made"):
        comparisons_of(replace(results, cells=[replace(first, finals=[moved, *first.finals[1:]]), *results.cells[1:]]))
