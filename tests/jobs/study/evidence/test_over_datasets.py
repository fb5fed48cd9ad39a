"""What several data sets say together, against figures worked out by hand and by other libraries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from study_files import MadeData, MadeStudy, _cells, _study

from mmcore.analysis.profiles import profile
from mmcore.analysis.rank_statistics import signed_rank_probabilities
from rayjobs.study.document import Comparison, OverDatasets, ScoreEntry
from rayjobs.study.evidence.over_datasets import over_datasets
from rayjobs.study.results import CellResult, StudyResults

Accuracies = Mapping[str, Mapping[str, float | None]]
"""Data set -> label -> accuracy in points; None where it failed."""
LABELS = ("aug", "iprm", "ensemble-tuned")


def study_of(data: Sequence[MadeData], labels: Sequence[str] = LABELS) -> StudyResults:
    """A study whose cells are all done; over data sets only what they are of is looked at."""
    made = MadeStudy(methods=dict.fromkeys(labels, 0.5), data=data)
    cells = [CellResult(cell, Path(), [], [], "done") for _, cell in _cells(made)]
    return StudyResults(Path(), _study(made), None, cells)


def changed(results: StudyResults, dataset: str, **own: object) -> StudyResults:
    """The study with other values in a data set's cells, of its first method alone where that is said."""
    first = own.pop("first", False)
    cells = [
        replace(each, cell=replace(each.cell, **own))  # type: ignore[arg-type]
        if each.cell.dataset == dataset and (not first or each.cell.label == LABELS[0])
        else each
        for each in results.cells
    ]
    return replace(results, cells=cells)


def score(dataset: str, method: str, mean: float | None, seeds: list[list[float]] | None = None) -> ScoreEntry:
    return ScoreEntry(
        dataset=dataset, method=method, mean=mean, half_width=None, folds=[], metrics={}, reason="", parameters=None,
        seeds=seeds or ([] if mean is None else [[mean], [mean]]), status="failed" if mean is None else "done",
        epochs=1, device_seconds=1.0,
    )  # fmt: skip


def comparison(dataset: str, a: str, d: float, b: str = "ensemble-tuned") -> Comparison:
    numbers = dict.fromkeys(
        ("s_d", "plain", "corrected", "p", "p_holm", "p_tost", "p_tost_holm", "p_not_worse_holm", "bayes", "p_win",
         "variance", "only_a", "only_b", "word")
    )  # fmt: skip
    return Comparison(
        dataset=dataset, a=a, b=b, family=b, d=d, folds=[d], k=1, rho=0.25, narrows="", note="", **numbers
    )  # type: ignore[arg-type]


def said(results: StudyResults, accuracies: Accuracies) -> OverDatasets | None:
    scores = [score(name, label, value) for name, of_set in accuracies.items() for label, value in of_set.items()]
    comparisons = [
        comparison(name, label, value - of_set["ensemble-tuned"])
        for name, of_set in accuracies.items()
        for label, value in of_set.items()
        if label != "ensemble-tuned" and value is not None and of_set["ensemble-tuned"] is not None
    ]
    comparisons += [comparison(name, label, 99, b="joint") for name in accuracies for label in ("aug", "iprm")]
    return over_datasets(results, scores, comparisons)


def several(count: int, **own: object) -> list[MadeData]:
    return [MadeData(name=f"set{number}", folds=3, **own) for number in range(count)]  # type: ignore[arg-type]


def accuracies(rows: Sequence[Sequence[float | None]]) -> dict[str, dict[str, float | None]]:
    return {f"set{number}": dict(zip(LABELS, row, strict=True)) for number, row in enumerate(rows)}


def over(results: StudyResults, of_sets: Accuracies) -> OverDatasets:
    found = said(results, of_sets)
    assert found
    return found


def test_one_data_set_says_nothing_over_data_sets() -> None:
    assert said(study_of(several(1)), accuracies([(70, 60, 65)])) is None


def test_variants_of_one_source_are_one_data_set() -> None:
    found = over(study_of(several(2, unit="speech")), accuracies([(70, 60, 65), (70, 60, 65)]))
    assert (found.units, found.pairs, found.ranks, found.friedman) == (["speech"], [], {}, None)
    assert found.note == "fewer than 2 data sets count: nothing is said over data sets"


def test_few_data_sets_have_differences_and_ranks_but_no_test() -> None:
    rows = [(70, 60, 65), (50, 50, 40), (50, 40, 45)]
    found = over(study_of(several(3)), accuracies(rows))
    assert found.units == ["set0", "set1", "set2"]
    assert found.ranks == pytest.approx({"aug": (1 + 1.5 + 1) / 3, "iprm": (3 + 1.5 + 3) / 3, "ensemble-tuned": 7 / 3})
    aug, iprm = found.pairs
    assert (aug.a, aug.b, aug.differences) == ("aug", "ensemble-tuned", {"set0": 5, "set1": 10, "set2": 5})
    assert iprm.differences == {"set0": -5, "set1": 10, "set2": -5}
    assert {(pair.bayes, pair.p, pair.p_holm) for pair in found.pairs} == {(None, None, None)}
    assert found.cd_bars is None
    expected = stats.friedmanchisquare(*np.array(rows).T)
    assert found.friedman
    assert (found.friedman["chi2"], found.friedman["p_chi2"]) == pytest.approx(tuple(expected))
    assert found.note == "3 data sets: signs and differences alone, no test"
    assert found.needed == 7


def test_where_all_data_sets_agree_f_has_no_bound_and_is_left_out() -> None:
    found = over(study_of(several(3)), accuracies([(70, 60, 65)] * 3))
    assert found.friedman
    assert found.friedman.keys() == {"chi2", "p_chi2", "p"}


def test_enough_data_sets_are_tested_and_corrected_over_the_family() -> None:
    iprms = [0.5, -1.5, 2.5, -3.5, -4.5, 5.5, -6.5]
    rows = [(70 + number, 60 + added, 60) for number, added in enumerate(iprms)]
    found = over(study_of(several(7)), accuracies(rows))
    aug, iprm = found.pairs
    assert aug.p == pytest.approx(2**-6)
    assert iprm.p == pytest.approx(stats.wilcoxon(iprms, method="exact").pvalue)
    assert aug.p_holm == pytest.approx(2 * 2**-6)
    assert iprm.p_holm == pytest.approx(max(2 * 2**-6, iprm.p or 0))
    expected = signed_rank_probabilities(iprms, 1.0)
    assert expected
    assert iprm.bayes == (expected.worse, expected.within, expected.better)
    assert found.note == ""
    # Three pairs: aug differs from both others at 3 * 2^-6 = .047, iprm and the reference do not differ.
    assert found.cd_bars == [["ensemble-tuned", "iprm"]]


def test_six_data_sets_are_too_few_for_two_methods() -> None:
    found = over(study_of(several(6)), accuracies([(70, 60, 50)] * 6))
    assert [pair.p for pair in found.pairs] == [None, None]
    assert all(pair.bayes for pair in found.pairs)
    assert found.note == "6 data sets are too few for any p: 7 are needed"


def test_probabilities_are_of_differences_in_units_of_each_sets_margin() -> None:
    data = [replace(each, margin=2.0 + number) for number, each in enumerate(several(5))]
    found = over(study_of(data), accuracies([(50 + 0.9 * (2 + n), 50 - 1.1 * (2 + n), 50) for n in range(5)]))
    aug, iprm = found.pairs
    within, worse = signed_rank_probabilities([0.9] * 5, 1.0), signed_rank_probabilities([-1.1] * 5, 1.0)
    assert within
    assert worse
    assert aug.bayes == (within.worse, within.within, within.better)
    assert iprm.bayes == (worse.worse, worse.within, worse.better)
    assert iprm.bayes[0] > 0.9 > 0.1 > aug.bayes[0]


def test_variants_are_averaged_before_anything_else() -> None:
    data = [*several(2, unit="speech"), MadeData(name="set2", folds=3)]
    found = over(study_of(data), accuracies([(70, 60, 65), (60, 68, 61), (50, 55, 60)]))
    assert found.units == ["speech", "set2"]
    aug, iprm = found.pairs
    assert aug.differences == {"speech": pytest.approx(2), "set2": -10}
    assert iprm.differences == {"speech": pytest.approx(1), "set2": -5}
    # speech: 65, 64, 63; set2: 50, 55, 60
    assert found.ranks == {"aug": 2, "iprm": 2, "ensemble-tuned": 2}


def test_what_cannot_stand_beside_the_others_is_left_out_and_said() -> None:
    results = study_of(several(7))
    results = changed(results, "set0", constructed=True)
    results = changed(results, "set1", fingerprint="other", first=True)
    results = changed(results, "set2", protocol="holdout (seed 0)")
    results = changed(results, "set3", protocol="holdout (seed 0)", first=True)
    waiting = [replace(each, status="open") if each.cell.dataset == "set5" else each for each in results.cells]
    found = over(replace(results, cells=waiting), accuracies([(70, 60, 65)] * 7))
    assert found.units == ["set4", "set6"]
    assert found.left_out == {
        "set0": "it was constructed to show an effect",
        "set1": "its cells are of data with different fingerprints",
        "set3": "its cells are of different protocols: holdout, cv",
        "set5": "no fold of it is finished by every method yet",
        "set2": "its protocol is holdout, that of most others cv",
    }


def test_a_method_that_failed_has_the_rank_of_chance_and_no_difference() -> None:
    rows = accuracies([(70, 20, 65), (None, 20, 65), (70, 60, 65)])  # chance is 25
    found = over(study_of(several(3)), rows)
    assert found.ranks == pytest.approx({"aug": (1 + 2 + 1) / 3, "iprm": 9 / 3, "ensemble-tuned": (2 + 1 + 2) / 3})
    aug, iprm = found.pairs
    assert aug.differences == {"set0": 5, "set2": 5}
    assert aug.note == "no difference on set1; 2 data sets: signs and differences alone, no test"
    assert iprm.note == ""
    assert found.profiles.keys() == {"iprm", "ensemble-tuned"}


def test_a_family_keeps_its_size_where_a_method_has_too_few_data_sets_for_a_test() -> None:
    rows = accuracies([(70, None if number == 3 else 60, 50) for number in range(7)])
    aug, iprm = over(study_of(several(7)), rows).pairs
    assert (iprm.p, iprm.p_holm) == (None, None)
    assert aug.p_holm == pytest.approx(2 * 2**-6)


def test_the_common_scale_is_of_chance_and_the_reference() -> None:
    results = study_of(several(2))
    seeds = {"set0": [[45.0, 55.0], [65.0, 65.0]], "set1": [[50.0, 30.0], [25.0, 25.0]]}
    scores = [score(name, "aug", 50, own) for name, own in seeds.items()]
    scores += [score("set0", "ensemble-tuned", 65), score("set1", "ensemble-tuned", 45), score("set0", "iprm", 65),
               score("set1", "iprm", 45)]  # fmt: skip
    found = over_datasets(results, scores, [])
    assert found
    # Chance is 25, the reference 40 and 20 above it.
    scaled = [[[0.5, 0.75], [1, 1]], [[1.25, 0.25], [0, 0]]]
    expected = profile(scaled, [0.5]).middle
    assert found.profiles["aug"] == pytest.approx({"middle": expected.mean, "low": expected.low, "high": expected.high})
    assert found.profiles["iprm"] == pytest.approx({"middle": 1, "low": 1, "high": 1})


def test_a_reference_at_chance_is_no_measure_and_that_is_said() -> None:
    rows = accuracies([(70, 60, 25), (70, 60, 65), (70, 60, 65)])
    found = over(study_of(several(3)), rows)
    assert found.profiles["aug"]["middle"] == pytest.approx(45 / 40)
    assert found.note.endswith("ensemble-tuned is no better than chance on set0: not on the common scale")


def test_rows_that_only_some_data_sets_have_are_not_ranked() -> None:
    results = study_of(several(2), labels=(*LABELS, "unimodal-text"))
    kept = [each for each in results.cells if (each.cell.dataset, each.cell.label) != ("set1", "unimodal-text")]
    rows = accuracies([(70, 60, 65), (70, 60, 65)])
    rows["set0"]["unimodal-text"] = 99
    found = over(replace(results, cells=kept), rows)
    assert found.ranks == {"aug": 1, "iprm": 3, "ensemble-tuned": 2}
    assert "not ranked, since not tried on all of every data set: unimodal-text" in found.note


def test_who_left_a_race_has_no_rank_and_counts_in_the_family() -> None:
    rows = accuracies([(70, 60, 50)] * 7)
    scores = [score(name, label, value) for name, of_set in rows.items() for label, value in of_set.items()]
    left = [
        replace(each, mean=None, status="left out") if (each.dataset, each.method) == ("set3", "iprm") else each
        for each in scores
    ]
    comparisons = [comparison(name, "aug", 20) for name in rows]
    found = over_datasets(study_of(several(7)), left, comparisons)
    assert found
    assert found.ranks == {"aug": 1, "ensemble-tuned": 2}
    assert "not tried on all of every data set: iprm" in found.note
    assert found.pairs[0].p_holm == pytest.approx(2 * 2**-6)
