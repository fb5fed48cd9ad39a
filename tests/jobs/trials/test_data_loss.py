"""A data file that goes away, or is cut, while trials run: one message that names it, at once; nothing else is lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ray.tune import Callback

from mmcore.assembly.config import complete_config, parse_config
from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.store import PreparedDataset
from mmcore.errors import DataError
from mmcore.training.run_log import read_rows
from rayjobs.cluster import resources, session
from rayjobs.cluster.resources import TrialShape
from rayjobs.feeding.cached import materialise
from rayjobs.feeding.handle import DataHandle
from rayjobs.pool.pool import Pool
from rayjobs.pool.stage import GivenStage, Place
from rayjobs.pool.tune_run import Execution, run_pool
from rayjobs.results_layout import PROGRESS_FILE, RESULT_FILE
from rayjobs.runs.job import Job
from rayjobs.storage.files import read_json
from rayjobs.trials.failures import failure_reason

EPOCHS = 5


def test_a_missing_file_is_named_but_storage_that_is_away_may_come_back(tmp_path: Path) -> None:
    prepared = prepare("digits", None, None, tmp_path)
    path = prepared.files("train")[0]
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(DataError, match=f"{path} is missing; prepare the data set again"):
        prepared.verify()
    prepared.directory.rename(tmp_path / "unmounted")
    with pytest.raises(FileNotFoundError):
        prepared.verify()


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[resources.Node]]:
    with session.start(num_cpus=4, needs_dashboard=True) as nodes:
        yield nodes


@pytest.fixture
def prepared(tmp_path: Path) -> PreparedDataset:
    return prepare("digits", None, None, tmp_path / "data")


class After(Callback):
    """Does something after the first epoch any trial reports; counts the trials that are tried again."""

    def __init__(self, action: Callable[[], object]):
        self._action: Callable[[], object] | None = action
        self.num_retried = 0

    def on_trial_result(self, **info: Any) -> None:
        if self._action:
            self._action()
            self._action = None

    def on_trial_recover(self, **info: Any) -> None:
        self.num_retried += 1


@dataclass(frozen=True)
class Ended:
    """What became of a run, by what lies in its folder."""

    status: str
    epochs: int
    reason: str


def jobs(prepared: PreparedDataset, folder: Path, count: int, **data: Any) -> list[Job]:
    values = {
        "dataset": {"name": "digits"},
        "method": {"name": "joint"},
        "trainer": {"max_epochs": EPOCHS, "batch_size": 256, "probes": False, "diagnostics": False},
    }
    config = complete_config(parse_config(values)).to_dict()
    handle = DataHandle(str(prepared.directory), **data)
    return [Job(config, handle, str(folder / f"run-{number}")) for number in range(count)]


def run(runs: list[Job], folder: Path, shape: TrialShape, *callbacks: Callback) -> list[Ended]:
    """Runs jobs one after another."""
    stage = GivenStage("runs", lambda: runs, len(runs), EPOCHS, shape, Place(0, 0, "runs"), frozenset(), is_done)
    folder.mkdir(parents=True, exist_ok=True)
    run_pool(
        Pool([stage], lambda shape: 1), {runs[0].data.directory: runs[0].data}, folder, Execution(callbacks=callbacks)
    )
    return [ended(Path(job.run_dir)) for job in runs]


def is_done(job: Job) -> bool:
    return (Path(job.run_dir) / RESULT_FILE).is_file()


def ended(run_dir: Path) -> Ended:
    done = (run_dir / RESULT_FILE).is_file()
    epochs = int((read_json(run_dir / PROGRESS_FILE) or {"epoch": 0})["epoch"])
    return Ended("done" if done else "failed", epochs, "" if done else failure_reason(run_dir))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("shape", "damage"),
    [
        (TrialShape(cpus_per_worker=1, streams=True), "removed"),
        (TrialShape(workers=2, cpus_per_worker=1, streams=True), "cut"),
    ],
    ids=["own-process", "worker-group"],
)
def test_a_streamed_file_that_goes_away_ends_the_trial_at_once_and_what_it_did_is_kept(
    shape: TrialShape, damage: str, nodes: list[resources.Node], prepared: PreparedDataset, tmp_path: Path
) -> None:
    path, copy = prepared.files("train")[0], tmp_path / "copy.parquet"
    shutil.copyfile(path, copy)

    def break_it() -> None:
        path.unlink()
        if damage == "cut":
            path.write_bytes(copy.read_bytes()[:1000])

    runs, after = jobs(prepared, tmp_path, 1), After(break_it)
    (failed,) = run(runs, tmp_path / "first", shape, after)
    assert failed.status == "failed"
    assert str(path) in failed.reason
    assert "is missing" in failed.reason if damage == "removed" else "is damaged" in failed.reason
    assert "\n" not in failed.reason
    assert after.num_retried == 0
    assert 1 <= failed.epochs < EPOCHS
    if shape.worker_group:  # another start of a group is half a minute
        return
    kept = read_rows(tmp_path / "run-0")
    shutil.copyfile(copy, path)
    (done,) = run(runs, tmp_path / "second", shape)
    assert (done.status, done.epochs) == ("done", EPOCHS)
    assert read_rows(tmp_path / "run-0")[: len(kept)] == kept, "an epoch was trained again"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_file_of_a_cached_data_set_is_missed_by_the_next_trial_only(
    nodes: list[resources.Node], prepared: PreparedDataset, tmp_path: Path
) -> None:
    path = prepared.files("train")[0]
    runs = jobs(prepared, tmp_path, 2, cached=materialise(prepared))
    after = After(path.unlink)
    first, second = run(runs, tmp_path / "runs", TrialShape(), after)
    assert (first.status, first.epochs) == ("done", EPOCHS)
    assert second.status == "failed"
    assert second.reason == f"{path} is missing; prepare the data set again"
    assert after.num_retried == 0
