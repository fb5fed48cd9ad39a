"""What a method reaches: means over folds of means over seeds, and never over the folds that happened to work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study_files import MadeStudy, write_study

from rayjobs.study.build import build_document
from rayjobs.study.document import ScoreEntry
from rayjobs.study.judging.scores import scores_of
from rayjobs.study.race import Leaver, Race, write_race
from rayjobs.study.results import StudyResults, load_study
from rayjobs.study.showing.page import build_page

FOLDS = [0.70, 0.74, 0.78, 0.72, 0.76, 0.70]


def loaded(tmp_path: Path, **made: Any) -> StudyResults:
    methods = {"ensemble-tuned": FOLDS, "aug": 0.9, "iprm": 0.8}
    return load_study(write_study(tmp_path / "results" / "study", MadeStudy(methods=methods, **{"seeds": 2, **made})))


def by_label(results: StudyResults) -> dict[str, ScoreEntry]:
    return {each.method: each for each in scores_of(results)}


def test_means_over_folds_of_means_over_seeds(tmp_path: Path) -> None:
    results = loaded(tmp_path, seeds=3, seed_spread=0.02, failed_seeds={("made", "ensemble-tuned", 1, 3): "gone"})
    found = by_label(results)
    assert list(found) == ["aug", "iprm", "ensemble-tuned"]  # references last
    score = found["ensemble-tuned"]
    assert score.seeds[:2] == [pytest.approx([68, 70, 72]), pytest.approx([72, 74])]
    assert score.folds == pytest.approx([70, 73, 78, 72, 76, 70])
    assert score.mean == pytest.approx(439 / 6)
    assert score.half_width == pytest.approx(2.5706 * np.std(score.folds, ddof=1) / np.sqrt(6), abs=1e-3)
    assert set(score.metrics) >= {"macro_f1", "ece", "image", "audio"}
    assert score.metrics["image"] == pytest.approx(439 / 6)
    # 4 trials of 8 epochs, and 3 final models of 8 but for the one that failed
    assert score.epochs == 6 * (4 + 3) * 8 - 8


def test_a_failed_fold_leaves_no_mean(tmp_path: Path) -> None:
    found = by_label(loaded(tmp_path, failed={("made", "aug", 2): "loss nan", ("made", "aug", 4): "loss nan"}))
    assert (found["aug"].mean, found["aug"].folds, found["aug"].status) == (None, [], "failed")
    assert found["aug"].reason == (
        "failed on 2 of 6 folds (2, 4): no trial of the search succeeded; trial-001: loss nan"
    )
    assert found["iprm"].mean == pytest.approx(80)
    assert len(found["iprm"].folds) == 6


def test_who_left_a_race_has_no_mean_and_no_word_and_is_waited_for_by_nobody(tmp_path: Path) -> None:
    gone = [("made", "iprm", fold) for fold in (3, 4, 5)]
    folder = loaded(tmp_path, open=frozenset(gone)).folder
    write_race(folder, Race(leavers=[Leaver(dataset="made", label="iprm", folds=[0, 1, 2], difference=-9.0)]))
    document = build_document(load_study(folder))
    score = next(each for each in document.scores if each.method == "iprm")
    assert (score.mean, score.status) == (None, "left out")
    assert score.reason == "left the race after 3 of 6 folds: it could win no more"
    (comparison,) = document.comparisons
    assert (comparison.a, comparison.k, comparison.note) == ("aug", 6, "")
    assert comparison.p_holm == pytest.approx(2 * (comparison.p or 0))
    assert document.sentences == ["On made aug is better than ensemble-tuned; iprm left the race."]


def test_fitted_weights_have_a_row_and_a_family_of_their_own(tmp_path: Path) -> None:
    results = loaded(tmp_path, fitted={"aug": 0.95, "ensemble-tuned": 0.8}, failed={("made", "iprm", 0): "loss nan"})
    document = build_document(results)
    assert [(each.label, each.role) for each in document.methods] == [
        ("aug", "method"), ("iprm", "method"), ("ensemble-tuned", "reference"), ("aug+fit", "fit"),
        ("ensemble-tuned+fit", "fit"),
    ]  # fmt: skip
    means = {each.method: each.mean for each in document.scores}
    assert means == {"aug": 90, "iprm": None, "ensemble-tuned": pytest.approx(440 / 6), "aug+fit": 95,
                     "ensemble-tuned+fit": 80}  # fmt: skip
    own, fitted = document.comparisons
    assert (own.a, own.family, own.d) == ("aug", "primary", pytest.approx(90 - 440 / 6))
    assert (fitted.a, fitted.b, fitted.family) == ("aug+fit", "ensemble-tuned", "fit")
    assert fitted.d == pytest.approx(95 - 440 / 6)
    assert (own.p_holm, fitted.p_holm) == (pytest.approx(2 * (own.p or 0)), fitted.p)  # iprm+fit never was
    assert document.sentences == ["On made aug is better than ensemble-tuned; iprm failed."]
    page, _ = build_page(document)
    assert "aug+fit" in page


def test_a_figure_that_is_no_number_is_left_out(tmp_path: Path) -> None:
    results = loaded(tmp_path)
    first = results.cells[0]
    model = first.finals[0]
    broken = replace(model.result, test={**model.result.tested, "fused/ece": float("nan")})
    cells = [replace(first, finals=[replace(model, result=broken), *first.finals[1:]]), *results.cells[1:]]
    score = by_label(replace(results, cells=cells))[first.cell.label]
    assert "ece" not in score.metrics
    assert "macro_f1" in score.metrics
