"""The pool on a real Ray: runs of different shapes, failures, and what goes wrong in the driver itself."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import stub_body
from driving import epochs_of, starts_of

from mmcore.errors import DataError
from rayjobs.cluster import resources, session
from rayjobs.cluster.resources import Node, TrialShape
from rayjobs.feeding.handle import DataHandle
from rayjobs.pool.pool import Pool
from rayjobs.pool.stage import GivenStage, Place
from rayjobs.pool.tune_run import Execution, run_pool
from rayjobs.results_layout import TUNE_FOLDER
from rayjobs.runs.job import Job

EPOCHS = 3
pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Node]]:
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(stub_body.__file__).parent), os.environ.get("PYTHONPATH", "")])
    with session.start(num_cpus=3, needs_dashboard=True) as nodes:
        yield nodes


def stage(
    folder: Path, name: str, number: int, shape: TrialShape, runs: int = 3, after: Sequence[str] = ()
) -> GivenStage:
    config = {
        "trainer": {"max_epochs": EPOCHS, "select": "best"},
        "optimizer": {"lr": 0.02},
        "method": {"name": "iprm"},
        "seed": 0,
    }
    jobs = [Job(config, DataHandle(""), str(folder / name / f"run-{each}")) for each in range(runs)]  # type: ignore[arg-type]
    place = Place(0, number, name)
    return GivenStage(name, lambda: jobs, runs, EPOCHS, shape, place, frozenset(after), lambda job: False)


def run(folder: Path, nodes: list[Node], stages: Sequence[GivenStage]) -> Pool:
    pool = Pool(stages, lambda shape: resources.concurrent_trials(shape, nodes))
    run_pool(pool, {"": DataHandle("")}, folder, Execution(body=stub_body.body, hang_limit_s=0))
    return pool


def test_single_processes_and_worker_groups_are_run_side_by_side(tmp_path: Path, nodes: list[Node]) -> None:
    """On three CPUs: single ones, groups of two, single ones of two threads; each gets its room in turn."""
    shapes = {"single": TrialShape(), "group": TrialShape(workers=2), "wide": TrialShape(cpus_per_worker=2)}
    stages = [stage(tmp_path, name, number, shape) for number, (name, shape) in enumerate(shapes.items())]
    pool = run(tmp_path, nodes, [*stages, stage(tmp_path, "last", 9, TrialShape(), 1, after=["group"])])
    assert pool.is_over
    for name, shape in shapes.items():
        for number in range(3):
            run_dir = tmp_path / name / f"run-{number}"
            assert epochs_of(run_dir) == EPOCHS
            assert len(starts_of(run_dir)) == shape.workers
    assert epochs_of(tmp_path / "last" / "run-0") == EPOCHS
    pids = {starts_of(tmp_path / "single" / f"run-{number}")[0][0] for number in range(3)}
    assert len(pids) <= 3
    assert not (tmp_path / TUNE_FOLDER).exists()


def test_what_goes_wrong_in_the_driver_ends_the_run_with_its_own_error(tmp_path: Path, nodes: list[Node]) -> None:
    """Tune would wrap it in text; what had run before is kept."""

    def broken() -> list[Job]:
        raise DataError("results/search.json is damaged")

    first, second = (
        stage(tmp_path, "first", 0, TrialShape(), 1),
        stage(tmp_path, "second", 1, TrialShape(), 1, ["first"]),
    )
    second.make_jobs = broken
    with pytest.raises(DataError, match=r"^results/search.json is damaged$"):
        run(tmp_path, nodes, [first, second])
    assert json.loads((tmp_path / "first" / "run-0" / "result.json").read_text())["epochs"] == EPOCHS
