"""ARL: weights and losses against naive loops, each ruling, and where the method is joint training."""

from __future__ import annotations

import math

import pytest
import torch
from stepping import assert_equal_runs, step_gradients, trainer_of
from torch import Tensor

from mmcore.assembly.config import variant_settings
from mmcore.batch import Batch
from mmcore.errors import ConfigError
from mmcore.methods import FUSED
from mmcore.methods.arl import encoder_weights, entropies
from mmcore.seeding import generator
from mmcore.training.trainer import Trainer

LOGITS = 3 * torch.randn(6, 4, generator=generator(0, "arl"), dtype=torch.float64)
OFF = {"method__gamma": 0.0, "method__weighting": "none", "method__start_epoch": 0}


def first_batch(trainer: Trainer) -> Batch:
    return trainer.transforms(next(iter(trainer.loader.train_batches(0))), training=True)


def softmax(row: list[float]) -> list[float]:
    exponentials = [math.exp(value) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def naive_weights(sizes: list[float], entropy: list[float], temperature: float, floor: float) -> list[float]:
    count = len(sizes)
    dependence = [size / sum(sizes) for size in sizes]
    shares = [max(value / sum(entropy), floor * 2 / count) for value in entropy]
    inverse = [(1 / share) / sum(1 / other for other in shares) for share in shares]
    exponents = []
    for index in range(count):
        others = [d for place, d in enumerate(dependence) if place != index]
        exponents.append(temperature * sum(others) / len(others) * inverse[index])
    return softmax(exponents)


def naive_entropy(row: list[float]) -> float:
    return -sum(p * math.log(p) for p in softmax(row))


# Equations


def test_the_entropy_is_that_of_a_naive_loop_and_finite_where_an_answer_is_sure() -> None:
    assert entropies(LOGITS).tolist() == pytest.approx([naive_entropy(row) for row in LOGITS.tolist()], rel=1e-12)
    assert entropies(torch.tensor([[1000.0, 0.0, -1000.0]])).tolist() == [0]
    assert entropies(torch.zeros(1, 4)).item() == pytest.approx(math.log(4))
    assert entropies(LOGITS.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("sizes", "entropy"),
    [
        ([3.0, 1.0], [0.9, 1.1]),
        ([3.0, 1.0], [0.1, 1.0]),
        ([1.0, 2.0, 4.0], [0.2, 1.0, 0.9]),
        ([1.0] * 4, [0.1, 1.0, 1.0, 1.0]),
    ],
)
def test_the_weights_are_those_of_a_naive_loop_and_sum_to_1(sizes: list[float], entropy: list[float]) -> None:
    tensors = torch.tensor(sizes, dtype=torch.float64), torch.tensor(entropy, dtype=torch.float64)
    found = encoder_weights(*tensors, 8.0, 0.3)
    assert found.tolist() == pytest.approx(naive_weights(sizes, entropy, 8.0, 0.3), rel=1e-12)
    assert found.sum().item() == pytest.approx(1)
    even = encoder_weights(*tensors, 0.0, 0.3)
    assert even.tolist() == pytest.approx([1 / len(sizes)] * len(sizes))


def test_the_modality_the_answer_leans_on_less_and_that_is_surer_gets_more() -> None:
    alike = torch.ones(2)
    assert encoder_weights(torch.tensor([3.0, 1.0]), alike, 8.0, 0.3).argmax() == 1
    assert encoder_weights(alike, torch.tensor([0.5, 1.0]), 8.0, 0.3).argmax() == 0


def test_an_entropy_below_the_floor_counts_as_the_floor() -> None:
    two = [encoder_weights(torch.ones(2), torch.tensor([share, 1 - share]), 8.0, 0.3) for share in (0.1, 0.3)]
    assert two[0].tolist() != pytest.approx(two[1].tolist())  # the other one's share differs
    below = [encoder_weights(torch.ones(3), torch.tensor([x, 0.15 - x, 0.85]), 8.0, 0.3) for x in (0.05, 0.1)]
    torch.testing.assert_close(*below)  # of three the floor is .2
    above = [encoder_weights(torch.ones(4), torch.tensor([x, 0.4 - x, 0.6, 0.0]), 8.0, 0.3) for x in (0.16, 0.2)]
    assert above[0].tolist() != pytest.approx(above[1].tolist())  # of four .15


def test_answers_of_nothing_but_zero_give_finite_weights() -> None:
    assert encoder_weights(torch.zeros(2), torch.zeros(2), 8.0, 0.0).tolist() == [0.5, 0.5]


# The method


@pytest.mark.parametrize("fusion", ["concat", "sum"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_switched_off_it_is_joint_bit_for_bit(count: int, fusion: str) -> None:
    values = {"method__fusion": fusion, "trainer__precision": "float32"}
    assert_equal_runs(trainer_of("arl", count, **OFF, **values), trainer_of("joint", count, **values))


@pytest.mark.parametrize(("epoch", "factor"), [(0, 1), (4, 1), (5, 4), (99, 4)])
def test_own_losses_weigh_gamma_from_the_start_on(epoch: int, factor: float) -> None:
    trainer = trainer_of("arl", 3, trainer__max_epochs=100)
    trainer.engine.place = trainer.engine.place._replace(epoch=epoch)
    batch = first_batch(trainer)
    terms, logits = trainer.method.losses(batch, "joint", trainer.engine), trainer.method.predict(batch)
    assert list(terms) == list(logits) == [FUSED, "loud", "quiet", "faint"]
    for name, term in terms.items():
        rows = zip(logits[name].tolist(), batch.labels.tolist(), strict=True)
        cost = sum(-math.log(softmax(row)[label]) for row, label in rows) / 16
        assert term.item() == pytest.approx(cost * (1 if name == FUSED else factor))


def lone_answers(trainer: Trainer, batch: Batch, fusion: str) -> dict[str, Tensor]:
    features, start, found = trainer.method.model.encode(batch), 0, {}
    for name, values in features.items():
        layer = trainer.method.fusion.heads[name] if fusion == "sum" else trainer.method.fusion.head
        columns = layer.weight if fusion == "sum" else layer.weight[:, start : start + values.shape[1]]
        found[name] = values @ columns.T + layer.bias
        start += values.shape[1]
    return found


@pytest.mark.parametrize("fusion", ["concat", "sum"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_encoders_gradients_are_the_sums_times_1_plus_w_and_the_heads_are_the_sums(count: int, fusion: str) -> None:
    own = trainer_of("arl", count, method__fusion=fusion)
    plain = trainer_of("arl", count, method__fusion=fusion, method__weighting="none")
    answers = lone_answers(own, first_batch(own), fusion)
    sizes = [sum(abs(z) for row in rows.tolist() for z in row) / 16 for rows in answers.values()]
    entropy = [sum(naive_entropy(row) for row in rows.tolist()) / 16 for rows in answers.values()]
    found, summed = step_gradients(own), step_gradients(plain)
    weights = naive_weights(sizes, entropy, 8.0, 0.3)
    assert own.method.weights.tolist() == pytest.approx(weights)
    assert plain.method.weights.count_nonzero() == 0
    assert max(weights) > 1.05 * min(weights)
    for name, gradient in summed.items():
        factor = next((1 + w for m, w in zip(answers, weights, strict=True) if f"encoders.{m}." in name), 1)
        torch.testing.assert_close(found[name], factor * gradient, rtol=1e-6, atol=0)
        assert factor > 1 or torch.equal(found[name], gradient)


def test_before_the_start_gradients_are_the_plain_sums() -> None:
    own = step_gradients(trainer_of("arl", 3, trainer__max_epochs=100))
    plain = step_gradients(trainer_of("arl", 3, method__gamma=1.0, method__weighting="none"))
    assert all(torch.equal(own[name], gradient) for name, gradient in plain.items())


def test_in_micro_batches_the_weights_are_of_the_whole_step() -> None:
    whole, parts = trainer_of("arl", 3), trainer_of("arl", 3, trainer__accumulate=3)
    expected, found = step_gradients(whole), step_gradients(parts)
    torch.testing.assert_close(whole.method.weights, parts.method.weights)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


def test_the_weights_are_of_complete_samples_and_own_losses_of_those_that_have_the_modality() -> None:
    trainer, complete = trainer_of("arl"), trainer_of("arl")
    raw = next(iter(trainer.loader.train_batches(0)))
    has = torch.arange(16) % 3 > 0
    raw.present = {"quiet": has}
    batch = trainer.transforms(raw, training=True)
    terms, logits = trainer.method.losses(batch, "joint", trainer.engine), trainer.method.predict(batch)
    own = torch.nn.functional.cross_entropy(logits["quiet"][has], batch.labels[has])
    assert terms["quiet"].item() == pytest.approx(4 * own.item())
    trainer.train_step(raw)
    kept = Batch({name: x[has] for name, x in raw.inputs.items()}, raw.labels[has])
    complete.train_step(kept)
    torch.testing.assert_close(trainer.method.weights, complete.method.weights)


def test_a_step_without_a_complete_sample_leaves_gradients_as_they_are() -> None:
    own, plain = trainer_of("arl"), trainer_of("arl", method__weighting="none")
    loud = torch.arange(140) % 2 == 0
    for trainer in (own, plain):
        trainer.loader._data.present = {"loud": loud, "quiet": ~loud}
    found, expected = step_gradients(own), step_gradients(plain)
    assert own.method.weights.tolist() == [0, 0]
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_the_released_code_is_the_sum_of_losses_alone() -> None:
    settings = variant_settings("arl", "released", ("loud", "quiet"))
    assert settings == {"method.weighting": "none", "optimizer.clip_norm": 40.0}


@pytest.mark.parametrize("fusion", ["film", "gated", "weight"])
def test_a_fusion_that_cannot_be_taken_apart_is_refused(fusion: str) -> None:
    with pytest.raises(ConfigError, match=r"method\.fusion must be .*concat.*sum"):
        trainer_of("arl", method__fusion=fusion)
