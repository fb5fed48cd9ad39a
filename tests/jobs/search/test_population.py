"""Population-based training: whose weights a trial continues from, with which settings, and what is trained last."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from driving import FAST, epochs_of, output_of, run_driver, start_driver, trials_of, wait_for

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
from rayjobs.search.population import Population, changeable, changed
from rayjobs.search.record import SearchRecord
from rayjobs.search.record import Trial as SearchTrial
from rayjobs.search.searches import Search, SearchOptions, build_searches
from rayjobs.search.spaces import load_space, space_file
from rayjobs.search.suggestions import Drawn

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


def search_of(size: int = 4, **changes: Any) -> Search:
    """A population of `iprm` on the embedded data, of 8 epochs, with an exchange every 3."""
    (search,) = build_searches(
        load_space(space_file("digits", None)),
        {"name": "digits", "options": {}},
        "digits",
        ("image", "audio"),
        ["iprm"],
        options=SearchOptions(scheduler="pbt", trials=size, max_epochs=8),
    )
    space = {LR: SPACE[LR]}
    points = [{LR: 0.09}]
    return replace(search, space=space, points=points, changeable=(LR,), grace_epochs=3, **changes)


def record_of(folder: Path, size: int = 4) -> SearchRecord:
    return SearchRecord(search_of(size), folder, None)


def train(record: SearchRecord, trial: SearchTrial, epochs: Sequence[int], objective: float) -> str:
    """Reports epochs of a trial as its run would; at the end of each third it is kept as it stands."""
    run_dir, decision = record.folder / trial.name, "go"
    run_dir.mkdir(exist_ok=True)
    for epoch in epochs:
        row = {"epoch": epoch, "objective": objective}
        if epoch % 3 == 0:
            (run_dir / results_layout.PROGRESS_FILE).write_text(json.dumps(row))
            keep_snapshot(run_dir, epoch)
        decision = record.report(trial, row)
    if decision == "wait":
        record.end(trial)
    return decision


def started(record: SearchRecord) -> list[SearchTrial]:
    return list(iter(record.next, None))


def handed_over(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob(f"*/{results_layout.HANDED_OVER}"))


def test_the_weakest_goes_on_from_the_strongest_when_all_have_come_so_far(tmp_path: Path) -> None:
    record = record_of(tmp_path)
    trials = started(record)
    assert len(trials) == 4
    before = [trial.values for trial in trials]
    assert train(record, trials[0], [1, 2], 0.1) == "go", "before the grace period"
    for trial, objective in zip(trials[:3], (0.1, 0.4, 0.9), strict=True):
        assert train(record, trial, [3], objective) == "wait"
    assert started(record) == [], "they wait for the fourth"
    assert train(record, trials[3], [1, 2, 3], 0.5) == "wait"
    assert handed_over(tmp_path) == ["trial-001"]
    file = tmp_path / "trial-001" / results_layout.HANDED_OVER / results_layout.SCHEDULE_FILE
    schedule = json.loads(file.read_text())
    assert [(part["epoch"], part["source"]) for part in schedule] == [(0, ""), (3, "trial-003")]
    assert schedule[0]["values"] == before[2]
    assert schedule[1]["values"] == trials[0].values != before[2]
    assert [trial.name for trial in started(record)] == [f"trial-00{number}" for number in (1, 2, 3, 4)]
    assert train(record, trials[0], [3], 0.9) == "go", "what it reports again as it goes on"


def test_at_the_end_nothing_is_exchanged(tmp_path: Path) -> None:
    population = Population({LR: SPACE[LR]}, max_epochs=8, interval=3, seed=0)
    assert [population.decide(1, epoch, 0.5) for epoch in (2, 3, 8)] == ["go", "wait", "go"]


def test_a_trial_that_fails_does_not_leave_the_others_waiting(tmp_path: Path) -> None:
    record = record_of(tmp_path)
    trials = started(record)
    for trial, objective in zip(trials[:3], (0.1, 0.4, 0.9), strict=True):
        train(record, trial, [1, 2, 3], objective)
    assert handed_over(tmp_path) == []
    record.end(trials[3], "no good")
    assert handed_over(tmp_path) == ["trial-001"]
    assert [trial.name for trial in started(record)] == ["trial-001", "trial-002", "trial-003"]


def test_a_population_whose_places_are_few_takes_turns(tmp_path: Path) -> None:
    record = replace(record_of(tmp_path), at_once=1, trials=[])
    order = []
    for objective in (0.1, 0.4, 0.9, 0.5):
        (trial,) = started(record)
        order.append(trial.number)
        train(record, trial, [1, 2, 3], objective)
    assert order == [1, 2, 3, 4]
    assert handed_over(tmp_path) == ["trial-001"]


def test_a_resumed_population_stands_where_it_stood(tmp_path: Path) -> None:
    record = record_of(tmp_path)
    trials = started(record)
    for trial, objective in zip(trials[:3], (0.1, 0.4, 0.9), strict=True):
        train(record, trial, [1, 2, 3], objective)
    resumed = record_of(tmp_path)
    (last,) = started(resumed)
    assert last.number == 4, "the others wait for it"
    train(resumed, last, [1, 2, 3], 0.5)
    values = [trial.values for trial in resumed.trials]
    again = record_of(tmp_path)
    assert [trial.values for trial in again.trials] == values
    assert len(started(again)) == 4
    shutil.rmtree(tmp_path / "trial-001" / results_layout.HANDED_OVER)
    assert len(started(record_of(tmp_path))) == 4
    assert handed_over(tmp_path) == [], "what was done was done again"


def test_an_exchange_that_a_kill_left_out_is_made_up_for(tmp_path: Path) -> None:
    record = record_of(tmp_path)
    for trial, objective in zip(started(record), (0.1, 0.4, 0.9, 0.5), strict=True):
        train(record, trial, [1, 2, 3], objective)
    values = [trial.values for trial in record.trials]
    journal = tmp_path / results_layout.JOURNAL_FILE
    lines = journal.read_text().splitlines(keepends=True)
    assert json.loads(lines[-1])["event"] == "exchange"
    journal.write_text("".join(lines[:-1]))
    shutil.rmtree(tmp_path / "trial-001" / results_layout.HANDED_OVER)
    assert [trial.values for trial in record_of(tmp_path).trials] == values
    assert handed_over(tmp_path) == ["trial-001"]


def test_the_first_settings_are_the_points_and_then_drawn_by_the_seed() -> None:
    drawn = Drawn(SPACE, [VALUES], 3)
    first, *others = [drawn.suggest(number) for number in (1, 2, 3)]
    assert first == VALUES
    # What this seed has always given: an experiment is the same when it is made again.
    assert others == [
        {LR: pytest.approx(0.0014835368361121178), "method.check_every_epochs": 10, "method.size": 5},
        {LR: pytest.approx(0.01459903239054391), "method.check_every_epochs": 10, "method.size": 2},
    ]
    other = Drawn(SPACE, [VALUES], 4)
    assert [other.suggest(number) for number in (1, 2)][1] != others[0]


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
