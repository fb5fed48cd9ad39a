from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from rayjobs.ray_internals import controller as ray_controller
from rayjobs.ray_internals.controller import ThriftyController
from rayjobs.results_layout import COPY_FOLDER
from rayjobs.search.asha import RestorableASHA, read_rungs
from rayjobs.search.saved_state import (
    StateKeeper,
    check_state,
    known_trials,
    prepare_restore,
    set_aside_unknown,
    state_files,
)

SESSION = "2026-01-01_00-00-00"


def write_state(folder: Path, trials: tuple[str, ...] = ("trial-001",), session: str = SESSION) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data = [[json.dumps({"custom_trial_name": name}), "{}"] for name in trials]
    (folder / f"experiment_state-{session}.json").write_text(json.dumps({"trial_data": data}))
    (folder / f"searcher-state-{session}.pkl").write_bytes(pickle.dumps({"searcher": 1}))
    (folder / f"search_gen_state-{session}.json").write_bytes(pickle.dumps({"counter": 1}))


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_a_whole_state_is_restored_as_it_is(tmp_path: Path) -> None:
    write_state(tmp_path / "tune")
    assert prepare_restore(tmp_path / "tune", tmp_path) == (True, [])


def test_no_state_and_a_state_without_trials_start_anew(tmp_path: Path) -> None:
    (tmp_path / "tune").mkdir()
    assert prepare_restore(tmp_path / "tune", tmp_path) == (False, [])
    write_state(tmp_path / "tune", trials=())
    assert prepare_restore(tmp_path / "tune", tmp_path) == (False, [])


@pytest.mark.parametrize("damaged", ["experiment_state-*", "searcher-state-*", "search_gen_state-*"])
def test_a_damaged_file_is_replaced_by_the_intact_copy(tmp_path: Path, damaged: str) -> None:
    folder = tmp_path / "tune"
    write_state(folder, ("trial-001", "trial-002"))
    StateKeeper(tmp_path).keep(folder)
    truncate(next(folder.glob(damaged)))
    assert check_state(folder)
    restored, messages = prepare_restore(folder, tmp_path)
    assert restored
    assert "intact copy" in messages[0]
    assert not check_state(folder)
    assert known_trials(folder) == {"trial-001", "trial-002"}


def test_without_a_copy_a_damaged_state_is_not_restored(tmp_path: Path) -> None:
    write_state(tmp_path / "tune")
    truncate(next((tmp_path / "tune").glob("experiment_state-*")))
    restored, _ = prepare_restore(tmp_path / "tune", tmp_path)
    assert not restored


def test_the_copy_follows_the_newest_session_and_is_never_half(tmp_path: Path) -> None:
    folder, keeper = tmp_path / "tune", StateKeeper(tmp_path)
    write_state(folder)
    keeper.keep(folder)
    write_state(folder, ("trial-001", "trial-002"), "2026-01-02_00-00-00")
    keeper.keep(folder)
    copy = tmp_path / COPY_FOLDER
    assert known_trials(copy) == {"trial-001", "trial-002"}
    assert {path.stem[-19:] for path in state_files(copy)} == {"2026-01-02_00-00-00"}
    # Killed between the two renames: the copy before is still found.
    copy.rename(tmp_path / f".{COPY_FOLDER}.old")
    truncate(next(folder.glob("experiment_state-2026-01-02*")))
    assert prepare_restore(folder, tmp_path)[0]


def test_the_state_is_saved_when_a_status_changes_and_else_when_it_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now, at_once, saved, takes = [0.0], float("-inf"), [], 0.0
    monkeypatch.setattr(ray_controller, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def sync(**_: bool) -> None:
        saved.append(manager._last_save_time)
        now[0] += takes

    manager = SimpleNamespace(_last_save_time=7.0, sync_up_experiment_state=sync)
    trial = SimpleNamespace(trial_id="1", status="")
    controller = ThriftyController.__new__(ThriftyController)
    controller._trials, controller._checkpoint_manager = [trial], manager

    def steps(*statuses: str) -> list[float]:
        saved.clear()
        for trial.status in statuses:
            manager._last_save_time = 7.0  # as if it were just saved
            controller.checkpoint()
        return list(saved)

    assert steps("PENDING", "PENDING", "RUNNING", "RUNNING", "TERMINATED") == [at_once, 7.0, at_once, 7.0, at_once]
    takes = 0.25
    assert steps("RUNNING") == [at_once]
    takes = 0.0
    assert steps("TERMINATED", "TERMINATED") == [7.0, 7.0], "what took long would be done all the time"
    now[0] += 1.0
    assert steps("TERMINATED") == [at_once], "a change was forgotten"


def test_folders_the_state_does_not_know_are_set_aside(tmp_path: Path) -> None:
    for name in ("trial-001", "trial-002", "final-1"):
        (tmp_path / name).mkdir()
    assert set_aside_unknown(tmp_path, {"trial-001"}) == ["trial-002"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final-1", "trial-001", "trial-002.set-aside"]


class StandInTrial:
    def __init__(self, trial_id: str):
        self.trial_id = trial_id


def asha(path: Path) -> RestorableASHA:
    return RestorableASHA(path, max_epochs=9, grace_epochs=3, reduction_factor=3)


def report(scheduler: RestorableASHA, trial: Any, epoch: int, objective: float, **more: Any) -> str:
    return scheduler.on_trial_result(None, trial, {"epoch": epoch, "objective": objective, **more})  # type: ignore[arg-type]


def test_a_restored_search_stops_a_trial_by_what_came_before(tmp_path: Path) -> None:
    path, trials = tmp_path / "rungs.json", [StandInTrial(name) for name in "abcd"]
    first = asha(path)
    for trial, objective in zip(trials[:3], (0.9, 0.8, 0.85), strict=True):
        first.on_trial_add(None, trial)  # type: ignore[arg-type]
        report(first, trial, 3, objective)
    assert read_rungs(path) == {"a": {"3": 0.9}, "b": {"3": 0.8}, "c": {"3": 0.85}}
    restored, forgetful = asha(path), asha(tmp_path / "other.json")
    for trial in trials:
        restored.on_trial_add(None, trial)  # type: ignore[arg-type]
        forgetful.on_trial_add(None, trial)  # type: ignore[arg-type]
    assert report(forgetful, trials[3], 3, 0.5) == TrialScheduler.CONTINUE
    assert report(restored, trials[3], 3, 0.5) == TrialScheduler.STOP
    assert read_rungs(path)["d"] == {"3": 0.5}


def test_a_trial_is_never_stopped_at_its_last_epoch_nor_by_a_fatal_report(tmp_path: Path) -> None:
    scheduler, good, bad = asha(tmp_path / "rungs.json"), StandInTrial("a"), StandInTrial("b")
    for trial, objective in ((good, 0.9), (bad, 0.1)):
        scheduler.on_trial_add(None, trial)  # type: ignore[arg-type]
        assert report(scheduler, trial, 9, objective) == TrialScheduler.CONTINUE
    failed = StandInTrial("c")
    scheduler.on_trial_add(None, failed)  # type: ignore[arg-type]
    assert scheduler.on_trial_result(None, failed, {"epoch": 0, "fatal": True}) == TrialScheduler.CONTINUE  # type: ignore[arg-type]
