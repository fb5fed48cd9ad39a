"""What a search will take of the disk: told before it begins, and refused where it cannot fit."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mmcore.assembly.config import parse_config
from mmcore.assembly.sizes import checkpoint_sizes
from mmcore.data.prepared.store import PreparedDataset
from rayjobs.train import main as train
from rayjobs.tune import main

Usage = namedtuple("Usage", "total used free")
DIGITS = ["--dataset", "digits", "--method", "joint", "--reference", "none", "--trials", "10"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.mark.parametrize(
    "optimizer", [["optimizer.name=adamw"], pytest.param(["optimizer.momentum=0"], marks=pytest.mark.slow), []]
)
def test_the_sizes_are_those_of_the_files(data_dir: Path, tmp_path: Path, optimizer: list[str]) -> None:
    arguments = [part for value in (*optimizer, "trainer.checkpoint_every=1") for part in ("--set", value)]
    done = CliRunner().invoke(train, ["--method", "iprm", "--max-epochs", "2", "--name", "run", *arguments,
                                      "--data-dir", str(data_dir), "--output", str(tmp_path)])  # fmt: skip
    assert done.exit_code == 0, done.output
    run_dir = tmp_path / "run" / "seed-0"
    config = parse_config(json.loads((run_dir / "config.json").read_text()))
    sizes = checkpoint_sizes(config, PreparedDataset.open(data_dir / "digits").spec)
    for pattern, told in (("epoch-000002", sizes.resume_point), ("best-*", sizes.best_model)):
        (file,) = (run_dir / "checkpoints").glob(f"{pattern}/checkpoint.pt")
        assert told == pytest.approx(file.stat().st_size, rel=0.1), pattern
    everything = sum(path.stat().st_size for path in (run_dir / "checkpoints").rglob("*.pt"))
    assert sizes.run == pytest.approx(everything, rel=0.1)


def test_a_dry_run_tells_what_it_takes(tmp_path: Path) -> None:
    told = run(*DIGITS, "--dry-run", "--json", "--output", str(tmp_path))
    words = json.loads(told.stdout)["disk"]
    assert words.startswith("checkpoints take up to ")
    assert "are free" in words
    once = float(words.split()[4])
    twice = float(json.loads(run(*DIGITS[:-1], "23", "--dry-run", "--json").stdout)["disk"].split()[4])
    assert twice == pytest.approx(2 * once, abs=2)  # 10 and 3, 23 and 3
    kept = [
        json.loads(run(*DIGITS, "--dry-run", "--json", "--keep", keep).stdout)["disk"] for keep in ("all", "finals")
    ]
    stays = [float(one.partition(" and ")[2].split()[0]) for one in kept]
    assert stays[0] > 3 * stays[1] > 0


def test_what_cannot_fit_is_refused_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 10**5))
    refused = run(*DIGITS, "--output", str(tmp_path / "results"), "--data-dir", str(tmp_path / "data"))
    assert refused.exit_code == 2
    message = refused.stderr.replace("\n", " ")
    assert "0 MB are free, so " in message
    assert "--force" in message
    assert not (tmp_path / "results").exists()
