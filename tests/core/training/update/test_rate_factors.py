"""Learning rates of single parameter groups: against plain SGD, exact resume, growth, rehearsals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from stepping import assert_equal_runs, interrupt_at, trainer_of

from mmcore.errors import TrainingError
from mmcore.training.trainer import Trainer

FACTORS = {"encoder/loud": 0.25, "fusion": 3.0, "encoder/quiet": 0.0}


def with_factors(trainer: Trainer, by_epoch: dict[int, dict[str, float]]) -> Trainer:
    """The trainer, with factors set at the beginning of some epochs."""

    def begin(engine: object) -> None:
        if engine.place.epoch in by_epoch:
            engine.set_rate_factors(by_epoch[engine.place.epoch])

    trainer.method.begin_epoch = begin
    return trainer


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_each_group_has_its_own_rate(optimizer: str) -> None:
    values = {"optimizer__name": optimizer, "optimizer__weight_decay": 0.01, "trainer__max_epochs": 1}
    trainer, twin = with_factors(trainer_of("joint", **values), {0: FACTORS}), trainer_of("joint", **values)
    groups = twin.method.parameter_groups()
    rates = [{"params": groups[name], "lr": 0.02 * factor} for name, factor in FACTORS.items()]
    plain = (torch.optim.SGD(rates, momentum=0.9, weight_decay=0.01) if optimizer == "sgd"
             else torch.optim.Adam(rates, weight_decay=0.01))  # fmt: skip
    for batch in twin.loader.train_batches(0):
        batch = twin.transforms(batch, training=True)
        plain.zero_grad()
        sum(twin.method.losses(batch, "joint", twin.engine).values()).backward()
        plain.step()
    start = {name: value.clone() for name, value in trainer.method.named_parameters()}
    trainer.fit()
    for (name, value), expected in zip(trainer.method.named_parameters(), twin.method.parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)
        assert torch.equal(value, start[name]) == (".quiet." in name)  # a factor of 0: not even weight decay
    assert trainer.engine.learning_rate == 0.02 == trainer.reporter.rows[0]["train/lr"]


def test_factors_of_1_change_nothing() -> None:
    values = {"schedule__name": "cosine", "trainer__precision": "float32"}
    ones = dict.fromkeys(FACTORS, 1.0)
    assert_equal_runs(with_factors(trainer_of("joint", **values), {0: ones, 2: {}}), trainer_of("joint", **values))


def test_momentum_goes_on_when_factors_change_and_the_schedule_still_counts() -> None:
    trainer = with_factors(trainer_of("joint", schedule__name="cosine"), {1: {"fusion": 0.5}})
    trainer.fit(until=1)
    held = {name: value["momentum_buffer"].clone() for name, value in trainer.engine.state_dict()["optimizer"].items()}
    trainer._begin_epoch()
    for name, value in trainer.engine.state_dict()["optimizer"].items():
        assert torch.equal(value["momentum_buffer"], held[name])
    rates = {group["factor"]: group["lr"] for group in trainer.engine.optimizer.param_groups}
    assert rates[0.5] == pytest.approx(0.5 * rates[1.0])
    assert rates[1.0] == trainer.engine.learning_rate < 0.02


@pytest.mark.parametrize("stopped_at", [5, 7, 12])
def test_a_resumed_run_has_the_factors(stopped_at: int, tmp_path: Path) -> None:
    values = {"trainer__max_epochs": 3, "trainer__checkpoint_every_steps": 1}
    factors = {0: FACTORS, 1: {"encoder/loud": 2.0}}
    cut = with_factors(trainer_of("joint", 2, tmp_path, **values), factors)
    interrupt_at(cut, stopped_at)
    with pytest.raises(InterruptedError):
        cut.fit()
    resumed = with_factors(trainer_of("joint", 2, tmp_path, **values), factors)
    assert_equal_runs(resumed, with_factors(trainer_of("joint", **values), factors))


def test_a_grown_module_has_its_groups_factor_and_a_rehearsal_puts_factors_back() -> None:
    trainer = trainer_of("aug")
    engine = trainer.engine
    engine.set_rate_factors({"head/loud": 0.5})
    trainer.method._add_classifier("loud", engine)
    (halved,) = [group for group in engine.optimizer.param_groups if group["factor"] == 0.5]
    assert {id(p) for p in halved["params"]} == {id(p) for p in trainer.method.first_layers["loud"].parameters()}
    with engine.rehearsal():
        engine.set_rate_factors({"head/loud": 7.0})
    assert {group["factor"] for group in engine.optimizer.param_groups} == {0.5, 1.0}


def test_an_unknown_group_is_named() -> None:
    with pytest.raises(TrainingError, match="rate factors are for encoder/loud, encoder/quiet, fusion; got one for x"):
        trainer_of("joint").engine.set_rate_factors({"x": 1.0})
