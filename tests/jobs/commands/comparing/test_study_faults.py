"""Whole studies with a stand-in for the trainer: what is added, taken, failed and killed, counted by what was begun."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from driving import output_of, run_driver, start_driver

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SMALL = ["--cv-folds", "3", "--trials", "2", "--seeds", "2", "--max-epochs", "4", "--reference-only"]
KILLS = int(os.environ.get("EQUIPOISE_KILLS", "4"))
TIMES = {"device_seconds", "when", "seconds", "hardware", "at_common_cost", "evidence"}
"""What clocks decide; the checklist's evidence quotes some."""


def compare(folder: Path, *arguments: str, code: int = 0, **options: Any) -> str:
    ended = run_driver(folder, *arguments, script="stub_study.py", **options)
    assert ended.returncode == code, ended.stderr
    return ended.stdout


def starts(study: Path) -> dict[str, str]:
    """Run -> what its process noted each time it began."""
    cells = study / "cells"
    return {str(path.parent.relative_to(cells)): path.read_text() for path in sorted(cells.rglob("starts"))}


def document(study: Path) -> dict[str, Any]:
    return json.loads((study / "compare.json").read_text())


def without_times(value: Any) -> Any:
    """What must be the same however often a study was interrupted: all but what clocks say."""
    if isinstance(value, dict):
        return {key: without_times(entry) for key, entry in value.items() if key not in TIMES}
    return [without_times(entry) for entry in value] if isinstance(value, list) else value


def test_a_failed_method_is_shown_and_what_is_added_or_taken_trains_nothing_else(tmp_path: Path) -> None:
    study, fatal = tmp_path / "results/mine", {"digits-aug/fold-1/final-1": {"fatal": "no luck"}}
    fatal["digits-aug/fold-1/final-2"] = {"fatal": "no luck"}
    compare(tmp_path, "new", "mine", "--method", "iprm", "--method", "aug", "--reference", "joint", *SMALL)
    compare(tmp_path, "run", "mine", "--cpus", "2", plan=fatal)
    first = document(study)
    cells = {(cell["method"], cell["fold"]): cell for cell in first["cells"]}
    assert cells["aug", 1]["status"] == "failed"
    assert "no luck" in cells["aug", 1]["reason"]
    assert {cell["status"] for key, cell in cells.items() if key != ("aug", 1)} == {"done"}
    scores = {score["method"]: score for score in first["scores"]}
    assert scores["aug"]["mean"] is None
    assert scores["iprm"]["mean"] is not None
    assert {each["a"] for each in first["comparisons"]} == {"iprm"} or all(
        each["word"] is None for each in first["comparisons"] if each["a"] == "aug"
    )

    before = starts(study)
    assert len([name for name in before if "final" in name]) == 3 * 3 * 2 - 2
    compare(tmp_path, "add", "mine", "--method", "mmpareto")
    compare(tmp_path, "run", "mine", "--cpus", "2", plan=fatal)
    after = starts(study)
    assert {name: after[name] for name in before} == before
    assert {name.partition("/")[0] for name in set(after) - set(before)} == {"digits-mmpareto"}
    assert len(set(after) - set(before)) == 3 * (2 + 2)

    used = ["--method", "iprm", "--reference", "joint", *SMALL, "--use", "results/mine"]
    compare(tmp_path, "new", "other", *used)
    compare(tmp_path, "run", "other", "--cpus", "2")
    taken = starts(tmp_path / "results/other")
    assert taken == {name: after[name] for name in taken}
    assert len(taken) == 2 * 3 * (2 + 2)
    assert [cell["status"] for cell in document(tmp_path / "results/other")["cells"]] == ["done"] * 6


def test_a_study_that_is_killed_at_random_moments_comes_to_the_same(tmp_path: Path) -> None:
    asked = ["--method", "iprm", "--reference", "joint", *SMALL]
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        compare(tmp_path / name, "new", "mine", *asked)
    began = time.monotonic()
    compare(tmp_path / "whole", "run", "mine", "--cpus", "2", epoch_s=0.1)
    length = time.monotonic() - began
    moments = random.Random(11)
    for _ in range(KILLS):
        process = start_driver(
            tmp_path / "killed", "run", "mine", "--cpus", "2", epoch_s=0.1, script="stub_study.py",
            start_new_session=True,
        )  # fmt: skip
        time.sleep(moments.uniform(0.2, 0.9) * length)
        os.killpg(process.pid, signal.SIGKILL)
        output_of(process)
    compare(tmp_path / "killed", "run", "mine", "--cpus", "2", epoch_s=0.1)
    whole, killed = (document(tmp_path / name / "results/mine") for name in ("whole", "killed"))
    for each in (whole, killed):
        each["ledger"] = {}  # a final model that was killed while it was tested is read again, and that is counted
        each["study"] = {key: value for key, value in each["study"].items() if key != "created"}
    assert without_times(killed) == without_times(whole)


def test_a_method_that_can_win_no_more_is_left_out_of_later_folds_and_taken_in_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_SHARES", json.dumps({"aug": 0.2}))
    asked = ["--method", "iprm", "--method", "aug", "--reference", "joint", "--reference-only", "--cv-folds", "5"]
    study = tmp_path / "results/mine"
    compare(tmp_path, "new", "mine", *asked, "--trials", "1", "--seeds", "2", "--max-epochs", "1", "--race")
    compare(tmp_path, "run", "mine", "--cpus", "2")
    first = starts(study)
    of_aug = {name.split("/")[1] for name in first if name.startswith("digits-aug/")}
    assert of_aug == {"fold-0", "fold-1", "fold-2"}
    others = {name.split("/")[1] for name in first if name.startswith("digits-iprm/")}
    assert len(others) == 5
    told = document(study)
    states = {cell["fold"]: cell["status"] for cell in told["cells"] if cell["method"] == "aug"}
    assert states == {0: "done", 1: "done", 2: "done", 3: "left out", 4: "left out"}
    words = {each["a"]: each["word"] for each in told["comparisons"] if each["family"] == "primary"}
    assert words["iprm"] == "better"
    assert words.get("aug") is None

    compare(tmp_path, "add", "mine", "--method", "aug")
    compare(tmp_path, "run", "mine", "--cpus", "2")
    after = starts(study)
    assert {name: after[name] for name in first} == first
    assert {name.rpartition("/")[0] for name in set(after) - set(first)} == {"digits-aug/fold-3", "digits-aug/fold-4"}
    words = {each["a"]: each["word"] for each in document(study)["comparisons"] if each["family"] == "primary"}
    assert words == {"iprm": "better", "aug": "worse"}
