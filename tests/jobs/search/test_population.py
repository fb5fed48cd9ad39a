"""Population-based training: whose weights a trial continues from, with which settings, and what is trained last."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from driving import FAST, epochs_of, output_of, run_driver, start_driver, trials_of, wait_for
from ray.tune.experiment import Trial
from ray.tune.search.search_generator import SearchGenerator

from mmcore.assembly.config import complete_config, parse_config, with_values
from mmcore.assembly.objects import build_method
from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.store import PreparedDataset
from mmcore.errors import ConfigError, UsageError
from mmcore.training.checkpoint import CheckpointFolder
from rayjobs import results_layout, tune
from rayjobs.feeding.handle import DataHandle
from rayjobs.runs import handover
from rayjobs.runs.handover import Segment, hand_over, keep_snapshot, read_schedule, take_over
from rayjobs.runs.job import Job
from rayjobs.runs.worker import run
from rayjobs.search.distributions import Distribution
from rayjobs.search.population import Founders, Population, changeable, changed
from rayjobs.search.saved_state import check_state
from rayjobs.search.searches import SearchOptions, build_searches
from rayjobs.search.spaces import load_space, space_file

LR = "optimizer.lr"
SPACE = {
    LR: Distribution.parse({"loguniform": [0.001, 0.1]}, ""),
    "method.check_every_epochs": Distribution.parse({"choice": [10, 20, 30]}, ""),
    "method.size": Distribution.parse({"randint": [2, 5]}, ""),
}
VALUES = {LR: 0.09, "method.check_every_epochs": 30, "method.size": 5}


def test_changed_settings_stay_in_their_ranges_and_follow_the_seed() -> None:
    found = [changed(VALUES, SPACE, np.random.default_rng(seed)) for seed in range(200)]
    assert all(SPACE[path].contains(value) for values in found for path, value in values.items())
    assert {values["method.check_every_epochs"] for values in found} == {10, 20, 30}
    assert {values["method.size"] for values in found} == {2, 3, 4, 5}
    rates = [values[LR] for values in found]
    assert rates.count(0.1) > 20, "times 1.25 it would leave the range"
    assert rates.count(0.09 * 0.8) > 20
    assert found[7] == changed(VALUES, SPACE, np.random.default_rng(7))
    assert changed({**VALUES, "model.width": 3}, {}, np.random.default_rng(0)) == {**VALUES, "model.width": 3}


class Controller:
    """Tune's, as far as the scheduler knows it."""

    def pause_trial(self, trial: Any, should_checkpoint: bool) -> None:
        assert not should_checkpoint
        trial.status = Trial.PAUSED


class FakeTrial(SimpleNamespace):
    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__  # type: ignore[assignment]

    def is_finished(self) -> bool:
        return self.status in {Trial.TERMINATED, Trial.ERROR}

    def set_status(self, status: str) -> None:
        self.status = status

    def set_config(self, values: dict[str, Any]) -> None:
        self.config = values


def add_trials(
    population: Population, folder: Path, count: int, last: Callable[[int], int] = lambda _: 0, first: int = 1
) -> list[Any]:
    trials = []
    for number in range(first, count + 1):
        run_dir = folder / f"trial-{number:03d}"
        run_dir.mkdir(exist_ok=True)
        trial = FakeTrial(
            status=Trial.PENDING,
            experiment_tag=f"{number}_x",
            config={**VALUES, LR: 0.01 * number},
            last_result={"epoch": last(number), "objective": number / 10} if last(number) else {},
        )
        population.on_trial_add(None, trial)  # type: ignore[arg-type]
        trials.append(trial)
    return trials


def report(population: Population, trial: Any, folder: Path, epoch: int, objective: float) -> str:
    trial.status = Trial.RUNNING
    run_dir = folder / f"trial-{int(trial.experiment_tag.split('_')[0]):03d}"
    if epoch % 3 == 0:
        (run_dir / results_layout.PROGRESS_FILE).write_text(json.dumps({"epoch": epoch, "objective": objective}))
        keep_snapshot(run_dir, epoch)
    return population.on_trial_result(Controller(), trial, {"epoch": epoch, "objective": objective})  # type: ignore[arg-type]


def population_of(folder: Path, size: int = 4, concurrent: int = 2) -> Population:
    return Population(folder, {LR: SPACE[LR]}, size=size, max_epochs=8, interval=3, concurrent=concurrent, seed=0)


def test_the_weakest_goes_on_from_the_strongest_when_all_have_come_so_far(tmp_path: Path) -> None:
    population = population_of(tmp_path)
    trials = add_trials(population, tmp_path, 4)
    assert report(population, trials[0], tmp_path, 2, 0.1) == "CONTINUE", "before the grace period"
    for trial, objective in zip(trials[:3], (0.1, 0.4, 0.9), strict=True):
        assert report(population, trial, tmp_path, 3, objective) == "NOOP"
        assert trial.status == Trial.PAUSED
    trials[3].status = Trial.RUNNING
    assert population.choose_trial_to_run(None) is None, "they wait for the fourth"  # type: ignore[arg-type]
    report(population, trials[3], tmp_path, 3, 0.5)
    schedule = json.loads(
        (tmp_path / "trial-001" / results_layout.HANDED_OVER / results_layout.SCHEDULE_FILE).read_text()
    )
    assert [(part["epoch"], part["source"]) for part in schedule] == [(0, ""), (3, "trial-003")]
    assert schedule[0]["values"][LR] == 0.03
    assert schedule[1]["values"] == trials[0].config != trials[2].config
    assert not any((tmp_path / f"trial-00{number}" / results_layout.HANDED_OVER).exists() for number in (2, 3, 4))
    assert population.choose_trial_to_run(None) is trials[0]  # type: ignore[arg-type]
    trials[1].status = trials[2].status = Trial.RUNNING
    assert population.choose_trial_to_run(None) is None, "two run already"  # type: ignore[arg-type]
    assert report(population, trials[0], tmp_path, 3, 0.9) == "CONTINUE", "what it reports again as it goes on"
    assert report(population, trials[0], tmp_path, 8, 0.9) == "CONTINUE", "at the end nothing is exchanged"


def test_a_trial_that_fails_does_not_leave_the_others_waiting(tmp_path: Path) -> None:
    population = population_of(tmp_path)
    trials = add_trials(population, tmp_path, 4)
    for trial, objective in zip(trials[:3], (0.1, 0.4, 0.9), strict=True):
        report(population, trial, tmp_path, 3, objective)
    trials[3].status = Trial.ERROR  # Tune's state of one that is about to be tried again
    population.on_trial_error(Controller(), trials[3])  # type: ignore[arg-type]
    assert not (tmp_path / "trial-001" / results_layout.HANDED_OVER).exists()
    trials[3].status = Trial.RUNNING
    population.on_trial_error(Controller(), trials[3])  # type: ignore[arg-type]
    assert (tmp_path / "trial-001" / results_layout.HANDED_OVER).is_dir()
    assert population.choose_trial_to_run(None) is trials[0]  # type: ignore[arg-type]


def test_a_restored_population_waits_where_it_stood(tmp_path: Path) -> None:
    population = population_of(tmp_path)
    trials = add_trials(population, tmp_path, 4, last=lambda number: 4 if number < 4 else 2)
    assert all(trial.status == Trial.PAUSED for trial in trials)
    assert population.choose_trial_to_run(None) is trials[3], "the others have come to epoch 3"  # type: ignore[arg-type]
    later = population_of(tmp_path)
    everyone = add_trials(later, tmp_path, 4, last=lambda number: 3)
    assert later.choose_trial_to_run(None) is everyone[0], "an exchange that may have been done is not waited for"  # type: ignore[arg-type]


@pytest.mark.parametrize("known", [3, 4])
def test_a_restored_population_waits_for_those_that_had_not_begun(known: int, tmp_path: Path) -> None:
    population = population_of(tmp_path)
    trials = add_trials(population, tmp_path, known, last=lambda number: 3 if number < 4 else 0)
    for number in range(1, 4):
        run_dir = tmp_path / f"trial-00{number}"
        (run_dir / results_layout.PROGRESS_FILE).write_text(json.dumps({"epoch": 3, "objective": number / 10}))
        keep_snapshot(run_dir, 3)
    assert population.choose_trial_to_run(None) is None, "they went on without the exchange"  # type: ignore[arg-type]
    last = trials[3] if known == 4 else add_trials(population, tmp_path, 4, first=4)[0]
    assert last.status == Trial.PENDING
    report(population, last, tmp_path, 3, 0.9)
    assert (tmp_path / "trial-001" / results_layout.HANDED_OVER).is_dir()


def test_a_restored_population_goes_on_without_those_that_had_failed(tmp_path: Path) -> None:
    population = population_of(tmp_path, size=3)
    trials = add_trials(population, tmp_path, 2, last=lambda number: 3)
    failed = FakeTrial(status=Trial.ERROR, experiment_tag="3_x", config=VALUES, last_result={"epoch": 2})
    population.on_trial_add(None, failed)  # type: ignore[arg-type]
    assert population.choose_trial_to_run(None) is trials[0]  # type: ignore[arg-type]


def founders_of(folder: Path, seed: int = 3, concurrent: int = 2) -> tuple[Population, Founders]:
    population = population_of(folder, concurrent=concurrent)
    return population, Founders(population, SPACE, [VALUES], seed)


def test_founders_are_the_points_and_then_drawn_by_the_seed(tmp_path: Path) -> None:
    _, founders = founders_of(tmp_path)
    first, *drawn = [founders.suggest(f"id {number}") for number in range(3)]
    assert first == VALUES
    # What this seed has always given: an experiment is the same when it is made again.
    assert drawn == [
        {LR: pytest.approx(0.0014835368361121178), "method.check_every_epochs": 10, "method.size": 5},
        {LR: pytest.approx(0.01459903239054391), "method.check_every_epochs": 10, "method.size": 2},
    ]
    assert founders_of(tmp_path, seed=4)[1].suggest("a") == VALUES
    other = founders_of(tmp_path, seed=4)[1]
    assert [other.suggest("a"), other.suggest("b")][1] != drawn[0]


def test_founders_wait_for_room(tmp_path: Path) -> None:
    population, founders = founders_of(tmp_path, concurrent=1)
    (trial,) = add_trials(population, tmp_path, 1)
    assert founders.suggest("a") is None
    trial.status = Trial.PAUSED
    assert founders.suggest("a") == VALUES, "a point was lost while there was no room"


def test_restored_founders_go_on_where_they_stood(tmp_path: Path) -> None:
    _, founders = founders_of(tmp_path)
    before = [founders.suggest(str(number)) for number in range(2)]
    session = "2026-01-01_00-00-00"
    SearchGenerator(founders).save_to_dir(str(tmp_path), session)
    (tmp_path / f"experiment_state-{session}.json").write_text(json.dumps({"trial_data": [["{}", "{}"]]}))
    assert check_state(tmp_path) == [], "its state is not among those that are restored"
    expected = [founders.suggest(str(number)) for number in range(2)]
    restored = founders_of(tmp_path)[1]
    SearchGenerator(restored).restore_from_dir(str(tmp_path))
    after = [restored.suggest(str(number)) for number in range(2)]
    assert after == expected != before


def test_a_hand_over_that_is_interrupted_is_finished_at_the_next_start(tmp_path: Path) -> None:
    source, target = tmp_path / "trial-001", tmp_path / "trial-002"
    for run_dir in (source, target):
        (run_dir / "checkpoints" / "epoch-000003").mkdir(parents=True)
        (run_dir / "checkpoints" / "epoch-000003" / "whose").write_text(run_dir.name)
        (run_dir / results_layout.PROGRESS_FILE).write_text(
            json.dumps({"epoch": 3, "device_seconds": len(run_dir.name)})
        )
    (target / results_layout.PROGRESS_FILE).write_text(json.dumps({"epoch": 3, "device_seconds": 70.0}))
    keep_snapshot(source, 3)
    hand_over(source, target, 3, {LR: 0.1}, {LR: 0.08})
    (target / "checkpoints").rename(target / "gone")  # killed before the new ones came
    take_over(target)
    take_over(target)
    assert (target / "checkpoints" / "epoch-000003" / "whose").read_text() == "trial-001"
    assert json.loads((target / results_layout.PROGRESS_FILE).read_text())["device_seconds"] == 70.0
    assert read_schedule(target) == (Segment(0, {LR: 0.1}), Segment(3, {LR: 0.08}, "trial-001"))
    assert not (target / results_layout.HANDED_OVER).exists()
    keep_snapshot(target, 3)
    hand_over(target, source, 3, {LR: 0.08}, {LR: 0.064})
    take_over(source)
    assert [part.epoch for part in read_schedule(source)] == [0, 3, 3], "a schedule is inherited"
    handover.drop_snapshots(tmp_path)
    assert not list(tmp_path.glob(f"*/{results_layout.SNAPSHOTS}"))


class Silent:
    def __init__(self, run_dir: Path, snapshot_at: int = 0):
        self._run_dir, self._snapshot_at = run_dir, snapshot_at

    def report(self, metrics: dict[str, float]) -> None:
        if metrics["epoch"] == self._snapshot_at:
            (self._run_dir / results_layout.PROGRESS_FILE).write_text(json.dumps({"epoch": metrics["epoch"]}))
            keep_snapshot(self._run_dir, self._snapshot_at)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return prepare("digits", None, None, tmp_path_factory.mktemp("data"))


def weights_of(run_dir: Path) -> dict[str, torch.Tensor]:
    state, refused = CheckpointFolder(run_dir / "checkpoints").newest_resume_point()
    assert state is not None
    assert not refused
    return state["method"]


def test_the_best_trials_schedule_gives_its_weights_again(tmp_path: Path, prepared: PreparedDataset) -> None:
    """Adam's state, momentum and the rate's own schedule go over too; the final models are trained by such a job."""
    values = {
        "dataset": {"name": "digits"},
        "method": {"name": "joint"},
        "optimizer": {"lr": 0.02},
        "schedule": {"name": "cosine"},
        "trainer": {"max_epochs": 3, "batch_size": 512, "probes": False, "diagnostics": False},
    }
    config = complete_config(parse_config(values))
    data = DataHandle(str(prepared.directory), in_process=True)
    strong, weak, again, plain = (tmp_path / name for name in ("strong", "weak", "again", "plain"))
    run(Job(config.to_dict(), data, str(strong), snapshot_every=1), Silent(strong, snapshot_at=1))
    weak.mkdir()
    hand_over(strong, weak, 1, {LR: 0.02}, {LR: 0.005})
    take_over(weak)
    schedule = read_schedule(weak)
    last = with_values(config, {LR: 0.005}).to_dict()
    result = run(Job(last, data, str(weak), schedule=schedule), Silent(weak))
    assert [segment.epoch for segment in result.schedule or ()] == [0, 1]
    assert run(Job(last, data, str(again), schedule=schedule), Silent(again)).last["epoch"] == 3
    run(Job(last, data, str(plain)), Silent(plain))
    trial, replayed, other = weights_of(weak), weights_of(again), weights_of(plain)
    assert all(torch.equal(trial[name], replayed[name]) for name in trial)
    assert not all(torch.equal(trial[name], other[name]) for name in trial)
    assert not all(torch.equal(trial[name], weights_of(strong)[name]) for name in trial), "the rate did not change"


def test_only_what_leaves_the_model_as_it_is_changes(tmp_path: Path, prepared: PreparedDataset) -> None:
    content = "trials: 4\nmax_epochs: 8\nmethods:\n  aug:\n    space:\n"
    space = tmp_path / "space.yaml"
    searched = {
        "optimizer.lr": "{loguniform: [0.001, 0.1]}",
        "method.hidden": "{choice: [16, 32]}",
        "method.check_every_epochs": "{choice: [10, 20]}",
        "trainer.batch_size": "{choice: [32, 64]}",
    }
    space.write_text(content + "".join(f"      {path}: {value}\n" for path, value in searched.items()))
    options = SearchOptions(scheduler="pbt")
    build = {"dataset": {"name": "digits", "options": {}}, "folder_name": "digits", "modalities": ("image", "audio")}
    (search,) = build_searches(load_space(space), methods=["aug"], options=options, **build)
    assert (search.scheduler, search.algorithm) == ("pbt", "random")
    assert list(changeable(search, prepared.spec)) == ["optimizer.lr", "method.check_every_epochs"]
    build_method(search.config, prepared.spec)
    space.write_text(content + "      trainer.batch_size: {choice: [32, 64]}\n")
    (search,) = build_searches(load_space(space), methods=["aug"], options=options, **build)
    with pytest.raises(UsageError, match=r"none can change while a model is trained"):
        changeable(search, prepared.spec)


def test_what_a_population_cannot_be_is_refused() -> None:
    space = load_space(space_file("digits", None))
    arguments: Any = (space, {"name": "digits", "options": {}}, "digits", ("image", "audio"), ["iprm"])
    with pytest.raises(ConfigError, match="--scheduler pbt needs a population: --trials 4 or more, got 3"):
        build_searches(*arguments, options=SearchOptions(scheduler="pbt", trials=3))
    done = CliRunner().invoke(tune.main, ["--scheduler", "pbt", "--search", "grid", "--dry-run"])
    assert done.exit_code == 2
    assert "--scheduler pbt is not for --search grid" in done.output
    done = CliRunner().invoke(tune.main, ["--scheduler", "pbt", "--output", "s3://bucket/results", "--dry-run"])
    assert done.exit_code == 2
    assert "--output must be a folder that all nodes see" in " ".join(done.output.split())
    done = CliRunner().invoke(tune.main, ["--scheduler", "pbt", "--dry-run", "--method", "iprm"])
    assert "a population: every 7 epochs weak ones continue from strong ones' weights" in done.output


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_a_population_survives_interruptions_and_a_trial_that_fails(tmp_path: Path) -> None:
    plan = {
        "digits-iprm/trial-002": {"fatal": "no good"},
        "digits-iprm/trial-004": {"hold_at": 5},
    }
    arguments = [*FAST, "--scheduler", "pbt", "--final-seeds", "0"]
    search = tmp_path / "results" / "digits-iprm" / "digits-iprm"
    process = start_driver(tmp_path, *arguments, plan={**plan, "digits-iprm/trial-004": {"hold_at": 2}})
    try:
        waiting = search / "trial-003" / results_layout.SNAPSHOTS  # it is stopped in its report of the third epoch
        wait_for(lambda: waiting.is_dir() and epochs_of(search / "trial-004") >= 1, process)
    finally:
        process.send_signal(signal.SIGINT)
        output_of(process)
    assert process.returncode == 130
    assert (search / "trial-001" / results_layout.SNAPSHOTS).is_dir(), "what the exchange continues from is gone"
    process = start_driver(tmp_path, *arguments, "--resume", plan=plan)
    try:
        wait_for(lambda: epochs_of(search / "trial-004") >= 4, process)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        output_of(process)
    (search / "trial-004" / "held").touch()
    done = run_driver(tmp_path, *arguments, "--resume", plan=plan)
    assert done.returncode == 0, done.stderr
    trials = trials_of(search)
    assert trials.pop("trial-002")["reason"] == "no good"
    assert {(trial["status"], trial["epochs"]) for trial in trials.values()} == {("done", 8)}
    schedules = [trial["schedule"] for trial in trials.values() if trial["schedule"]]
    assert schedules, "nothing was exchanged"
    assert any(segment["epoch"] == 3 for schedule in schedules for segment in schedule), "an exchange was left out"
    assert all({segment["epoch"] for segment in schedule} <= {0, 3, 6} for schedule in schedules)
    best = json.loads((search / "search.json").read_text())["best"]
    assert ("is a schedule" in " ".join(done.stdout.split())) == bool(best["schedule"])
    assert not list(search.glob("*/snapshots"))
