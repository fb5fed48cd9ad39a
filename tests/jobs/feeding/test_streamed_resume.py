"""A run fed by Ray Data and interrupted ends where the uninterrupted one ends, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch

from mmcore.assembly.config import complete_config, parse_config
from mmcore.assembly.objects import build_method, build_run_transforms
from mmcore.batch import Batch
from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.store import PreparedDataset
from mmcore.training.trainer import Trainer
from rayjobs.feeding.streaming import StreamLoader

pytestmark = [pytest.mark.ray, pytest.mark.slow]
GROWING = {"name": "aug", "tau": 0.0, "check_every_epochs": 1, "schedule_epochs": 1000}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PreparedDataset]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield prepare("digits", None, None, tmp_path_factory.mktemp("data"))
    ray.shutdown()


def trainer_of(prepared: PreparedDataset, method: dict[str, object], run_dir: Path) -> Trainer:
    values = {
        "dataset": {"name": "digits"},
        "method": method,
        "trainer": {"max_epochs": 4, "batch_size": 256, "checkpoint_every_steps": 2},
    }
    config = complete_config(parse_config(values))
    loader = StreamLoader(
        prepared, prepared.assign(config.protocol), 256, num_epochs=4, seed=config.seed, shuffle_bytes=10**6
    )
    return Trainer(
        config,
        build_method(config, prepared.spec),
        loader,
        build_run_transforms(config, prepared.spec),
        run_dir=run_dir,
    )


def fit_until(trainer: Trainer, step: int | None) -> dict[str, torch.Tensor]:
    """Trains to the end, or until just before optimizer step `step` (from 0); returns weights, state and momentum."""
    train_step = trainer.train_step

    def interrupted(batch: Batch) -> None:
        if trainer.engine.step_index == step:
            raise KeyboardInterrupt
        train_step(batch)

    trainer.train_step = interrupted  # type: ignore[method-assign]
    try:
        trainer.fit()
    finally:
        trainer.loader.close()
    momentum = {
        f"optimizer/{name}": entry["momentum_buffer"]
        for name, entry in trainer.engine.state_dict()["optimizer"].items()
    }
    return {**trainer.method.state_dict(), **momentum, "flat": trainer.probes.flat}


@pytest.mark.parametrize("method", [{"name": "iprm"}, GROWING], ids=["iprm", "aug"])
def test_a_streamed_run_resumed_twice_equals_the_uninterrupted_one(
    method: dict[str, object], prepared: PreparedDataset, tmp_path: Path
) -> None:
    whole = fit_until(trainer_of(prepared, method, tmp_path / "whole"), None)
    steps = trainer_of(prepared, method, tmp_path / "count").loader.num_steps
    for stop in (steps, 2 * steps + 3):  # an epoch's boundary, and inside an epoch after AUG has grown
        with pytest.raises(KeyboardInterrupt):
            fit_until(trainer_of(prepared, method, tmp_path / "cut"), stop)
    resumed = trainer_of(prepared, method, tmp_path / "cut")
    state = fit_until(resumed, None)
    if method is GROWING:
        assert max(resumed.method.structure()["classifiers"].values()) > 1
    assert state.keys() == whole.keys()
    assert [name for name in whole if not torch.equal(state[name], whole[name])] == []
