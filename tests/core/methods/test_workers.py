"""k workers on their shares of a batch equal one worker on the whole of it, for every method."""

from __future__ import annotations

import pytest
import torch
from processes import run_processes
from synthetic import make_config, make_spec, make_trainer

from mmcore.methods import METHODS

EPOCHS = 4
# 37 samples in batches of 16: the last has 5, shards are unequal. 33 in 16: the last has 1, all but rank 0 are empty.
SIZES = {"unequal": 37, "empty": 33}


def train(method: str, count: int, num_train: int, rank: int, world_size: int) -> dict[str, torch.Tensor]:
    spec = make_spec(count)
    config = make_config(method, spec, trainer__precision="float64", trainer__max_epochs=EPOCHS, optimizer__clip_norm=2)
    trainer = make_trainer(config, spec, num_train=num_train, rank=rank, world_size=world_size)
    gradients: list[torch.Tensor] = []
    step = trainer.engine.step

    def recording_step() -> None:
        gradients.extend(p.grad.flatten().clone() for p in trainer.method.parameters() if p.grad is not None)
        step()

    trainer.engine.step = recording_step
    trainer.fit()
    rows = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in trainer.reporter.rows]
    values = torch.tensor([row[key] for row in rows for key in sorted(row)], dtype=torch.float64)
    return {
        **trainer.method.state_dict(),
        **{f"probe/{name}": value for name, value in trainer.probes.state_dict().items()},
        "gradients": torch.cat(gradients),
        "rows": values,
    }


def train_all(rank: int, world_size: int) -> dict[str, dict[str, torch.Tensor]]:
    return {
        f"{method}-{count}-{name}": train(method, count, size, rank, world_size)
        for method in METHODS.names()
        for count in (2, 3)
        for name, size in SIZES.items()
    }


@pytest.mark.parametrize("world_size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_k_workers_equal_one(world_size: int) -> None:
    alone = train_all(0, 1)
    together = run_processes(train_all, world_size, world_size)
    for case, expected in alone.items():
        for rank, results in enumerate(together):
            for name, value in results[case].items():
                assert value.shape == expected[name].shape, f"{case}: {name} on rank {rank}"
                difference = (value.double() - expected[name].double()).abs().max()
                assert difference < 1e-6, f"{case}: {name} differs by {difference} on rank {rank}"
