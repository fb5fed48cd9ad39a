"""A study whose files were cut, removed or edited: one message that names the file and the key, and nothing lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from study_files import MadeData, MadeStudy, write_study

from mmcore.errors import DataError
from rayjobs.results_layout import CELL_FILE, CELLS, LOCK_FILE, RESULT_FILE, SEARCH_FILE
from rayjobs.study.build import document_of
from rayjobs.study.cell import Cell
from rayjobs.study.lock import readings
from rayjobs.study.results import load_study

ONE = Path(CELLS) / "made-aug" / "fold-1"
PLACES = {name: ONE / name for name in (CELL_FILE, SEARCH_FILE)} | {RESULT_FILE: ONE / "final-1" / RESULT_FILE}
WRONG: tuple[object, ...] = ("x", 3.5, None, [1], {"a": 1}, -1, float("nan"))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    made = MadeStudy(
        methods={"aug": 0.8, "ensemble-tuned": 0.7}, data=[MadeData(folds=3, samples=20)], seeds=2, trials=2
    )
    return write_study(tmp_path / "results" / "study", made)


def edit(path: Path, change: Callable[[Any], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_a_cell_whose_file_is_damaged_stops_no_other_and_counts_as_none(study: Path) -> None:
    text = (study / PLACES[CELL_FILE]).read_text()
    cell = load_study(study).of("made", "aug")[1].cell
    for content in (text[: len(text) // 2], "[]", '{"label": "aug"}', text.replace('"made"', '"other"')):
        (study / PLACES[CELL_FILE]).write_text(content)
        document = document_of(study)
        assert document.study.blocks == {"made": [0, 2]}
        assert any(str(PLACES[CELL_FILE]) in note and "run has made it again" in note for note in document.notes)
        cell.write(study)  # what run does first
        assert Cell.read(study / PLACES[CELL_FILE]) == cell
    assert document_of(study).study.blocks == {"made": [0, 1, 2]}


def test_a_fold_on_which_a_method_has_no_cell_is_not_compared(study: Path) -> None:
    (study / PLACES[CELL_FILE]).unlink()
    document = document_of(study)
    assert document.study.blocks == {"made": [0, 2]}
    assert "On made, fold 1, aug has no cell.json: run makes it again." in document.notes
    assert [pair.k for pair in document.comparisons] == [2]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (CELL_FILE, "train_groups"), (CELL_FILE, "chance"), (CELL_FILE, "fold"), (CELL_FILE, "dataset"),
        (SEARCH_FILE, "trials"), (SEARCH_FILE, "best"), (SEARCH_FILE, "config"),
        (RESULT_FILE, "best"), (RESULT_FILE, "test"), (RESULT_FILE, "device_seconds"), (RESULT_FILE, "config"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_told_and_its_cell_waits(study: Path, name: str, key: str) -> None:
    path = study / PLACES[name]
    whole = path.read_text()
    for value in WRONG:
        edit(path, lambda stored, value=value: stored.update({key: value}))
        assert document_of(study).study.cells in (5, 6), value  # no traceback
        path.write_text(whole)


def test_the_message_names_the_key(study: Path) -> None:
    edit(study / PLACES[SEARCH_FILE], lambda stored: stored["trials"][1].update(epochs="many"))
    damage = load_study(study).of("made", "aug")[1].damage
    assert "trials[1].epochs must be a whole number, got 'many'" in damage[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lock: lock["current"].update(alpha="x"), "current.alpha must be a number, got 'x'"),
        (lambda lock: lock["current"].update(alpha=None), "current.alpha must be above 0 and below 1, got nan"),
        (lambda lock: lock["current"].update(margins={}), "current.margins.made must be a number above 0, got None"),
        (lambda lock: lock["current"].update(reference="joint"), "current.families must have the reference, joint"),
        (lambda lock: lock["terms"].update(folds={"made": [0.5]}), "terms.folds.made.0. must be a whole number"),
        (lambda lock: lock.update(changes=None), "changes must be a list, got 'None'"),
    ],
)
def test_a_lock_that_was_edited_is_refused_by_key(study: Path, change: Callable[[Any], object], message: str) -> None:
    edit(study / LOCK_FILE, change)
    with pytest.raises(DataError, match=f"{message}.*put back a copy"):
        load_study(study)


def test_a_study_says_the_same_wherever_it_lies(study: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "a clone of it" / study.name
    shutil.copytree(study, elsewhere)
    shutil.copy(study.parent / "ledger.jsonl", elsewhere.parent)
    here, there = document_of(study).to_dict(), document_of(elsewhere).to_dict()
    assert here == there
    assert readings(elsewhere) == readings(study) == 12  # the ledger's folders are absolute
