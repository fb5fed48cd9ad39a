"""Accuracy by class, in what `train` and `tune` print and in the report."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from click.testing import CliRunner

from rayjobs.reporting import html_page, wording
from rayjobs.reporting.by_class import MAX_SHOWN, ClassRow, by_class, cells, is_imbalanced, shown
from rayjobs.reporting.ranking_table import RankingRow, RankingTable
from rayjobs.train import main


def prepared_of(labels: list[int], classes: tuple[str, ...]) -> Any:
    spec = SimpleNamespace(classes=classes, num_classes=len(classes))
    return SimpleNamespace(spec=spec, index=pa.table({"label": labels}))


def assignment_of(train: list[int], test: list[int]) -> Any:
    return SimpleNamespace(rows=lambda split: np.array({"train": train, "test": test}[split]))


def test_each_class_has_its_samples_and_the_mean_over_the_models_that_tested_it() -> None:
    prepared = prepared_of([0, 0, 0, 1, 0, 1, 2], ("sad", "glad", "never tested"))
    models = [
        {"fused/class_0/accuracy": 0.5, "fused/class_1/accuracy": 0.0, "audio/class_0/accuracy": 0.25},
        {"fused/class_0/accuracy": 1.0, "audio/class_0/accuracy": 0.75},
    ]
    found = by_class(
        prepared, assignment_of([0, 1, 2, 3, 6], [4, 5]), {"both": ("fused", models), "ear": ("audio", models)}
    )
    assert [row.to_dict() for row in found] == [
        {"class": "sad", "train": 3, "test": 1, "accuracy": {"both": 0.75, "ear": 0.5}},
        {"class": "glad", "train": 1, "test": 1, "accuracy": {"both": 0.0}},
        {"class": "never tested", "train": 1, "test": 0, "accuracy": {}},
    ]
    assert cells(found[1], ["both", "ear"]) == ["glad", "1", "1", "0.0", ""]


@pytest.mark.parametrize(
    ("sizes", "expected"), [([10, 10], False), ([10, 19], False), ([10, 20], True), ([0, 9], False)]
)
def test_what_counts_as_imbalanced(sizes: list[int], expected: bool) -> None:
    assert is_imbalanced([ClassRow(name="", train=size, test=0, accuracy={}) for size in sizes]) is expected


def test_of_many_classes_those_with_the_lowest_accuracy_are_shown_in_their_order() -> None:
    rows = [ClassRow(name=str(n), train=1, test=1, accuracy={"a": 0.9, "b": (n * 7 % 100) / 100}) for n in range(100)]
    some, note = shown(rows)
    assert len(some) == MAX_SHOWN
    assert max(min(row.accuracy.values()) for row in some) == pytest.approx((MAX_SHOWN - 1) / 100)
    assert [row.name for row in some] == sorted((row.name for row in some), key=int)
    assert note == f"the {MAX_SHOWN} of 100 classes with the lowest accuracy"
    assert shown(rows[:3]) == (rows[:3], "")


def test_the_report_shows_a_rankings_classes_and_the_terminal_says_so() -> None:
    found = ClassRow(name="sad", train=30, test=3, accuracy={"iprm": 2 / 3})
    row = RankingRow(
        method="iprm", accuracy=0.9, half_width=None, folds=None, accuracies=[0.9], seeds=[1], delta=None,
        modalities={}, trials=1, begun=1, failed=0, stopped_early=0, epochs=1, device_seconds=1.0,
        best=None, best_of_folds=None, config_file=None, failures=[],
    )  # fmt: skip
    table = RankingTable(
        dataset="mine", card="", constructed=False, data_fingerprint="", protocol="", folds=None, num_test_samples=3,
        interval_note="", chance_notes=[], search_note="", classes=[found], rows=[row],
    )  # fmt: skip
    grid = html_page._results(table, None)[-1]
    assert grid.headings == ("class", "train", "test", "iprm")
    assert grid.rows == [["sad", "30", "3", "66.7"]]
    assert wording.table_notes(table) == [wording.CLASSES_NOTE]
    assert wording.table_notes(replace(table, classes=[])) == []


def write_own_data(folder: Path) -> Path:
    """80 samples of two table columns, three of four of the class `usual`."""
    generator = np.random.default_rng(0)
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "mood", "split", "height", "weight"])
        for number in range(80):
            rare = number % 4 == 0
            split = ("train", "train", "val", "test")[number // 4 % 4]
            values = generator.normal(3 * rare, 1, 2).round(3)
            writer.writerow([f"s{number}", "rare" if rare else "usual", split, *values])
    described = {
        "name": "moods",
        "manifest": "rows.csv",
        "label": "mood",
        "id": "id",
        "split": "split",
        "modalities": {name: {"kind": "tabular", "columns": [name]} for name in ("height", "weight")},
    }
    path = folder / "moods.yaml"
    path.write_text(yaml.safe_dump(described))
    return path


@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_train_prints_each_class_of_an_imbalanced_set(weights: str, tmp_path: Path) -> None:
    arguments = ["--dataset", str(write_own_data(tmp_path)), "--method", "ensemble", "--max-epochs", "1"]
    folders = ["--data-dir", str(tmp_path / "data"), "--output", str(tmp_path / "results")]
    done = CliRunner().invoke(main, [*arguments, *folders, "--set", f"trainer.class_weights={weights}"])
    assert done.exit_code == 0, done.output
    (path,) = (tmp_path / "results").glob("*/seed-0/result.json")
    test = json.loads(path.read_text())["test"]
    for number, (name, train, tested) in enumerate([("rare", "10", "5"), ("usual", "30", "15")]):
        own = [f"{100 * test[f'{head}/class_{number}/accuracy']:.1f}" for head in ("fused", "height", "weight")]
        assert [name, train, tested, *own] in [line.split() for line in done.stdout.splitlines()]


def test_train_prints_no_classes_of_a_balanced_set(tmp_path: Path) -> None:
    folders = ["--data-dir", str(tmp_path / "data"), "--output", str(tmp_path)]
    done = CliRunner().invoke(main, ["--method", "ensemble", "--max-epochs", "1", *folders])
    assert done.exit_code == 0, done.output
    assert "class, right on test" not in done.stdout
