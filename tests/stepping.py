"""Trainers of one method in double precision, what a step of theirs does, and whether two of them end alike."""

from __future__ import annotations

from pathlib import Path

import torch
from synthetic import make_config, make_spec, make_trainer
from torch import Tensor

from mmcore.batch import Batch
from mmcore.training.trainer import Trainer


def trainer_of(method: str, count: int = 2, run_dir: Path | None = None, **values: object) -> Trainer:
    """A trainer of `count` modalities, its method in training."""
    spec = make_spec(count)
    trainer = make_trainer(make_config(method, spec, **{"trainer__precision": "float64", **values}), spec, run_dir)
    trainer.method.train()
    return trainer


def step_gradients(trainer: Trainer) -> dict[str, Tensor]:
    """Of the first step, as the optimizer is given them."""
    found: dict[str, Tensor] = {}
    step = trainer.engine.step

    def recording() -> None:
        found.update({name: p.grad.clone() for name, p in trainer.method.named_parameters()})
        step()

    trainer.engine.step = recording
    trainer.train_step(next(iter(trainer.loader.train_batches(0))))
    return found


def batch_of(trainer: Trainer, missing: bool = False) -> Batch:
    """The first step's samples, as its losses are given them; every fourth may lack the second modality."""
    batch = trainer.transforms(next(iter(trainer.loader.train_batches(0))), training=True)
    if missing:
        batch.present = {"quiet": torch.arange(16) % 4 > 0}
    next(trainer.engine.micro_batches(batch))
    return batch


def interrupt_at(trainer: Trainer, step_index: int) -> None:
    """Lets a trainer's run end by an InterruptedError where that step would begin."""
    step = trainer.train_step

    def dying(batch: Batch) -> None:
        if trainer.engine.step_index == step_index:
            raise InterruptedError
        step(batch)

    trainer.train_step = dying


def assert_same_state(first: Trainer, second: Trainer) -> None:
    """All that the second one's method holds is bit for bit what the first one's does."""
    own = first.method.state_dict()
    for name, value in second.method.state_dict().items():
        assert torch.equal(own[name], value), name


def assert_equal_runs(first: Trainer, second: Trainer) -> None:
    """Trained to their ends, the first holds all that the second does."""
    first.fit(), second.fit()
    assert_same_state(first, second)
