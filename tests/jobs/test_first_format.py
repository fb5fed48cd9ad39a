"""What an earlier version left is read still: results, reports and checkpoints of experiment format 1.

`tests/stored/first_format` is what that version wrote, paths aside, for

    python -m rayjobs.tune --dataset digits --method aug --trials 2 --max-epochs 2 --final-seeds 1 --name old --cpus 1
        --set model.encoders.image.width=1 --set model.encoders.image.features=4
        --set model.encoders.audio.width=1 --set model.encoders.audio.features=4

without Tune's state and all checkpoints but one model's.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from places import TESTS

from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.store import PreparedDataset
from mmcore.training.run_log import Reporter, Row
from rayjobs.feeding.handle import DataHandle
from rayjobs.report import main as report
from rayjobs.runs.job import Job
from rayjobs.runs.worker import run
from rayjobs.tune import main as tune

STORED = TESTS / "stored" / "first_format"
FINAL = Path("old") / "digits-aug" / "final-1"
CLOSE = 1e-4
"""Relative; another processor computes other last digits."""


class Rows(Reporter):
    """Keeps every epoch's row."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def report(self, row: Row) -> None:
        self.rows.append(row)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A copy of the results; the experiment lies where it says it does."""
    shutil.copytree(STORED, tmp_path / "results")
    path = tmp_path / "results" / "old" / "experiment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"folder": str(path.parent)}))
    return tmp_path / "results"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    options = json.loads((STORED / FINAL / "config.json").read_text())["dataset"]["options"]
    return prepare("digits", options, None, tmp_path_factory.mktemp("data"))


def job_in(run_dir: Path, prepared: PreparedDataset) -> Job:
    config = json.loads((run_dir / "config.json").read_text())
    return Job(config, DataHandle(str(prepared.directory), in_process=True), str(run_dir), test=True)


def test_the_report_shows_what_was_printed_then(results: Path) -> None:
    done = CliRunner().invoke(report, [str(results / "old")])
    assert done.exit_code == 0, done.output
    (page,) = (results / "old").rglob("*.html")
    text = page.read_text()
    for figure in ("25.9", "21.2", "+4.7"):
        assert figure in text


def test_the_search_is_not_gone_on_with(results: Path) -> None:
    done = CliRunner().invoke(tune, ["--output", str(results), "--resume", "old"])
    assert done.exit_code == 2
    assert "experiment format 1" in done.output
    assert len(done.output.splitlines()) <= 3


def test_the_selected_weights_predict_as_they_did(results: Path, prepared: PreparedDataset) -> None:
    stored = dict(np.load(results / FINAL / "predictions.npz"))
    (results / FINAL / "result.json").unlink()
    run_dir = results / FINAL
    result = run(job_in(run_dir, prepared), Rows())
    again = np.load(run_dir / "predictions.npz")
    assert result.tested["epoch"] == 2
    assert (again["sample_ids"] == stored["sample_ids"]).all()
    for name in ("logits/fused", "logits/image", "logits/audio"):
        np.testing.assert_allclose(again[name], stored[name], rtol=CLOSE, atol=CLOSE)


def test_an_interrupted_run_resumes_from_its_checkpoint(results: Path, prepared: PreparedDataset) -> None:
    run_dir, reporter = results / FINAL, Rows()
    stored = json.loads((run_dir / "result.json").read_text())
    (run_dir / "result.json").unlink()
    for newer in ("best-000002", "epoch-000002"):
        shutil.rmtree(run_dir / "checkpoints" / newer)
    first, *_ = (json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines())
    result = run(job_in(run_dir, prepared), reporter)
    assert reporter.rows[0]["time/epoch_s"] == first["time/epoch_s"], "the first epoch is not trained again"
    for metric in ("train/total/loss", "val/fused/loss"):
        assert result.last[metric] == pytest.approx(stored["last"][metric], rel=CLOSE)
    assert result.tested["fused/accuracy"] == pytest.approx(stored["test"]["fused/accuracy"], abs=0.01)
