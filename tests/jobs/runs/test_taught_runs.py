"""Where a run's teachers come from: trained first in its own folder, or given with the job; never twice."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from distilling import distilling
from processes import run_processes

from mmcore.assembly.config import complete_config, parse_config
from mmcore.assembly.teachers import read_teacher
from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.store import PreparedDataset
from mmcore.errors import TrainingError
from mmcore.methods.unimodal import Unimodal
from mmcore.training.checkpoint import CheckpointFolder
from mmcore.training.run_log import PlainReporter, Row
from rayjobs.feeding.handle import DataHandle
from rayjobs.runs import worker
from rayjobs.runs.job import Job
from rayjobs.runs.result import RunResult, read_result
from rayjobs.runs.test_ledger import open_ledger, read_ledger

EPOCHS = 2
NAMES = ("image", "audio")


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    with distilling():
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return prepare("digits", None, None, tmp_path_factory.mktemp("data"))


def job_of(prepared: PreparedDataset, run_dir: Path) -> Job:
    values = {
        "dataset": {"name": "digits"},
        "method": {"name": "distilling"},
        "model": {"encoders": {name: {"name": "small_conv", "width": 2, "features": 4, "depth": 1} for name in NAMES}},
        "optimizer": {"lr": 0.02},
        "trainer": {"max_epochs": EPOCHS, "batch_size": 256, "probes": False, "diagnostics": False},
    }
    config = complete_config(parse_config(values)).to_dict()
    return Job(config, DataHandle(str(prepared.directory), in_process=True), str(run_dir), test=True)


def weights_of(run_dir: Path) -> dict[str, torch.Tensor]:
    state, _ = CheckpointFolder(run_dir / "checkpoints").newest_resume_point()
    assert state is not None
    return dict(state["method"])


@pytest.fixture(scope="module")
def finished(prepared: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("results")
    open_ledger(output)
    worker.run(job_of(prepared, output / "seed-0"), PlainReporter())
    return output / "seed-0"


def test_teachers_are_trained_first_and_count(finished: Path) -> None:
    result = read_result(finished)
    assert result
    folders = {name: finished / "teachers" / name for name in NAMES}
    assert result.teachers == {name: str(folder) for name, folder in folders.items()}
    spent = 0.0
    for name, folder in folders.items():
        own = RunResult.read(folder / "result.json")
        assert own
        assert own.test is None  # a teacher decides nothing on test
        assert own.config["method"] == {"name": "unimodal", "modality": name}
        assert own.config["optimizer"] == result.config["optimizer"]
        spent += own.device_seconds
    assert 0 < spent < result.device_seconds
    (said,) = result.notices
    assert said.startswith("its teachers (image, audio) were trained first, for ")
    assert len(read_ledger(finished.parent / "ledger.jsonl")) == 1


def test_given_teachers_teach_the_same_and_nothing_is_trained_twice(
    finished: Path, prepared: PreparedDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_ledger(tmp_path)
    given = {name: str(finished / "teachers" / name) for name in NAMES}
    caplog.set_level(logging.WARNING)
    result = worker.run(replace(job_of(prepared, tmp_path / "seed-0"), teachers=given), PlainReporter())
    assert not (tmp_path / "seed-0" / "teachers").exists()
    assert "trained first" not in caplog.text
    assert (result.teachers, result.notices) == (given, [])
    own, other = weights_of(finished), weights_of(tmp_path / "seed-0")
    assert all(torch.equal(own[name], other[name]) for name in own)


def test_an_interrupted_run_goes_on_with_the_teachers_it_has(
    prepared: PreparedDataset, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Killing:
        def report(self, metrics: Row) -> None:
            raise InterruptedError

    caplog.set_level(logging.WARNING)
    open_ledger(tmp_path)
    with pytest.raises(InterruptedError):
        worker.run(job_of(prepared, tmp_path / "seed-0"), Killing())
    assert "distilling learns from a model of each modality: image, audio are trained first" in caplog.text
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "seed-0" / "teachers").rglob("*.pt")}
    result = worker.run(job_of(prepared, tmp_path / "seed-0"), PlainReporter())
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "seed-0" / "teachers").rglob("*.pt")}
    whole = read_result(finished)
    assert whole
    assert result.test == whole.test
    cost = sum(each.device_seconds for name in NAMES if (each := read_result(tmp_path / "seed-0/teachers" / name)))
    assert result.device_seconds > cost


def test_a_teacher_that_fails_is_named(
    prepared: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: object) -> None:
        raise TrainingError("no good")

    monkeypatch.setattr(Unimodal, "losses", failing)
    with pytest.raises(TrainingError, match=r"the teacher of image, .*seed-0/teachers/image, failed: no good"):
        worker.run(job_of(prepared, tmp_path / "seed-0"), PlainReporter())


def test_a_teacher_that_was_not_trained_to_its_end_is_named(
    prepared: PreparedDataset, finished: Path, tmp_path: Path
) -> None:
    given = {"image": str(finished / "teachers/image"), "audio": str(tmp_path / "final-1")}
    job = replace(job_of(prepared, tmp_path / "seed-0"), teachers=given)
    with pytest.raises(TrainingError, match=r"the teacher of audio, .*final-1, was not trained to its end"):
        worker.run(job, PlainReporter())
    assert read_teacher(finished / "teachers/image")["epoch"] <= EPOCHS


# Workers


def taught(rank: int, directory: str, run_dir: str) -> tuple[dict[str, float], float, str]:
    """Trains with teachers of its own, then as told of teachers that are not there."""
    with distilling():
        job = job_of(PreparedDataset.open(directory), Path(run_dir))
        job.config["trainer"]["precision"], job.config["model"]["batch_norm"] = "float64", "synchronised"
        result = worker.run(job, PlainReporter())
        absent = {name: str(Path(run_dir) / "absent" / name) for name in NAMES}
        with pytest.raises(TrainingError) as raised:
            worker.run(replace(job, run_dir=f"{run_dir}-again", teachers=absent), PlainReporter())
    return dict(result.test or {}), result.device_seconds, str(raised.value)


@pytest.mark.slow
def test_two_workers_train_and_read_teachers_as_one_does(prepared: PreparedDataset, tmp_path: Path) -> None:
    open_ledger(tmp_path)
    expected, _, _ = taught(0, str(prepared.directory), str(tmp_path / "one"))
    for found, spent, message in run_processes(taught, 2, str(prepared.directory), str(tmp_path / "two")):
        assert found == pytest.approx(expected, abs=1e-6)
        assert spent > 0
        assert "absent/image, was not trained to its end" in message  # on both: neither waits for the other
    assert set(read_result(tmp_path / "two" / "teachers" / "audio").config["method"]) == {"name", "modality"}
