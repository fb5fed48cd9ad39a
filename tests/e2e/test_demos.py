"""Each demo from raw files to a ranking, by the command a reader types, with a small budget."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from mmcore.data.raw.source import RawConfig
from mmcore.data.spec import DATASETS

DEMOS = [name for name in DATASETS.names() if issubclass(DATASETS.get(name).Config, RawConfig)]
SMALL = ["--trials", "2", "--max-epochs", "2", "--final-seeds", "1", "--cpus", "2"]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("name", DEMOS)
def test_a_demo_ends_in_a_ranking(tmp_path: Path, name: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "rayjobs.tune", "--dataset", name, "--demo", *SMALL, "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr
    (table,) = json.loads(done.stdout)["rankings"]
    assert {row["method"] for row in table["rows"]} == {"iprm", "aug", "ensemble"}
    assert table["constructed"] is True
    assert all(0 < row["accuracy"] <= 1 for row in table["rows"]), table["rows"]
    assert (tmp_path / "data" / f"{name}+demo" / "dataset.json").is_file()


def test_make_demos_runs_every_demo() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (line,) = [line for line in makefile.splitlines() if line.startswith("DEMOS :=")]
    assert line.removeprefix("DEMOS :=").split() == DEMOS
