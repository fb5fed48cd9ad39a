"""A study's document as a whole: a function of its files, whatever their state."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from study_files import BEGUN, MadeData, MadeStudy, write_study

from mmcore.errors import DataError
from rayjobs.results_layout import LOCK_FILE
from rayjobs.storage.files import write_json
from rayjobs.study.build import build_document, document_of
from rayjobs.study.document import LockChange, StudyDocument
from rayjobs.study.lock import Lock, read_lock
from rayjobs.study.results import load_study

MADE = MadeStudy(
    methods={"ensemble-tuned": 0.7, "aug": 0.9, "iprm": [0.72, 0.7, 0.71, 0.7, 0.69, 0.7], "joint": 0.6},
    data=[MadeData(groups=1), MadeData(name="other", folds=None, constructed=True)],
    seeds=2,
    failed={("made", "joint", 1): "loss nan"},
    open=frozenset({("made", "iprm", 5), ("other", "iprm", 0)}),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("results") / "study", MADE)


def test_the_same_files_give_the_same_bytes(folder: Path) -> None:
    first, again = document_of(folder), document_of(folder)
    assert json.dumps(first.to_dict()) == json.dumps(again.to_dict())
    assert StudyDocument.from_dict(json.loads(json.dumps(first.to_dict()))) == first


def test_what_stands_in_it(folder: Path) -> None:
    document = document_of(folder)
    assert (document.study.cells, document.study.done) == (28, 26)
    assert document.study.blocks == {"made": [0, 1, 2, 3, 4], "other": []}
    assert [(method.label, method.role) for method in document.methods] == [
        ("aug", "method"), ("iprm", "method"), ("ensemble-tuned", "reference"), ("joint", "reference")
    ]  # fmt: skip
    assert list(document.methods[3].failed) == ["made"]
    made, other = document.datasets
    assert (made.protocol, made.folds, made.cross_validated) == (
        "cv over groups (all 6 folds, seed 0)", [0, 1, 2, 3, 4, 5], True
    )  # fmt: skip
    assert (made.groups, made.n, made.num_train, made.rho) == (5, 500, [400] * 5, pytest.approx(1 / 4))
    assert (other.groups, other.n, other.constructed, other.cross_validated) == (None, 0, True, False)
    assert made.chance == pytest.approx(25)
    assert document.lock.families == {"primary": ["aug", "iprm"], "joint": ["aug", "iprm"]}
    assert (document.lock.when, document.lock.trials) == (BEGUN, 4)
    assert document.sentences[0].startswith("On made so far (5 of 6 folds) aug is better than ensemble-tuned")
    assert document.sentences[1] == "On other nothing can be said yet: not every method is finished."
    assert "2 of 28 cells are not finished: run goes on with them." in document.notes
    assert document.software["torch"] == "2.14.0"


def test_commands_go_where_the_study_lies(folder: Path) -> None:
    results = load_study(folder)
    command = "python -m rayjobs.compare new study --dataset made --output 'my results'"
    found = build_document(replace(results, study=results.study.model_copy(update={"command": command}))).commands
    assert list(found)[:2] == [command, "python -m rayjobs.compare run study --output 'my results'"]


def test_terms_in_force_decide_and_changes_are_shown(tmp_path: Path) -> None:
    methods = {"ensemble-tuned": 0.7, "aug": [0.71, 0.7, 0.69, 0.7, 0.71, 0.7]}
    folder = write_study(tmp_path / "results" / "study", MadeStudy(methods=methods, seeds=2, margin=0.1))
    assert document_of(folder).comparisons[0].word == "undecided"
    lock = read_lock(folder)
    assert lock is not None
    change = LockChange(when=BEGUN, key="margins", before="made: 0.1", after="made: 3.0", readings=24)
    wider = replace(lock.terms, margins={"made": 3.0})
    write_json(folder / LOCK_FILE, Lock.to_dict(replace(lock, current=wider, changes=[change])))
    document = document_of(folder)
    assert document.comparisons[0].word == "equivalent within 3 points"
    assert (document.lock.margins, document.lock.changes) == ({"made": 3.0}, [change])


def test_before_test_is_read_there_is_no_lock_and_nothing_to_say(tmp_path: Path) -> None:
    every = frozenset(
        (name, label, fold) for name in ("made",) for label in ("aug", "ensemble-tuned") for fold in range(6)
    )
    made = MadeStudy(methods={"ensemble-tuned": 0.7, "aug": 0.9}, open=every, locked=False)
    document = document_of(write_study(tmp_path / "results" / "study", made))
    assert document.lock.when == ""
    assert document.lock.margins == {"made": 1.0}
    assert document.comparisons == []
    assert document.power[0].source == "unknown: run --pilot"
    assert document.scores[0].mean is None


def test_two_fingerprints_are_never_in_one_table(folder: Path) -> None:
    results = load_study(folder)
    other = replace(results.cells[0], cell=replace(results.cells[0].cell, fingerprint="other"))
    with pytest.raises(DataError, match="different data"):
        build_document(replace(results, cells=[other, *results.cells[1:]]))


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("python -m rayjobs.compare new study --output 'my results'", " --output 'my results'"),
        ("python -m rayjobs.compare new study --output=there", " --output there"),
        ("python -m rayjobs.compare new study --output it's", " --output 'it'\"'\"'s'"),
        ("python -m rayjobs.compare new study", ""),
    ],
)
def test_the_commands_that_repeat_it_name_the_place_it_was_begun_in(folder: Path, command: str, place: str) -> None:
    results = load_study(folder)
    document = build_document(replace(results, study=results.study.model_copy(update={"command": command})))
    assert f"python -m rayjobs.compare run study{place}" in document.commands
