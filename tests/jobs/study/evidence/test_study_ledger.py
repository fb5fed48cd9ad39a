"""Readings of test are counted as the ledgers have them, line by line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from study_edits import edit
from study_files import MadeData, MadeStudy, write_study

from rayjobs.study.document import LedgerEntry
from rayjobs.study.evidence.ledger import ledger_entry, readings_of
from rayjobs.study.results import load_study


def made(folder: Path) -> Path:
    study = MadeStudy(methods={"aug": 0.8, "joint": 0.7}, data=[MadeData(folds=3)], seeds=2)
    return write_study(folder / "results" / "made", study)


def enter(path: Path, run_dir: str, config: str, when: str, data: str) -> None:
    line = {"when": when, "config": config, "data": data, "run_dir": run_dir, "protocol": "cv", "command": "c"}
    with path.open("a") as file:
        file.write(f"{json.dumps(line)}\n")


def data_of(study: Path) -> str:
    return str(load_study(study).cells[0].cell.fingerprint)


def test_readings_are_own_replaced_or_elsewhere(tmp_path: Path) -> None:
    study = made(tmp_path)
    assert ledger_entry(load_study(study)) == LedgerEntry(readings=12, superseded=0, elsewhere=0, configurations=12)
    ledger, data = tmp_path / "results" / "ledger.jsonl", data_of(study)
    run = study / "cells/made-aug/fold-0/final-1"
    enter(ledger, str(run), "older", "2026-01-01T00:00:00+00:00", data)  # what stood there before
    enter(ledger, "/elsewhere/results/other/made-aug/final-1", "third", "2026-01-01T00:00:00+00:00", data)
    enter(ledger, "/elsewhere/results/other/made-aug/final-2", "third", "2026-01-01T00:00:00+00:00", data)
    enter(ledger, "/elsewhere/results/other/x-aug/final-1", "fourth", "2026-01-01T00:00:00+00:00", "of other data")
    assert ledger_entry(load_study(study)) == LedgerEntry(readings=13, superseded=1, elsewhere=2, configurations=14)


def test_a_model_that_stands_there_no_more_was_replaced_where_a_later_one_was_read(tmp_path: Path) -> None:
    study = made(tmp_path)
    ledger, data = tmp_path / "results" / "ledger.jsonl", data_of(study)
    run = study / "cells/made-aug/fold-0/final-1"
    shutil.rmtree(run)
    assert ledger_entry(load_study(study)).superseded == 0
    enter(ledger, str(run), "newer", "2027-01-01T00:00:00+00:00", data)
    assert ledger_entry(load_study(study)).superseded == 1


def test_a_study_that_was_moved_is_known_by_its_name(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "results").rename(tmp_path / "moved")
    assert ledger_entry(load_study(tmp_path / "moved" / "made")).readings == 12
    (tmp_path / "moved" / "made").rename(tmp_path / "moved" / "other")
    assert ledger_entry(load_study(tmp_path / "moved" / "other")).elsewhere == 12


def test_at_an_address_each_final_model_has_its_own(tmp_path: Path) -> None:
    study = made(tmp_path)
    (tmp_path / "results" / "ledger.jsonl").unlink()
    data = data_of(study)
    for path, when in (("cells/made-aug/fold-0/final-1", "2"), ("cells/made-aug/superseded/final-1-older", "1")):
        (study / path).mkdir(exist_ok=True, parents=True)
        enter(study / path / "ledger.jsonl", str(study / path), path, when, data)
    found = readings_of(load_study(study))
    assert [reading.when for reading in found] == ["1", "2"]
    edit(study / "cells/made-aug/fold-0/final-1/result.json", lambda stored: stored.update(
        config_fingerprint="cells/made-aug/fold-0/final-1"
    ))  # fmt: skip
    assert ledger_entry(load_study(study)) == LedgerEntry(readings=2, superseded=1, elsewhere=0, configurations=2)
