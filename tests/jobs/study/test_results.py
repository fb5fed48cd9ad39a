"""A study's files, as `study_files` makes them, are read back as what was described."""

from __future__ import annotations

from pathlib import Path

import pytest
from study_files import MadeData, MadeStudy, write_study

from rayjobs.results_layout import LEDGER_FILE
from rayjobs.runs.test_ledger import read_ledger
from rayjobs.study.results import load_study

METHODS = {"aug": 0.8, "iprm": [0.7, 0.75, 0.8], "ensemble-tuned": 0.75, "joint": 0.7}


def test_a_study_is_read_as_it_was_described(tmp_path: Path) -> None:
    made = MadeStudy(
        methods=METHODS,
        data=[MadeData(folds=3, groups=2), MadeData(name="other", folds=None, samples=40)],
        failed={("made", "aug", 1): "loss nan"},
        failed_seeds={("made", "iprm", 2, 1): "out of memory"},
        open=frozenset({("made", "joint", 0)}),
    )
    results = load_study(write_study(tmp_path / "results" / "study", made))
    assert (results.datasets, results.labels) == (["made", "other"], ["aug", "iprm", "ensemble-tuned", "joint"])
    assert [each.status for each in results.of("made", "aug")] == ["done", "failed", "done"]
    assert results.of("made", "aug")[1].reason == "no trial of the search succeeded; trial-001: loss nan"
    reached = [[model.final.correct.mean() for model in each.finals] for each in results.of("made", "iprm")]
    assert reached == [pytest.approx([0.7] * 3), pytest.approx([0.75] * 3), pytest.approx([0.8] * 2)]
    assert results.of("made", "iprm")[2].failures == {1: "out of memory"}
    assert results.complete_folds("made") == [1, 2]
    assert results.lock is not None
    assert results.lock.terms.families == {"ensemble-tuned": ["aug", "iprm"], "joint": ["aug", "iprm"]}
    ledger = read_ledger(tmp_path / "results" / LEDGER_FILE)
    assert len(ledger) == sum(len(each.finals) for each in results.cells)
    assert [damage for each in results.cells for damage in each.damage] == []
