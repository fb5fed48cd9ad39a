"""Every file that outlives a process, damaged in every way: what the commands say and do, and what they leave."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from damages import DAMAGES, SOME
from raw_files import describe_numbers

from mmcore.training.run_log import read_rows
from rayjobs import predict, train
from rayjobs.runs.test_ledger import read_ledger

SEED = "results/run/seed-0"
RUN_FILES = [
    "results/run/train.json",
    "results/ledger.jsonl",
    "data/digits/dataset.json",
    *(f"{SEED}/{name}" for name in ("config.json", "metrics.jsonl", "result.json", "predictions.npz", "events*")),
]
GOES_ON = [f"{SEED}/metrics.jsonl", f"{SEED}/checkpoints/epoch-000002/checkpoint.pt",
           f"{SEED}/checkpoints/epoch-000002/manifest.json", f"{SEED}/events*"]  # fmt: skip
"""Files a run that has not ended goes on with."""
MADE_AGAIN = ("train.json", "dataset.json", "result.json", "predictions.npz")
"""Said, as far as they were there; `config.json` is written at every start, and only reports read it."""


def run(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command.main, [str(argument) for argument in arguments])  # type: ignore[attr-defined]


def train_in(folder: Path, *arguments: str) -> Result:
    places = ["--data-dir", folder / "data", "--output", folder / "results", "--name", "run"]
    spacing = ["--set", "trainer.checkpoint_every=1"]
    return run(train, "--method", "joint", "--max-epochs", "2", "--json", *spacing, *places, *arguments)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A folder with a run of two epochs, and what it had on test."""
    folder = tmp_path_factory.mktemp("trained")
    done = train_in(folder)
    assert done.exit_code == 0, done.output
    return folder, json.loads(done.stdout)["results"][0]["test"]


def copied(trained: tuple[Path, dict[str, float]], tmp_path: Path) -> Path:
    shutil.copytree(trained[0], tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize("damage", SOME)
@pytest.mark.parametrize("name", RUN_FILES)
def test_a_run_that_ended_is_read_or_mended(
    trained: tuple[Path, dict[str, float]], tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied(trained, tmp_path)
    (path,) = folder.glob(name)
    DAMAGES[damage](path)
    again = train_in(folder, "--resume")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["results"][0]["test"] == trained[1]
    assert read_rows(folder / SEED) or name.endswith("metrics.jsonl")
    if name.endswith(MADE_AGAIN) and (damage != "missing" or name.endswith("predictions.npz")):
        assert path.name in caplog.text
    if name.endswith(("result.json", "predictions.npz")):
        assert len(read_ledger(folder / "results/ledger.jsonl")) == 2  # the second reading is entered, too
    caplog.clear()
    once_more = train_in(folder, "--resume")
    assert json.loads(once_more.stdout)["results"][0]["test"] == trained[1]
    said = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert name.endswith("ledger.jsonl") or said == []  # mended, for good


@pytest.mark.parametrize("damage", SOME)
@pytest.mark.parametrize("name", GOES_ON)
def test_a_run_that_has_not_ended_goes_on(
    trained: tuple[Path, dict[str, float]], tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied(trained, tmp_path)
    (folder / SEED / "result.json").unlink()
    (path,) = folder.glob(name)
    DAMAGES[damage](path)
    again = train_in(folder, "--resume")
    assert again.exit_code == 0, again.output
    result = json.loads(again.stdout)["results"][0]
    assert result["test"] == trained[1]
    if "checkpoints" in name:
        assert any("went back to an older one" in notice for notice in result["notices"])
        assert "went back to an older one" in caplog.text
    if name.endswith("metrics.jsonl") and damage != "half":  # which leaves the first row whole
        assert any("lacks the rows of epoch 1" in notice for notice in result["notices"])
        assert [row["epoch"] for row in read_rows(folder / SEED)][-1] == 2


@pytest.mark.parametrize("damage", SOME)
@pytest.mark.parametrize("name", ["checkpoint.pt", "manifest.json"])
def test_predict_refuses_a_damaged_checkpoint_with_one_message(tmp_path: Path, name: str, damage: str) -> None:
    path = describe_numbers(tmp_path)
    done = run(train, "--dataset", path, "--method", "joint", "--data-dir", tmp_path / "data", "--output",
               tmp_path / "results", "--name", "run", "--max-epochs", "1")  # fmt: skip
    assert done.exit_code == 0, done.output
    (file,) = (tmp_path / SEED).glob(f"checkpoints/best-*/{name}")
    DAMAGES[damage](file)
    refused = run(predict, "--checkpoint", tmp_path / SEED, "--data", path, "--out", tmp_path / "out.parquet")
    assert refused.exit_code == 1
    assert "unexpected" not in refused.stderr
    assert file.parent.name in refused.stderr
    assert not (tmp_path / "out.parquet").exists()
