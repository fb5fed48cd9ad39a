"""OGM and OGM-GE: each equation against a naive loop, each ruling, and where the method is joint training."""

from __future__ import annotations

import math

import pytest
import torch
from stepping import assert_equal_runs, step_gradients, trainer_of
from torch import Tensor, nn

from mmcore.errors import ConfigError
from mmcore.methods import ogm
from mmcore.methods.encoder_tensors import convolution_kernels
from mmcore.methods.ogm import damping, noise_deviation
from mmcore.seeding import generator
from mmcore.training.trainer import Trainer


def test_the_damping_is_that_of_the_equation_and_jumps_at_1() -> None:
    ratios = [0.2, 1.0, 1.0000001, 1.7, 9.0]
    found = damping(torch.tensor(ratios, dtype=torch.float64), 0.8).tolist()
    expected = [1 - math.tanh(0.8 * ratio) if ratio > 1 else 1.0 for ratio in ratios]
    assert found == pytest.approx(expected, rel=1e-9)
    assert found[1] == 1  # ruling 1: at 1 exactly none is damped
    assert found[2] == pytest.approx(1 - math.tanh(0.8), rel=1e-5)
    assert all(0 < value <= 1 for value in found)


def test_the_noise_is_as_large_as_the_unbiased_deviation_of_the_tensor() -> None:
    gradient = torch.randn(3, 4, generator=generator(0, "g"), dtype=torch.float64)
    values = gradient.flatten().tolist()
    mean = sum(values) / 12
    expected = math.sqrt(sum((value - mean) ** 2 for value in values) / 11) + 1e-8
    assert noise_deviation(gradient).item() == pytest.approx(expected, rel=1e-12)
    assert noise_deviation(torch.tensor([5.0])).item() == pytest.approx(1e-8)


@pytest.mark.parametrize("fusion", ["concat", "sum"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_without_damping_it_is_joint_bit_for_bit(count: int, fusion: str) -> None:
    own = trainer_of("ogm", count, method__alpha=0.0, method__fusion=fusion, trainer__precision="float32")
    assert_equal_runs(own, trainer_of("joint", count, method__fusion=fusion, trainer__precision="float32"))


@pytest.mark.parametrize("noise", [False, True])
def test_outside_the_window_steps_are_joints(noise: bool) -> None:
    own = trainer_of("ogm", 2, method__noise=noise, method__start_epoch=100, method__end_epoch=100)
    assert_equal_runs(own, trainer_of("joint", 2))


def test_the_window_ends_with_its_last_epoch() -> None:
    trainer = trainer_of("ogm", 2, method__end_epoch=25, trainer__max_epochs=4)  # epochs 0 and 1 of 4
    damped = [row["method/coefficient/loud"] < 1 or row["method/coefficient/quiet"] < 1 for row in rows_of(trainer)]
    assert damped == [True, True, False, False]


def rows_of(trainer: Trainer) -> list[dict[str, float]]:
    trainer.fit()
    return trainer.reporter.rows


@pytest.mark.parametrize("count", [2, 3, 4])
def test_encoders_gradients_are_joints_times_k_and_the_heads_are_joints(count: int) -> None:
    own, joint = trainer_of("ogm", count), trainer_of("joint", count)
    found, plain = step_gradients(own), step_gradients(joint)
    coefficients = dict(zip(own.method.context.modalities, own.method.coefficients.tolist(), strict=True))
    assert 0 < sum(value < 1 for value in coefficients.values()) < count
    for name, gradient in plain.items():
        factor = next((k for modality, k in coefficients.items() if f"encoders.{modality}." in name), 1)
        torch.testing.assert_close(found[name], factor * gradient, rtol=1e-12, atol=0)


def test_the_coefficients_come_from_the_steps_own_scores() -> None:
    trainer = trainer_of("ogm", 3)
    raw = next(iter(trainer.loader.train_batches(0)))
    batch = trainer.transforms(raw, training=True)
    head, features = trainer.method.fusion.head, trainer.method.model.encode(batch)
    scores = []
    for index, values in enumerate(features.values()):
        logits = values @ head.weight[:, 6 * index : 6 * index + 6].T + head.bias / 3
        scores.append(sum(logits[i].softmax(0)[batch.labels[i]].item() for i in range(16)) / 16)
    trainer.train_step(raw)
    for index, coefficient in enumerate(trainer.method.coefficients.tolist()):
        ratio = scores[index] / ((sum(scores) - scores[index]) / 2)
        assert coefficient == pytest.approx(1 - math.tanh(0.8 * ratio) if ratio > 1 else 1)


def test_in_micro_batches_scores_are_of_the_whole_step() -> None:
    whole, parts = trainer_of("ogm", 3), trainer_of("ogm", 3, trainer__accumulate=3)
    expected, found = step_gradients(whole), step_gradients(parts)
    torch.testing.assert_close(whole.method.coefficients, parts.method.coefficients)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


def test_noise_is_added_to_every_modality_at_the_undamped_gradients_size() -> None:
    noisy, damped, joint = trainer_of("ogm", 2, method__noise=True), trainer_of("ogm"), trainer_of("joint")
    draws = []
    normal = noisy.engine.normal

    def recording(name: str, like: Tensor) -> Tensor:
        draws.append(normal(name, like))
        return draws[-1]

    noisy.engine.normal = recording
    found, expected, plain = step_gradients(noisy), step_gradients(damped), step_gradients(joint)
    names = [name for name in found if "encoders." in name]
    assert len(draws) == len(names) == 4
    for name, draw in zip(names, draws, strict=True):
        torch.testing.assert_close(found[name] - expected[name], draw * (plain[name].std() + 1e-8))
    assert torch.equal(found["fusion.head.weight"], expected["fusion.head.weight"])


def test_a_step_without_a_complete_sample_is_not_damped() -> None:
    trainer = trainer_of("ogm")
    loud = torch.arange(140) % 2 == 0
    trainer.loader._data.present = {"loud": loud, "quiet": ~loud}
    trainer.train_step(next(iter(trainer.loader.train_batches(0))))
    assert trainer.method.coefficients.tolist() == [1, 1]


def test_convolutions_are_refused_where_an_encoder_has_none() -> None:
    expected = r"method\.parameters must be all, got 'convolutions': the encoder of loud, quiet has none"
    with pytest.raises(ConfigError, match=expected):
        trainer_of("ogm", method__parameters="convolutions")


def test_convolutions_alone_are_damped_as_released(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, joint = trainer_of("ogm"), trainer_of("joint")
    object.__setattr__(trainer.method.config, "parameters", "convolutions")
    monkeypatch.setattr(ogm, "convolution_kernels", lambda encoder: [encoder.layer.weight])
    found, plain = step_gradients(trainer), step_gradients(joint)
    different = {name for name in plain if not torch.equal(found[name], plain[name])}
    assert len(different) == 1
    assert all(name.endswith("layer.weight") for name in different)


def test_kernels_are_those_of_convolutions() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv1d(2, 2, 1), nn.Linear(2, 2))
    found = convolution_kernels(network)
    assert [id(p) for p in found] == [id(network[0].weight), id(network[2].weight)]


def test_a_window_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"method\.end_epoch must be at least method\.start_epoch \(60\), got 50"):
        trainer_of("ogm", method__start_epoch=60)


@pytest.mark.parametrize("fusion", ["film", "gated", "weight"])
def test_a_fusion_that_cannot_be_taken_apart_is_refused(fusion: str) -> None:
    with pytest.raises(ConfigError, match=r"method\.fusion must be .*concat.*sum"):
        trainer_of("ogm", method__fusion=fusion)


def test_normal_draws_are_new_each_time_and_follow_the_seed() -> None:
    first, second = trainer_of("ogm").engine, trainer_of("ogm").engine
    like = torch.empty(1000, dtype=torch.float64)
    draws = [first.normal("ogm", like) for _ in range(2)]
    assert torch.equal(draws[0], second.normal("ogm", like))
    assert not torch.equal(draws[0], draws[1])
    assert draws[0].std().item() == pytest.approx(1, abs=0.1)
    assert draws[0].dtype == torch.float64
    restored = trainer_of("ogm").engine
    restored.load_state_dict(second.state_dict())
    assert torch.equal(restored.normal("ogm", like), draws[1])
