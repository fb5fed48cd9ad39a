"""Cells in figures, and values at an end of their range, against figures worked out by hand."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from study_edits import edit, edit_all, set_trials, trial
from study_files import MadeData, MadeStudy, write_study

from rayjobs.search.distributions import Distribution
from rayjobs.study.document import BestEntry, CellEntry
from rayjobs.study.evidence.cells import cell_entries
from rayjobs.study.evidence.edges import at_edge
from rayjobs.study.results import load_study

LR = {"optimizer.lr": "loguniform 0.001 ... 0.1"}


def made(folder: Path, **values: object) -> Path:
    settings = {"methods": {"aug": 0.8, "ensemble-tuned": 0.7}, "data": [MadeData(folds=3)], "seeds": 2, "folds": [1]}
    return write_study(folder / "results" / "made", MadeStudy(**(settings | values)))  # type: ignore[arg-type]


def entries(study: Path) -> dict[str, CellEntry]:
    return {each.method: each for each in cell_entries(load_study(study))}


def test_a_cell_says_what_was_found_reached_and_spent(tmp_path: Path) -> None:
    study = made(tmp_path)
    cell = study / "cells/made-aug/fold-1"
    edit(cell / "cell.json", lambda stored: stored.update(space=LR))
    set_trials(cell, [trial(1, 0.7, 3, 4, values={"optimizer.lr": 0.1}), trial(2, None, 2, 1)])
    edit(cell / "final-2/result.json", lambda stored: stored["test"].update({"audio/accuracy": 0.25, "epoch": 7}))
    found = entries(study)["aug"]
    assert (found.dataset, found.method, found.fold, found.status) == ("made", "aug", 1, "done")
    assert (found.folder, found.trials, found.failed_trials) == ("cells/made-aug/fold-1", 2, 1)
    assert (found.epochs, found.device_seconds) == (4 + 1 + 2 * 8, 3 + 2 + 2 * 10)
    assert found.best == BestEntry(config={"optimizer.lr": 0.1}, val=pytest.approx(70))
    assert found.at_edge == ["optimizer.lr"]
    assert found.shrinkage
    assert found.shrinkage.fall == pytest.approx(70 - 81)
    last = found.finals[1]
    assert (last.seed, last.val, last.epochs, last.best_epoch) == (1002, pytest.approx(81), 8, 7)
    assert last.metrics == pytest.approx(
        {"accuracy": 80, "macro_f1": 0.8, "ece": 0.05, "loss": 0.5, "image": 80, "audio": 25}
    )
    content = (study / last.predictions).read_bytes()
    assert last.sha256 == hashlib.sha256(content).hexdigest()


def test_of_parts_the_best_is_what_each_found(tmp_path: Path) -> None:
    study = made(tmp_path)
    cell = study / "cells/made-ensemble-tuned/fold-1"
    edit(cell / "cell.json", lambda stored: stored.update(space=LR))
    set_trials(cell / "part-image", [trial(1, 0.7, values={"optimizer.lr": 0.01})])
    set_trials(cell / "part-audio", [trial(1, 0.4, values={"optimizer.lr": 0.001})])
    found = entries(study)["ensemble-tuned"]
    assert found.best
    assert found.best.config == {"image optimizer.lr": 0.01, "audio optimizer.lr": 0.001}
    assert (found.best.val, found.at_edge) == (pytest.approx(55), ["audio optimizer.lr"])


def test_open_and_failed_cells_are_there_too(tmp_path: Path) -> None:
    study = made(tmp_path, failed={("made", "aug", 1): "loss nan"}, open=frozenset({("made", "ensemble-tuned", 1)}))
    found = entries(study)
    assert (found["aug"].status, found["aug"].best, found["aug"].failed_trials) == ("failed", None, 4)
    assert "loss nan" in found["aug"].reason
    waiting = found["ensemble-tuned"]
    assert (waiting.status, waiting.trials, waiting.best, waiting.finals) == ("open", 0, None, [])


@pytest.mark.parametrize(
    ("words", "ends", "inside"),
    [
        # A twentieth of three orders of magnitude is a factor of 1.41.
        ("loguniform 0.0001 ... 0.1", [0.0001, 0.00014, 0.072, 0.1], [0.00015, 0.003, 0.07]),
        ("uniform 0 ... 10", [0, 0.5, 9.5, 10.0], [0.51, 5.0, 9.49]),
        ("uniform -1 ... 1", [-1, -0.91, 1.0], [-0.89, 0.0]),
        ("randint 1 ... 4", [1, 4], [2, 3]),
        ("lograndint 10 ... 1e+06", [10, 1_000_000, 999_999], [20, 500_000]),
        ("one of 0.1, 0.2, 0.33, 0.5, 1", [0.1, 1, 1.0], [0.2, 0.33]),
        ("one of 64, 16, 32", [16, 64], [32]),
        ("one of 0.333333, 0.5, 0.9", [1 / 3], [0.5]),
        ("one of 0, 1", [], [0, 1]),
        ("one of True, False", [], [True, False]),
        ("one of concat, sum, film", [], ["concat", "film"]),
        ("0.001 to 0.1, logarithmic", [], [0.001]),
    ],
)
def test_a_value_lies_at_an_end_of_its_range(words: str, ends: list[object], inside: list[object]) -> None:
    for value in ends:
        assert at_edge({"a": words}, {"a": value}) == ["a"], value  # type: ignore[dict-item]
    for value in inside:
        assert at_edge({"a": words}, {"a": value}) == [], value  # type: ignore[dict-item]
    assert at_edge({"a": words}, {"b": 0.1}) == []


@pytest.mark.parametrize(
    "values",
    [
        {"loguniform": [0.001, 0.1]},
        {"uniform": [0, 1]},
        {"randint": [1, 9]},
        {"lograndint": [2, 64]},
        {"choice": [1, 2]},
    ],
)
def test_words_are_read_back_as_what_they_describe(values: dict[str, list[float]]) -> None:
    described = Distribution.parse(values, "here")  # type: ignore[arg-type]
    again = Distribution.from_words(described.describe())
    assert again
    assert (again.kind, again.ends()) == (described.kind, described.ends())


def test_a_last_epoch_that_counts_is_the_validation_that_is_told(tmp_path: Path) -> None:
    study = made(tmp_path)

    def last_counts(stored: dict[str, dict[str, dict[str, object]]]) -> None:
        stored["config"]["trainer"].update(select="last")
        stored["last"].update({"val/fused/accuracy": 0.5})  # type: ignore[dict-item]

    edit_all(study, "cells/made-aug/*/final-*/result.json", last_counts)
    assert [final.val for final in entries(study)["aug"].finals] == [pytest.approx(50)] * 2
