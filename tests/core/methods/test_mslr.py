"""MSLR: its equation against a naive loop, each ruling, and where the method is joint training."""

from __future__ import annotations

import math

import pytest
import torch
from stepping import assert_equal_runs, step_gradients, trainer_of
from torch import Tensor

from mmcore.assembly.config import variant_settings
from mmcore.errors import ConfigError
from mmcore.methods import METHODS, EpochStats
from mmcore.methods.mslr import accuracy_factors
from mmcore.seeding import generator
from mmcore.training.trainer import Trainer


def drawn(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator(0, "mslr", *shape), dtype=torch.float64)


def end(trainer: Trainer, epoch: int, **accuracies: float) -> list[float]:
    """The factors after an epoch with these accuracies on validation."""
    metrics = {f"val/{name}/accuracy": value for name, value in accuracies.items()}
    trainer.method.end_epoch(EpochStats(epoch, metrics), trainer.engine)
    return trainer.method.factors.tolist()


def test_factors_are_the_newest_accuracies_by_the_mean() -> None:
    accuracies = drawn(4, 3)
    rows = accuracies.tolist()
    expected = [rows[-1][m] / (sum(row[m] for row in rows) / 4) for m in range(3)]
    assert accuracy_factors(accuracies).tolist() == pytest.approx(expected, rel=1e-12)


def test_without_an_accuracy_a_factor_is_1() -> None:
    assert accuracy_factors(torch.tensor([[0.0, 0.5], [0.0, math.nan]])).tolist() == [1, 1]


def test_factors_are_init_for_as_many_epochs_as_are_remembered_and_then_follow_validation() -> None:
    trainer = trainer_of("mslr", method__init={"loud": 0.5, "quiet": 2.0})
    seen = [(0.1, 0.9), (0.2, 0.8), (0.4, 0.8), (0.5, 0.5), (0.3, 0.7), (0.6, 0.1)]
    found = [end(trainer, epoch, loud=loud, quiet=quiet) for epoch, (loud, quiet) in enumerate(seen)]
    assert found[:4] == [[0.5, 2.0]] * 4
    for epoch in (4, 5):
        for m, init in enumerate((0.5, 2.0)):
            last = [row[m] for row in seen[epoch - 4 : epoch + 1]]
            assert found[epoch][m] == pytest.approx(init * last[-1] / (sum(last) / 5), rel=1e-12)


def test_a_constant_accuracy_leaves_init() -> None:
    trainer = trainer_of("mslr", method__init={"loud": 0.5, "quiet": 2.0})
    for epoch in range(8):
        assert end(trainer, epoch, loud=0.25, quiet=0.75) == [0.5, 2.0]


def test_a_run_asks_validation_and_never_test() -> None:
    trainer = trainer_of("mslr", trainer__max_epochs=6)
    trainer.fit()
    rows = trainer.reporter.rows
    assert all(row["method/factor/quiet"] == 1 for row in rows[:5])
    last = [row["val/quiet/accuracy"] for row in rows[:5]]
    assert rows[-1]["method/factor/quiet"] == pytest.approx(last[-1] / (sum(last) / 5))
    assert len(set(last)) > 1


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("scale", ["gradients", "rates"])
def test_without_comparison_it_is_joint_by_sum_bit_for_bit(scale: str, count: int) -> None:
    own = trainer_of("mslr", count, method__memory=1, method__scale=scale, trainer__precision="float32")
    assert_equal_runs(own, trainer_of("joint", count, method__fusion="sum", trainer__precision="float32"))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_gradients_of_encoder_and_head_are_multiplied(count: int) -> None:
    own, joint = trainer_of("mslr", count), trainer_of("joint", count, method__fusion="sum")
    factors = dict(zip(own.method.context.modalities, (0.5, 3.0, 0.0, 1.25), strict=False))
    own.method.factors.copy_(torch.tensor(list(factors.values())))
    plain = step_gradients(joint)
    for name, gradient in step_gradients(own).items():
        modality = next(m for m in factors if f".{m}." in name)
        torch.testing.assert_close(gradient, factors[modality] * plain[name], rtol=1e-14, atol=0)


def test_or_their_rates_are_with_weight_decay() -> None:
    init = {"loud": 0.5, "quiet": 2.0}
    own = trainer_of("mslr", method__init=init, method__scale="rates", optimizer__weight_decay=0.1)
    own._begin_epoch()
    for group in own.engine.optimizer.param_groups:
        assert group["lr"] == pytest.approx(group["factor"] * 0.02)
    assert sorted({group["factor"] for group in own.engine.optimizer.param_groups}) == [0.5, 2.0]
    plain = trainer_of("joint", method__fusion="sum")
    gradients = step_gradients(own)
    for name, gradient in step_gradients(plain).items():
        torch.testing.assert_close(gradients[name], gradient)  # as they are


def test_with_rates_each_epoch_has_those_of_its_factors() -> None:
    trainer = trainer_of("mslr", method__scale="rates", method__memory=2)
    end(trainer, 0, loud=0.2, quiet=0.5)
    end(trainer, 1, loud=0.6, quiet=0.5)
    assert sorted({round(group["factor"], 6) for group in trainer.engine.optimizer.param_groups}) == [1.0, 1.5]


def test_the_released_codes_factors_are_by_the_modalities_names() -> None:
    def released(*modalities: str) -> object:
        return METHODS.get("mslr").variants(modalities).get("released")

    assert variant_settings("mslr", "released", ("audio", "image")) == {"method.init": {"audio": 0.9, "image": 1.1}}
    assert released("video", "audio") == {"method.init": {"audio": 0.9, "video": 1.1}}
    assert released("audio", "video", "text") == {"method.init": {"audio": 0.9, "video": 1.4, "text": 0.7}}
    assert released("image", "text") is None
    assert released("image", "video") is None


def test_an_init_for_other_modalities_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"method.init must have a weight for each of loud, quiet, got \['loud'\]"):
        trainer_of("mslr", method__init={"loud": 1.0})
