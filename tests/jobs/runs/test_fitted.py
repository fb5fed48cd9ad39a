"""What a final model keeps of validation, and the sum of its heads by weights fitted there: beside its own answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmcore.analysis.logit_weights import fit_logit_weights
from mmcore.assembly.config import complete_config, parse_config
from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.store import PreparedDataset
from mmcore.training.run_log import PlainReporter
from rayjobs.feeding.handle import DataHandle
from rayjobs.runs import worker
from rayjobs.runs.job import Job
from rayjobs.runs.predictions import read_predictions
from rayjobs.runs.result import RunResult


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return prepare("digits", None, None, tmp_path_factory.mktemp("data"))


def trained(prepared: PreparedDataset, run_dir: Path, method: str) -> RunResult:
    values = {
        "dataset": {"name": "digits"},
        "method": {"name": method},
        "trainer": {"max_epochs": 1, "batch_size": 256, "diagnostics": False},
    }
    config = complete_config(parse_config(values)).to_dict()
    data = DataHandle(str(prepared.directory), in_process=True)
    return worker.run(Job(config, data, str(run_dir), test=True), PlainReporter())


def test_weights_are_fitted_on_validation_and_leave_the_models_own_answers(
    prepared: PreparedDataset, tmp_path: Path
) -> None:
    result = trained(prepared, tmp_path, "ensemble")
    stored = read_predictions(tmp_path)
    heads = ("image", "audio")
    on_validation = {name: stored[f"validation/logits/{name}"] for name in heads}
    weights = fit_logit_weights(on_validation, stored["validation/labels"])
    assert result.fitted_weights == pytest.approx(weights)
    assert min(weights.values()) < 0.99 * max(weights.values())  # else the test could not tell it from the mean
    summed = sum(weights[name] * stored[f"logits/{name}"].astype(np.float64) for name in heads)
    assert np.allclose(stored["logits/fused+fit"], summed, rtol=1e-4, atol=1e-4)
    own = (stored["logits/fused"].argmax(axis=1) == stored["labels"]).mean()
    assert result.tested["fused/accuracy"] == pytest.approx(own)
    there = (stored["validation/logits/fused"].argmax(axis=1) == stored["validation/labels"]).mean()
    assert result.best["val/fused/accuracy"] == pytest.approx(there)
    assert not set(stored["validation/sample_ids"]) & set(stored["sample_ids"])


def test_a_model_without_a_head_for_each_modality_has_no_such_sum(prepared: PreparedDataset, tmp_path: Path) -> None:
    result = trained(prepared, tmp_path, "joint")
    assert result.fitted_weights is None
    assert "logits/fused+fit" not in read_predictions(tmp_path)
