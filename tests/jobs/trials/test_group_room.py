"""Room that a worker group held is given back, however the group was ended."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.tune.experiment import Trial

from rayjobs.results_layout import GROUP_FILE
from rayjobs.trials import group_room
from rayjobs.trials.group_room import RoomKeeper, give_back_room, note_claim


class Coordinator:
    """Ray's, as far as it is called."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []
        self.cancel_request = SimpleNamespace(remote=self.cancelled.append)


class FakeTrial(SimpleNamespace):
    __hash__ = object.__hash__  # type: ignore[assignment]


@pytest.fixture
def coordinator(monkeypatch: pytest.MonkeyPatch) -> Coordinator:
    found = Coordinator()
    monkeypatch.setattr(ray, "get_actor", lambda name, namespace: found)
    return found


def claim(run_dir: Path) -> Path:
    run_dir.mkdir(exist_ok=True)
    trainer: Any = SimpleNamespace(train_run_context=SimpleNamespace(run_id=run_dir.name))
    note_claim(run_dir, trainer)
    return run_dir


def test_a_claim_is_given_back_once(tmp_path: Path, coordinator: Coordinator) -> None:
    give_back_room(tmp_path)
    assert not coordinator.cancelled
    claim(tmp_path / "a")
    give_back_room(tmp_path / "a")
    give_back_room(tmp_path / "a")
    assert coordinator.cancelled == ["train-a"]


def test_a_placement_group_is_removed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []
    monkeypatch.setattr(group_room, "remove_placement_group", lambda group: removed.append(group.id.hex()))
    group = ray.PlacementGroupID.from_random().hex()
    (tmp_path / GROUP_FILE).write_text(group)
    give_back_room(tmp_path)
    give_back_room(tmp_path)
    assert removed == [group]


def test_a_ray_that_knows_of_no_claims_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, namespace: str) -> None:
        raise ValueError(name)

    monkeypatch.setattr(ray, "get_actor", fail)
    claim(tmp_path / "a")
    give_back_room(tmp_path / "a")
    assert not list((tmp_path / "a").iterdir())


@pytest.mark.parametrize("status", [Trial.TERMINATED, Trial.PAUSED, Trial.PENDING, Trial.ERROR])
def test_a_trial_that_no_longer_runs_keeps_no_claim(status: str, tmp_path: Path, coordinator: Coordinator) -> None:
    first, second = (FakeTrial(status=Trial.RUNNING, run_dir=claim(tmp_path / name)) for name in "ab")
    keeper = RoomKeeper(lambda trial: trial.run_dir)  # type: ignore[attr-defined]
    trials: Any = [first, second]
    keeper.on_step_end(1, trials)
    assert not coordinator.cancelled
    first.status = status
    keeper.on_step_end(2, trials)
    keeper.on_step_end(3, trials)
    assert coordinator.cancelled == ["train-a"]
