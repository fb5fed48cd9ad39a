"""Empty cells: what fills them comes from a run's own training samples, and travels with the model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from raw_files import save_text

from mmcore.assembly.config import complete_config, parse_config
from mmcore.assembly.filling import fit_fillings
from mmcore.assembly.objects import build_method
from mmcore.batch import Batch
from mmcore.config.schema import ProtocolConfig, RunConfig
from mmcore.data.media import RawFolder
from mmcore.data.prepared.columns import to_batch
from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.raw_check import examine
from mmcore.data.prepared.store import PreparedDataset
from mmcore.data.raw.description import ManifestConfig, read_description
from mmcore.data.sources.user_table import Manifest
from mmcore.errors import DataError


def make(folder: Path, fill: Any, empty: str = "a", **section: Any) -> tuple[PreparedDataset, RunConfig]:
    """Forty rows whose test rows are a thousand times as large; every fourth lacks a number."""
    rows = []
    for n in range(40):
        part = ("train", "train", "val", "test")[n // 2 % 4]
        row = {"y": "ab"[n % 2], "a": n * (1000 if part == "test" else 1), "b": 1.0, "part": part, "id": f"r{n:02d}"}
        rows.append(row | ({empty: None} if n % 4 == 0 else {}))
    save_text(folder / "t.jsonl", "\n".join(map(json.dumps, rows)))
    facts = {
        "kind": "tabular",
        "columns": ["a", "b"],
        "fill": fill,
        "encoder": {"name": "mlp", "features": 4},
        **section,
    }
    other = {"kind": "tabular", "columns": ["b"], "fill": 0, "encoder": {"name": "mlp", "features": 4}}
    content = {"manifest": "t.jsonl", "label": "y", "split": "part", "id": "id"}
    text = yaml.safe_dump({**content, "modalities": {"facts": facts, "other": other}})
    options = read_description(save_text(folder / "my.yaml", text))
    config = {"dataset": {"name": "manifest", "options": options}, "method": {"name": "joint"}}
    return prepare("manifest", options, options["root"], folder / "data"), complete_config(parse_config(config))


def filled(
    prepared: PreparedDataset, config: RunConfig, protocol: ProtocolConfig
) -> tuple[np.ndarray, np.ndarray, Any]:
    """The rows as stored, those that train, and the model."""
    method = build_method(config, prepared.spec)
    fit_fillings(method.model, prepared, protocol)
    return prepared.read_modality("facts")[0], prepared.assign(protocol).train, method.model


@pytest.mark.parametrize("rule", ["mean", "median"])
@pytest.mark.parametrize(
    "protocol", [ProtocolConfig(), ProtocolConfig(name="paper"), ProtocolConfig(name="cv", folds=4),
                 ProtocolConfig(name="cv", folds=4, fold=2)]
)  # fmt: skip
def test_it_is_fitted_on_the_rows_that_train_and_no_others(tmp_path: Path, rule: str, protocol: ProtocolConfig) -> None:
    prepared, config = make(tmp_path, rule)
    stored, train, model = filled(prepared, config, protocol)
    assert np.isnan(stored[:, 0]).sum() == 10
    known = sorted(float(value) for value in stored[train, 0] if not np.isnan(value))
    half = len(known) // 2
    middle = known[half] if len(known) % 2 else (known[half - 1] + known[half]) / 2
    expected = sum(known) / len(known) if rule == "mean" else middle
    assert model.fillings["facts"].values.tolist() == pytest.approx([expected, 1.0])
    if protocol.name == "paper":
        assert expected < 40  # a row of test would show


def test_the_model_sees_filled_numbers(tmp_path: Path) -> None:
    prepared, config = make(tmp_path, "mean")
    stored, _, model = filled(prepared, config, ProtocolConfig())
    model.eval()
    batch = to_batch(prepared.read_table(), prepared.spec)
    features = model.encode(batch)["facts"]
    replaced = np.where(np.isnan(stored), model.fillings["facts"].values.numpy(), stored)
    torch.testing.assert_close(features, model.encoders["facts"](torch.from_numpy(replaced)))
    again = build_method(config, prepared.spec).model
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.eval().encode(batch)["facts"], features)


def test_before_it_is_fitted_nothing_is_filled(tmp_path: Path) -> None:
    prepared, config = make(tmp_path, "mean")
    model = build_method(config, prepared.spec).model.eval()
    batch: Batch = to_batch(prepared.read_table(), prepared.spec)
    assert model.encode(batch)["facts"].isnan().any()


def test_a_number_of_ones_own_is_stored(tmp_path: Path) -> None:
    prepared, config = make(tmp_path, -7)
    stored, _, model = filled(prepared, config, ProtocolConfig())
    assert (stored[:, 0] == -7).sum() == 10
    assert not model.fillings
    rules = {entry["rule"] for entry in prepared.metadata["noted"]}
    assert rules == {"facts filled by -7"}


def test_rows_without_any_number_are_missing_where_that_is_allowed(tmp_path: Path) -> None:
    prepared, config = make(tmp_path, "mean", columns=["a"], may_be_missing=True)
    present = prepared.read_modality("facts")[1]
    assert present is not None
    assert (~present).sum() == 10
    stored, train, model = filled(prepared, config, ProtocolConfig())
    known = stored[train][present[train]]
    assert model.fillings["facts"].values.tolist() == pytest.approx(known.mean(axis=0).tolist())


def test_a_column_that_is_empty_in_training_is_named_before_and_by_it(tmp_path: Path) -> None:
    prepared, config = make(tmp_path, "median")
    method = build_method(config, prepared.spec)
    fit_fillings(method.model, prepared, ProtocolConfig())
    text = (tmp_path / "t.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in text]
    rows = [{**row, "a": None} if row["part"] == "train" else row for row in rows]
    save_text(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)))
    options = read_description(tmp_path / "my.yaml")
    source = Manifest(ManifestConfig.model_validate(options))
    split = examine(source, RawFolder(tmp_path))["split"]
    reason = "my: no training sample has a number in column 'a' (facts), so fill: mean or median has nothing to go by"
    assert split["refused"].startswith(reason)
    prepared = prepare("manifest", options, options["root"], tmp_path / "data")
    with pytest.raises(DataError, match=re.escape(reason)):
        fit_fillings(method.model, prepared, ProtocolConfig())
    fit_fillings(method.model, prepared, ProtocolConfig(name="cv", folds=4))  # others train there


def test_rows_that_lack_the_modality_are_no_numbers(tmp_path: Path) -> None:
    prepared, _ = make(tmp_path, "mean", columns=["a"], may_be_missing=True)
    (is_known,) = prepared.columns_to_fill().values()
    assert is_known.sum() == 30
