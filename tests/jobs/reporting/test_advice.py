"""A search, then what it says to do next: no model's test result is read twice, and every option is tried as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT

from mmcore.assembly.config import parse_config, with_values
from rayjobs.runs.test_ledger import read_ledger

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

SMALL = {"name": "small_conv", "width": 4, "features": 16}
SPACE: dict[str, Any] = {
    "trials": 2,
    "max_epochs": 1,
    "set": {"model.encoders.audio": SMALL},
    "space": {
        "model.encoders.image": {"choice": [SMALL | {"width": 2}, SMALL]},
        "optimizer.clip_norm": {"choice": [5.0, None]},
        "trainer.probes": {"choice": [True, False]},
    },
    "points": [
        {"model.encoders.image": SMALL, "optimizer.clip_norm": None, "trainer.probes": False},
        {"model.encoders.image": SMALL | {"width": 2}, "optimizer.clip_norm": None, "trainer.probes": True},
    ],
}


def shell(folder: Path, command: str) -> str:
    """Runs a command line as it was printed, with this Python; returns what it prints."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tune(folder: Path, space: dict[str, Any], *arguments: str) -> dict[str, Any]:
    """Runs a search and returns its ranking."""
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    fixed = "--space space.yaml --method joint --reference none --final-seeds 2 --cpus 2 --json --output out"
    return json.loads(shell(folder, f"python -m rayjobs.tune {fixed} {' '.join(arguments)}"))


def readings(folder: Path) -> list[tuple[str, int, int]]:
    """Returns configuration (but for seed and fold), seed and fold of every reading of test."""
    found = []
    for entry in read_ledger(folder / "out" / "ledger.jsonl"):
        config = json.loads((Path(entry["run_dir"]) / "config.json").read_text())
        assert parse_config(config).fingerprint() == entry["config"]
        seed, fold = config.pop("seed"), config["protocol"].pop("fold")
        found.append((json.dumps(config, sort_keys=True), seed, fold))
    return found


def test_the_advice_reads_no_model_twice_and_points_are_tried_as_they_are(tmp_path: Path) -> None:
    ranking = tune(tmp_path, SPACE, "--seed", "4")
    search = tmp_path / "out" / "digits-joint" / "digits-joint"
    trials = json.loads((search / "search.json").read_text())["trials"]
    assert [trial["values"] for trial in trials] == SPACE["points"]
    for trial in trials:
        config = json.loads((search / trial["name"] / "config.json").read_text())
        own = with_values(parse_config(config), trial["values"]).to_dict()  # an encoder's defaults filled in
        assert own == config
    best = yaml.safe_load((tmp_path / "out" / "digits-joint" / "best-digits-joint.yaml").read_text())
    assert best["model"]["encoders"]["image"]["width"] in (2, 4)
    assert best["optimizer"]["clip_norm"] is None
    assert sorted(seed for _, seed, _ in readings(tmp_path)) == [5, 6]  # the search's own, 4, was never tested
    shell(tmp_path, ranking["next"])
    found = readings(tmp_path)
    assert sorted(seed for _, seed, _ in found) == [5, 6, 7, 8, 9, 10, 11]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("once", [[], ["--search-once"]], ids=["each fold", "once"])
def test_the_advice_of_a_cross_validation_covers_its_folds_with_fresh_seeds(tmp_path: Path, once: list[str]) -> None:
    space = SPACE | {"space": {"optimizer.clip_norm": {"choice": [None]}}, "points": []}
    ranking = tune(tmp_path, space, "--protocol", "cv", "--folds", "3", "--search", "grid", *once)
    assert len(readings(tmp_path)) == 2 * 3
    shell(tmp_path, ranking["next"])
    found = readings(tmp_path)
    assert sorted((fold, seed) for _, seed, fold in found) == [
        (fold, seed) for fold in range(3) for seed in range(1, 8)
    ]
    assert len(set(found)) == len(found) == 21
