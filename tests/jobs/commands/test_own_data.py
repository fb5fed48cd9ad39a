"""A YAML file wherever a data set is named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from places import ROOT
from raw_files import describe_numbers, save_picture, save_text, save_wave

from mmcore.data.prepared.store import PreparedDataset
from mmcore.data.raw.description import ManifestConfig, read_description
from mmcore.errors import UsageError
from rayjobs import prepare, train, tune
from rayjobs.preparing.datasets import resolve_dataset

DOCS = (ROOT / "docs" / "your-data.md").read_text()


@pytest.fixture
def description(tmp_path: Path) -> Path:
    return describe_numbers(tmp_path)


def run(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command.main, [str(argument) for argument in arguments])  # type: ignore[attr-defined]


def test_the_documented_example_works(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)[0])
    (table,) = re.findall(r"```text\n(.*?)```", DOCS, re.DOTALL)
    save_text(tmp_path / "samples.csv", table)
    for clip in ("c1", "c2", "c3"):
        save_wave(tmp_path / "wav" / f"{clip}.wav")
    save_picture(tmp_path / "faces" / "c1.jpg")
    result = run(prepare, "--dataset", tmp_path / "my.yaml", "--check")
    assert result.exit_code == 0, result.output
    assert "every file listed is there and can be read" in result.stdout
    assert "train: angry 0, calm 0, happy 1" in result.stdout
    assert "warning: 2 of 3 classes have no training sample (angry, calm): no model can learn them" in result.stdout


def test_every_kind_is_documented() -> None:
    kinds = re.findall(r"^\| `(\w+)` \|", DOCS, re.MULTILINE)
    union = ManifestConfig.model_json_schema()["$defs"]
    assert kinds == ["audio", "image", "video", "text", "series", "tabular"]
    assert {column["properties"]["kind"]["const"] for column in union.values()} == set(kinds)


def test_prepare_and_train_a_set_with_rare_classes_and_missing_modalities(description: Path, tmp_path: Path) -> None:
    prepared = run(prepare, "--dataset", description, "--data-dir", tmp_path / "data")
    assert prepared.exit_code == 0, prepared.output
    assert "36 train, 12 val, 12 test" in prepared.stdout
    data = PreparedDataset.open(tmp_path / "data" / "mine")
    assert data.metadata["splits"]["train"]["class_counts"] == [24, 9, 3]
    arguments = ["--dataset", description, "--method", "iprm", "--data-dir", tmp_path / "data", "--output",
                 tmp_path / "results", "--max-epochs", "2", "--set", "trainer.device=cpu", "--json"]  # fmt: skip
    trained = run(train, *arguments)
    assert trained.exit_code == 0, trained.output
    document = json.loads(trained.stdout)
    assert document["folder"].endswith("train-mine-iprm")
    (result,) = document["results"]
    assert result["config"]["dataset"]["name"] == "manifest"
    assert result["config"]["dataset"]["options"] == read_description(description)
    assert 0 < result["test"]["fused/accuracy"] <= 1


def test_tune_knows_what_it_would_do(description: Path, tmp_path: Path) -> None:
    result = run(tune, "--dataset", description, "--data-dir", tmp_path / "data", "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert plan["experiment"] == "mine-aug-iprm-ensemble"
    assert plan["searches"][0]["config"]["model"]["encoders"]["facts"]["features"] == 8


def test_wrong_use(description: Path, tmp_path: Path) -> None:
    two = run(tune, "--dataset", description, "--dataset", "digits", "--dry-run")
    assert two.exit_code == 2
    assert "--dataset FILE.yaml: tune one data set of your own at a time" in two.stderr
    demo = run(prepare, "--dataset", description, "--demo")
    assert "--demo: manifest writes no raw files of its own" in demo.stderr
    assert resolve_dataset("digits") == ("digits", {})
    with pytest.raises(UsageError, match="there is no such file"):
        resolve_dataset(str(tmp_path / "other.yml"))
