"""A run made of parts: each trained as by itself, their logits summed by weights of validation, test read once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from mmcore.analysis.logit_weights import fit_logit_weights
from mmcore.assembly.config import complete_config, parse_config
from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.store import PreparedDataset
from mmcore.errors import ConfigError
from mmcore.training.checkpoint import CheckpointFolder
from mmcore.training.run_log import PlainReporter, Row
from rayjobs.feeding.handle import DataHandle
from rayjobs.predict import main as predict
from rayjobs.results_layout import LEDGER_FILE, PREDICTIONS_FILE
from rayjobs.runs import parts, worker
from rayjobs.runs.environment import processor
from rayjobs.runs.job import Job
from rayjobs.runs.result import read_result
from rayjobs.runs.test_ledger import open_ledger, read_ledger
from rayjobs.search.searches import TUNED_ENSEMBLE, SearchOptions, build_searches
from rayjobs.search.spaces import load_space, space_file

EPOCHS = 2


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return prepare("digits", None, None, tmp_path_factory.mktemp("data"))


def config_of(modality: str, lr: float) -> dict[str, Any]:
    values = {
        "dataset": {"name": "digits"},
        "method": {"name": "unimodal", "modality": modality},
        "optimizer": {"lr": lr},
        "trainer": {"max_epochs": EPOCHS, "batch_size": 256, "probes": False, "diagnostics": False},
        "seed": 3,
    }
    return complete_config(parse_config(values)).to_dict()


def job_of(prepared: PreparedDataset, run_dir: Path) -> Job:
    configs = {"image": config_of("image", 0.05), "audio": config_of("audio", 0.01)}
    data = DataHandle(str(prepared.directory), in_process=True)
    return Job(configs["image"], data, str(run_dir), test=True, parts=configs)


def weights_of(run_dir: Path) -> dict[str, torch.Tensor]:
    state, _ = CheckpointFolder(run_dir / "checkpoints").newest_resume_point()
    assert state is not None
    return dict(state["method"])


@pytest.fixture(scope="module")
def finished(prepared: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("results")
    open_ledger(output)
    reporter = PlainReporter()
    parts.run(job_of(prepared, output / "final-1"), reporter)
    assert [row["epoch"] for row in reporter.rows] == [1, 2, 3, 4], "a part's epochs follow those of the one before"
    return output / "final-1"


def test_each_part_is_trained_as_by_itself(finished: Path, prepared: PreparedDataset, tmp_path: Path) -> None:
    job = job_of(prepared, tmp_path / "alone")
    worker.run(replace(job, config=job.parts["audio"], parts={}, test=False), PlainReporter())
    alone, part = weights_of(tmp_path / "alone"), weights_of(finished / "audio")
    assert all(torch.equal(alone[name], part[name]) for name in alone)


def test_the_result_is_the_sum_by_weights_of_validation(finished: Path, prepared: PreparedDataset) -> None:
    result = read_result(finished)
    assert result
    assert result.test
    assert result.weights
    job = job_of(prepared, finished)
    logits: dict[str, dict[str, np.ndarray]] = {"val": {}, "test": {}}
    labels: dict[str, np.ndarray] = {}
    for name, config in job.parts.items():
        trainer = worker.build_trainer(
            replace(job, config=config, run_dir=str(finished / name), parts={}), parse_config(config), prepared, None
        )
        trainer.load_selected()
        for split in logits:
            evaluation = trainer.evaluate(split)
            logits[split][name], labels[split] = evaluation.logits[name].numpy(), evaluation.labels.numpy()
    assert result.weights == fit_logit_weights(logits["val"], labels["val"])
    summed = sum(result.weights[name] * logits["test"][name].astype(np.float64) for name in logits["test"])
    with np.load(finished / PREDICTIONS_FILE) as stored:
        assert np.allclose(stored["logits/fused"], summed, rtol=1e-5, atol=1e-5)
        assert np.allclose(stored["logits/audio"], logits["test"]["audio"])
        right = (stored["logits/fused"].argmax(axis=1) == stored["labels"]).mean()
    assert result.test["fused/accuracy"] == pytest.approx(right)
    assert result.test["image/accuracy"] == pytest.approx(
        (logits["test"]["image"].argmax(axis=1) == labels["test"]).mean()
    )
    assert (result.epochs, result.method, set(result.parts or {})) == (2 * EPOCHS, "ensemble", {"image", "audio"})
    assert result.environment
    assert result.environment.device == processor()
    assert result.device_seconds == pytest.approx(
        sum(stored.device_seconds for stored in map(read_result, (finished / "image", finished / "audio")) if stored)
    )


def test_a_sample_without_any_modality_is_answered_by_the_classes_frequencies(prepared: PreparedDataset) -> None:
    has = {"image": np.array([True, False, False]), "audio": np.array([True, True, False])}
    logits = {name: np.full((3, 2), value) for name, value in (("image", 1.0), ("audio", 10.0))}
    split = parts._Split(logits, np.zeros(3, dtype=int), has, {})
    fused = split.fused({"image": 2.0, "audio": 1.0}, np.array([-0.5, -1.5]))
    assert fused.tolist() == [[12.0, 12.0], [10.0, 10.0], [-0.5, -1.5]]
    config = parse_config(config_of("image", 0.05))
    train = prepared.assign(config.protocol).train
    counts = np.bincount(prepared.index["label"].to_numpy()[train], minlength=10) + 1
    assert np.allclose(parts._prior(prepared, config), np.log(counts / counts.sum()))


def test_test_is_read_once_and_not_again(finished: Path, prepared: PreparedDataset) -> None:
    ledger = finished.parent / LEDGER_FILE
    assert len(read_ledger(ledger)) == 1
    before = (finished / "result.json").read_bytes()
    reporter = PlainReporter()
    parts.run(job_of(prepared, finished), reporter)
    assert [row["epoch"] for row in reporter.rows] == [4]
    assert len(read_ledger(ledger)) == 1
    assert (finished / "result.json").read_bytes() == before


def test_an_interrupted_run_goes_on_with_the_part_it_was_at(
    prepared: PreparedDataset, finished: Path, tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    class Killing:
        def report(self, metrics: Row) -> None:
            if metrics["epoch"] == 3:
                raise Killed

    with pytest.raises(Killed):
        parts.run(job_of(prepared, tmp_path / "final-1"), Killing())
    first = (tmp_path / "final-1" / "image" / "result.json").read_bytes()
    reporter = PlainReporter()
    result = parts.run(job_of(prepared, tmp_path / "final-1"), reporter)
    assert [row["epoch"] for row in reporter.rows] == [2, 3, 4], "the first part was trained again"
    assert (tmp_path / "final-1" / "image" / "result.json").read_bytes() == first
    whole = read_result(finished)
    assert whole
    assert result.weights == whole.weights
    assert result.test == whole.test


def test_the_trials_are_shared_among_the_modalities() -> None:
    def searches(**options: Any) -> list[Any]:
        space = load_space(space_file("digits", None))
        dataset, modalities = {"name": "digits", "options": {}}, ("image", "audio")
        return build_searches(space, dataset, "digits", modalities, [TUNED_ENSEMBLE], options=SearchOptions(**options))

    found = searches(trials=5, folds=(None, 2))
    assert [(search.name, search.trials) for search in found] == [
        ("digits-ensemble-tuned/part-image", 3),
        ("digits-ensemble-tuned/part-audio", 2),
        ("digits-ensemble-tuned/fold-2/part-image", 3),
        ("digits-ensemble-tuned/fold-2/part-audio", 2),
    ]
    assert [search.config.method for search in found[:2]] == [
        {"name": "unimodal", "modality": "image"},
        {"name": "unimodal", "modality": "audio"},
    ]
    with pytest.raises(ConfigError, match="ensemble-tuned searches each of 2 modalities by itself: --trials 2 or more"):
        searches(trials=1)


def test_predicting_with_a_sum_says_what_can_be_done(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.yaml").write_text("{}")
    arguments = ["--checkpoint", str(finished), "--data", str(tmp_path / "rows.yaml"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(predict, arguments)
    assert done.exit_code == 2
    words = " ".join(done.output.split())
    assert "is a sum of networks, one for each modality (image, audio)" in words
    assert json.loads((finished / "result.json").read_text())["weights"]
