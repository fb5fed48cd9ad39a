from __future__ import annotations

import multiprocessing
from datetime import datetime
from pathlib import Path

from rayjobs.runs.test_ledger import Entry, ledger_path, open_ledger, read_ledger


def test_every_reading_is_appended_to_the_ledger_of_the_results(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "results")
    for number in (1, 2):
        run_dir = tmp_path / "results" / "experiment" / "digits-iprm" / f"final-{number}"
        run_dir.mkdir(parents=True)
        Entry(run_dir, f"config{number}", "data", "holdout", "python -m rayjobs.tune").record("missing 20 %")
    open_ledger(tmp_path / "results")
    entries = read_ledger(ledger)
    assert [entry["config"] for entry in entries] == ["config1", "config2"]
    assert datetime.fromisoformat(entries[0]["when"]).tzinfo is not None
    assert entries[0] | {"when": "", "run_dir": ""} == {
        "when": "",
        "run_dir": "",
        "config": "config1",
        "data": "data",
        "protocol": "holdout",
        "condition": "missing 20 %",
        "command": "python -m rayjobs.tune",
    }


def test_a_run_outside_of_any_results_keeps_its_own(tmp_path: Path) -> None:
    Entry(tmp_path, "config", "data", "holdout", "command").record("as stored")
    assert ledger_path(tmp_path) == tmp_path.resolve() / "ledger.jsonl"
    assert len(read_ledger(tmp_path / "ledger.jsonl")) == 1


def write_many(run_dir: Path) -> None:
    for _ in range(50):
        Entry(run_dir, "c" * 500, "data", "holdout", "command").record("as stored")


def test_several_runs_may_write_at_once(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(run_dir,)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(read_ledger(ledger)) == 150
