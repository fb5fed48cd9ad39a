"""A search whose files are damaged in every way: what its report says, and that no other search's report minds."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from damages import DAMAGES
from test_report import write_experiment

from rayjobs.report import main

SEARCH_FILES = {
    "mine/experiment.json": 1,
    "mine/ranking.json": 1,
    "mine/digits-iprm/plan.json": 1,
    "mine/digits-iprm/search.json": 1,
    "mine/digits-iprm/trial-001/metrics.jsonl": 0,
    "mine/digits-iprm/trial-001/result.json": 0,
    "mine/digits-iprm/trial-001/progress.json": 0,
    "mine/digits-iprm/trial-001/config.json": 0,
    "ledger.jsonl": 0,
}
"""Files of a search, and the exit code of its report where they are damaged: 1 where the ranking stands on it."""


def report(folder: Path, out: Path) -> Result:
    return CliRunner().invoke(main, [str(folder), "--out", str(out)])


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", SEARCH_FILES)
def test_a_report_tells_of_damage_and_of_another_search_does_not_know_it(
    tmp_path: Path, name: str, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayjobs.reporting.html_page._groups", lambda *_: [])  # figures cost seconds, and read no file
    folder = tmp_path / "results"
    write_experiment(folder)
    shutil.copytree(folder / "mine", folder / "other")
    DAMAGES[damage](folder / name)
    other = report(folder / "other", tmp_path / "other")
    assert other.exit_code == 0, other.output
    own = report(folder / "mine", tmp_path / "own")
    assert "unexpected" not in own.stderr
    if damage == "missing":
        return
    assert own.exit_code == SEARCH_FILES[name], own.output
    if SEARCH_FILES[name] or (name.endswith(".jsonl") and damage in ("half", "random", "list")):
        assert Path(name).name in own.stderr
        assert "damaged" in own.stderr or "cannot be read" in own.stderr
    if own.exit_code == 0 and name.endswith(".jsonl") and damage in ("half", "random", "list"):
        assert "cannot be read" in (tmp_path / "own" / "report.html").read_text()
