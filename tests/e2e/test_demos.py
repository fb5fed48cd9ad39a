"""Each demo from raw files to a ranking, by the command a reader types, with a small budget."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from mmcore.data.raw.source import RawConfig
from mmcore.data.spec import DATASETS

DEMOS = [name for name in DATASETS.names() if issubclass(DATASETS.get(name).Config, RawConfig)]
SMALL = ["--trials", "1", "--max-epochs", "1", "--final-seeds", "1", "--cpus", "2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The folder of one search on all demos, which share its Ray; and the ranking of each."""
    folder = tmp_path_factory.mktemp("demos")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    named = [part for name in DEMOS for part in ("--dataset", name)]
    command = [sys.executable, "-m", "rayjobs.tune", *named, "--demo", *SMALL, "--json"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1100)
    assert done.returncode == 0, done.stderr
    return folder, {table["dataset"].removesuffix("+demo"): table for table in json.loads(done.stdout)["rankings"]}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", DEMOS)
def test_a_demo_ends_in_a_ranking(finished: tuple[Path, dict[str, dict[str, Any]]], name: str) -> None:
    folder, tables = finished
    table = tables[name]
    assert {row["method"] for row in table["rows"]} == {"iprm", "aug", "ensemble"}
    assert table["constructed"] is True
    assert all(0 < row["accuracy"] <= 1 for row in table["rows"]), table["rows"]
    assert (folder / "data" / f"{name}+demo" / "dataset.json").is_file()


def test_make_demos_runs_every_demo() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (line,) = [line for line in makefile.splitlines() if line.startswith("DEMOS :=")]
    assert line.removeprefix("DEMOS :=").split() == DEMOS
