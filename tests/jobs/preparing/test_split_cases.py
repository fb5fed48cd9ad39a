"""Tables with speakers and without a test split: what `prepare` and its check say, and that training does the same."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from mmcore.config.schema import ProtocolConfig
from mmcore.data.prepared.store import PreparedDataset
from rayjobs import prepare, train

HOLDOUT_BY_GROUP = "holdout (published test, validation cut from train by group, seed 0)"


def describe(folder: Path, number: int, row: Callable[[int], dict[str, Any]], *columns: str) -> Path:
    """A table of `number` rows of two numbers and two classes, `row` adding to each; returns its description."""
    generator = np.random.default_rng(0)
    rows = [
        {"y": ("cat", "dog")[n % 2], "a": generator.normal(), "b": generator.normal(), **row(n)} for n in range(number)
    ]
    with (folder / "t.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    kinds = {
        f"facts_{name}": {"kind": "tabular", "columns": [name], "encoder": {"name": "mlp", "features": 4}}
        for name in "ab"
    }
    content = {"manifest": "t.csv", "label": "y", "modalities": kinds} | dict(zip(columns, columns, strict=True))
    (folder / "my.yaml").write_text(yaml.safe_dump(content))
    return folder / "my.yaml"


def run(command: Any, path: Path, *more: object) -> Result:
    return CliRunner().invoke(command.main, ["--dataset", str(path), *map(str, more)])


def sides(data: PreparedDataset) -> list[set[str]]:
    """The groups that train, validate and test."""
    assignment = data.assign(ProtocolConfig())
    groups = data.index["group"].to_numpy()
    return [set(groups[assignment.rows(split)]) for split in ("train", "val", "test")]


def assert_same_split(path: Path, data_dir: Path, sentences: Sequence[str], code: int = 0) -> PreparedDataset:
    """The check and the summary print the sentences, and agree in JSON; returns the prepared data set."""
    check = run(prepare, path, "--check")
    assert check.exit_code == code, check.output
    prepared = run(prepare, path, "--data-dir", data_dir)
    assert prepared.exit_code == 0, prepared.output
    for sentence in sentences:
        assert f"\n{sentence}\n" in check.stdout
        assert f"\n  {sentence}\n" in prepared.stdout
    found = [
        json.loads(run(prepare, path, *more, "--json").stdout)["split"]
        for more in (["--check"], ["--data-dir", data_dir])
    ]
    assert found[0] == found[1]
    return PreparedDataset.open(data_dir / "my")


def test_speakers_without_a_published_split(tmp_path: Path) -> None:
    path = describe(tmp_path, 120, lambda n: {"group": f"speaker{n // 10}"}, "group")
    data = assert_same_split(
        path,
        tmp_path / "data",
        [
            "split for training: group (seed 0): 80 train (8 groups), 20 val (2 groups), 20 test (2 groups)",
            "no group lies on both sides of a boundary",
        ],
    )
    parts = sides(data)
    assert [len(part) for part in parts] == [8, 2, 2]
    assert len(set.union(*parts)) == 12
    report = json.loads(run(prepare, path, "--check", "--json").stdout)
    assert report["split"]["samples"] == {"train": 80, "val": 20, "test": 20}
    assert report["splits"] == {"all": {"listed": 120, "usable": 120, "found": 120}}
    assert report["split"]["shared_groups"] == {}


def test_speakers_whose_published_split_has_no_validation(tmp_path: Path) -> None:
    path = describe(
        tmp_path,
        120,
        lambda n: {"split": ("train", "test")[n // 10 % 2], "group": f"speaker{n // 10}"},
        "split",
        "group",
    )
    data = assert_same_split(
        path,
        tmp_path / "data",
        [
            f"split for training: {HOLDOUT_BY_GROUP}: 50 train (5 groups), 10 val (1 group), 60 test (6 groups)",
            "no group lies on both sides of a boundary",
        ],
    )
    parts = sides(data)
    assert len(set.union(*parts)) == sum(map(len, parts)) == 12
    assert parts[2] == {f"speaker{n}" for n in range(1, 12, 2)}


@pytest.mark.slow
def test_training_uses_the_split_that_was_shown(tmp_path: Path) -> None:
    path = describe(tmp_path, 60, lambda n: {"group": f"speaker{n // 5}" if n < 40 else f"alone {n}"}, "group")
    assert_same_split(path, tmp_path / "data", ["no group lies on both sides of a boundary"])
    shown = json.loads(run(prepare, path, "--check", "--json").stdout)["split"]
    folders = ["--data-dir", tmp_path / "data", "--output", tmp_path / "results"]
    trained = run(
        train, path, "--method", "joint", *folders, "--max-epochs", 1, "--set", "trainer.device=cpu", "--json"
    )
    assert trained.exit_code == 0, trained.output
    (result,) = json.loads(trained.stdout)["results"]
    assert result["protocol"] == shown["line"] == "group (seed 0)"
    assert (
        shown["groups"]["train"] + shown["groups"]["val"] + shown["groups"]["test"] == 8 + 20
    )  # the others stand alone


def test_no_test_split_is_said_before_training(tmp_path: Path) -> None:
    path = describe(tmp_path, 24, lambda n: {"split": ("train", "train", "val", "train")[n // 2 % 4]}, "split")
    reason = (
        "my: protocol holdout (published splits) leaves no samples for test: use --protocol cv, which draws all three "
        "anew, or give it test samples"
    )
    assert_same_split(
        path,
        tmp_path / "data",
        [f"warning: training under the default protocol, holdout, would be refused: {reason}"],
        code=1,
    )
    refused = run(train, path, "--method", "joint", "--data-dir", tmp_path / "data", "--output", tmp_path / "results")
    assert refused.exit_code == 1
    assert reason in refused.stderr


@pytest.mark.parametrize("number", [1, 2])
def test_too_few_speakers_are_said_before_training(tmp_path: Path, number: int) -> None:
    path = describe(tmp_path, 24, lambda n: {"group": f"speaker{n // 2 % number}"}, "group")
    check = run(prepare, path, "--check")
    assert check.exit_code == 1
    assert f"my has {number} group" in check.stdout
    assert "--protocol holdout does not keep groups apart, so its result is one on known groups" in check.stdout
    assert "no group lies on both sides" not in check.stdout


def test_a_class_without_training_samples_is_a_warning(tmp_path: Path) -> None:
    path = describe(
        tmp_path,
        30,
        lambda n: {"split": ("train", "val", "test")[n % 3], "y": "dog" if n in {1, 4} else "cat"},
        "split",
    )
    assert_same_split(
        path,
        tmp_path / "data",
        [
            "warning: 1 class has no training sample (dog): no model can learn it",
            "warning: 1 class has no test sample (dog): no result tells of it",
        ],
    )


def test_one_class_only_is_a_warning(tmp_path: Path) -> None:
    path = describe(tmp_path, 30, lambda n: {"split": ("train", "val", "test")[n % 3], "y": "cat"}, "split")
    path.write_text(path.read_text() + "classes: [cat, dog]\n")
    assert_same_split(
        path, tmp_path / "data", ["warning: every sample is of the class 'cat': there is nothing to tell apart"]
    )


def test_a_leak_that_is_only_among_damaged_samples_is_none(tmp_path: Path) -> None:
    """The default protocol goes by what is left, in the check as in what is prepared."""
    path = describe(
        tmp_path,
        60,
        lambda n: {
            "split": ("train", "val", "test")[n % 3],
            "group": f"speaker{n % 3}" if n != 59 else "speaker0",
            "file": f"{n}.npy",
        },
        "split",
        "group",
    )
    for n in range(60):
        np.save(tmp_path / f"{n}.npy", np.full(2, np.nan if n == 59 else 1.0))
    content = yaml.safe_load(path.read_text())
    content["modalities"]["trace"] = {"kind": "series", "column": "file", "length": 2}
    path.write_text(yaml.safe_dump(content))
    check = json.loads(run(prepare, path, "--check", "--json").stdout)
    prepared = json.loads(run(prepare, path, "--on-missing", "skip", "--data-dir", tmp_path / "data", "--json").stdout)
    assert check["left_out"] == prepared["left_out"] == {"damaged": 1}
    assert check["split"] == prepared["split"]
    assert prepared["default_protocol"] == "holdout"


def test_one_group_on_both_sides_is_one(tmp_path: Path) -> None:
    def row(n: int) -> dict[str, str]:
        return {"group": f"s{n // 4}", "split": "train" if n < 14 else "val" if n < 20 else "test"}

    output = run(prepare, describe(tmp_path, 32, row, "group", "split"), "--check").stdout
    line = "LEAK: 1 group is in train and in val of the published split (first: s3); groups: 4 in train, 2 in val"
    assert f"\n{line}\n" in output
