"""MMPareto: the weights and gradients against a naive loop, its invariants, and where it is `joint_unimodal`."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from stepping import assert_equal_runs, step_gradients, trainer_of
from torch import Tensor

from mmcore.methods.mmpareto import pareto_gradients_, pareto_weights, stretch
from mmcore.seeding import generator
from mmcore.training.trainer import Trainer

SHAPES = [(3, 2), (4,), (2, 2, 2)]


def pair(is_conflict: bool) -> tuple[list[Tensor], list[Tensor]]:
    """A and u, which conflict as a whole but not in every tensor, or agree."""
    draw = generator(0, "pareto")
    own = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in SHAPES]
    noise = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in SHAPES]
    signs = (-0.6, 0.3, -0.6) if is_conflict else (0.6, -0.3, 0.6)
    return [sign * u + 0.5 * n for sign, u, n in zip(signs, own, noise, strict=True)], own


def flat(gradients: list[Tensor]) -> list[float]:
    return torch.cat([gradient.flatten() for gradient in gradients]).tolist()


def dot(first: list[float], second: list[float]) -> float:
    return sum(a * b for a, b in zip(first, second, strict=True))


def naive(joint: list[Tensor], own: list[Tensor], gamma: float, rescale: str) -> tuple[list[list[float]], float]:
    a, u = flat(joint), flat(own)
    c = dot(a, u)
    k = 0.5 if c > 0 else (dot(u, u) - c) / (dot(a, a) + dot(u, u) - 2 * c)
    parts = [(flat([x]), flat([y])) for x, y in zip(joint, own, strict=True)]
    weighted = [[2 * k * x + 2 * (1 - k) * y for x, y in zip(*part, strict=True)] for part in parts]
    plain = [[x + y for x, y in zip(*part, strict=True)] for part in parts]
    if rescale == "encoder":
        lengths = [math.hypot(*(math.hypot(*part) for part in side)) for side in (plain, weighted)]
        factors = [max(1.0, lengths[0] / lengths[1])] * len(parts)
    else:
        factors = [max(1.0, math.hypot(*p) / math.hypot(*h)) for p, h in zip(plain, weighted, strict=True)]
    return [[gamma * f * value for value in h] for f, h in zip(factors, weighted, strict=True)], k


def rule(total: list[Tensor], own: list[Tensor], *settings: Any) -> tuple[list[Tensor], Tensor]:
    """The rule's gradients, which it puts in the place of a copy of `total`, and k."""
    found, before = [value.clone() for value in total], [value.clone() for value in own]
    weight = pareto_gradients_(found, own, *settings)
    assert all(torch.equal(value, kept) for value, kept in zip(own, before, strict=True))
    return found, weight


@pytest.mark.parametrize("rescale", ["tensor", "encoder"])
@pytest.mark.parametrize("is_conflict", [True, False])
def test_gradients_are_those_of_a_naive_loop(is_conflict: bool, rescale: str) -> None:
    joint, own = pair(is_conflict)
    assert (dot(flat(joint), flat(own)) <= 0) == is_conflict
    found, weight = rule([a + u for a, u in zip(joint, own, strict=True)], own, 1.5, rescale)
    expected, k = naive(joint, own, 1.5, rescale)
    assert weight.item() == pytest.approx(k, rel=1e-12)
    for gradient, values in zip(found, expected, strict=True):
        assert gradient.flatten().tolist() == pytest.approx(values, rel=1e-10)


def test_per_tensor_and_per_encoder_differ_where_gradients_conflict() -> None:
    joint, own = pair(True)
    total = [a + u for a, u in zip(joint, own, strict=True)]
    first, second = (rule(total, own, 1.0, rescale)[0] for rescale in ("tensor", "encoder"))
    assert not torch.allclose(first[0], second[0])


def test_without_conflict_it_is_gamma_times_the_plain_sum_bit_for_bit() -> None:
    joint, own = pair(False)
    total = [a + u for a, u in zip(joint, own, strict=True)]
    found, weight = rule(total, own, 2.0, "tensor")
    assert weight == 0.5
    assert all(torch.equal(gradient, 2 * plain) for gradient, plain in zip(found, total, strict=True))


def test_with_conflict_the_weighted_sum_hurts_neither() -> None:
    joint, own = pair(True)
    a, u = flat(joint), flat(own)
    first, second = pareto_weights(*(torch.tensor(v, dtype=torch.float64) for v in (dot(a, a), dot(u, u), dot(a, u))))
    h = [2 * first.item() * x + 2 * second.item() * y for x, y in zip(a, u, strict=True)]
    assert first + second == 1
    assert dot(h, a) >= 0
    assert dot(h, u) >= 0
    assert dot(h, a) == pytest.approx(dot(h, u))  # the point of least norm is orthogonal to a - u
    assert dot(flat(joint), flat(own)) < 0


@pytest.mark.parametrize(("zero", "left"), [("joint", "own"), ("own", "joint")])
def test_a_gradient_of_0_leaves_the_other_one(zero: str, left: str) -> None:
    values = {"joint": pair(True)[0], "own": pair(True)[1]}
    values[zero] = [torch.zeros_like(value) for value in values[zero]]
    total = [a + u for a, u in zip(values["joint"], values["own"], strict=True)]
    found, _ = rule(total, values["own"], 1.5, "tensor")
    for gradient, plain in zip(found, values[left], strict=True):
        torch.testing.assert_close(gradient, 1.5 * plain)


def test_the_gradients_of_a_modality_no_sample_has_stay_as_they_are() -> None:
    total, own = pair(True)
    found, weight = rule(total, [torch.zeros_like(value) for value in own], 1.5, "tensor", torch.tensor(False))
    assert weight == 1
    assert all(torch.equal(gradient, value) for gradient, value in zip(found, total, strict=True))
    found, _ = rule(total, own, 1.5, "tensor", torch.tensor(True))
    assert all(map(torch.equal, found, rule(total, own, 1.5, "tensor")[0]))


def test_opposite_gradients_give_0_and_no_nan() -> None:
    own = pair(True)[1]
    found, weight = rule([-u for u in own], own, 1.5, "tensor")  # a = -2 u
    assert weight.item() == pytest.approx(1 / 3)
    assert all(torch.isfinite(gradient).all() for gradient in found)
    both = [torch.zeros_like(u) for u in own]
    found, _ = rule(both, both, 1.5, "tensor")
    assert not any(gradient.count_nonzero() for gradient in found)
    assert stretch(torch.tensor([3.0, 3.0, 1.0]), torch.tensor([0.0, 2.0, 2.0])).tolist() == [1.0, 1.5, 1.0]


# The class


def naive_step(trainer: Trainer) -> dict[str, list[float]]:
    """M + 1 backward passes, one encoder after the other."""
    batch = trainer.transforms(next(iter(trainer.loader.train_batches(0))), training=True)
    terms = trainer.method.losses(batch, "joint", trainer.engine)
    expected: dict[str, list[float]] = {}
    for modality in trainer.method.context.modalities:
        named = [(n, p) for n, p in trainer.method.named_parameters() if f"encoders.{modality}." in n]
        parameters = [p for _, p in named]
        joint, own = (torch.autograd.grad(terms[name], parameters, retain_graph=True) for name in ("fused", modality))
        gradients, _ = naive(list(joint), list(own), 1.5, "tensor")
        expected |= dict(zip([name for name, _ in named], gradients, strict=True))
    return expected


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_step_is_that_of_as_many_backward_passes_as_losses(count: int, seed: int) -> None:
    trainer, plain = trainer_of("mmpareto", count, seed=seed), trainer_of("joint_unimodal", count, seed=seed)
    expected = naive_step(trainer)
    found, heads = step_gradients(trainer), step_gradients(plain)
    for name, gradient in found.items():
        if name in expected:
            torch.testing.assert_close(gradient.flatten().tolist(), expected[name], rtol=1e-9, atol=1e-12)
        else:
            assert torch.equal(gradient, heads[name])  # heads: plain, no γ


def forced(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """As if gradients never conflicted."""
    half = lambda a, u, c: (torch.full_like(c, 0.5), torch.full_like(c, 0.5))  # noqa: E731
    monkeypatch.setattr("mmcore.methods.mmpareto.pareto_weights", half)
    return trainer


@pytest.mark.parametrize("count", [2, 3])
def test_without_conflict_and_factor_it_is_joint_unimodal_bit_for_bit(count: int, monkeypatch) -> None:
    values = {"method__gamma": 1.0, "trainer__precision": "float32"}
    own = forced(trainer_of("mmpareto", count, **values), monkeypatch)
    other = trainer_of("joint_unimodal", count, trainer__precision="float32")
    assert_equal_runs(own, other)


def test_in_micro_batches_the_rule_is_of_the_whole_step() -> None:
    whole, parts = trainer_of("mmpareto", 3), trainer_of("mmpareto", 3, trainer__accumulate=3)
    expected, found = step_gradients(whole), step_gradients(parts)
    torch.testing.assert_close(whole.method.joint_weights, parts.method.joint_weights)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


def test_a_modality_no_sample_has_keeps_its_plain_gradient() -> None:
    trainers = [trainer_of(method) for method in ("mmpareto", "joint_unimodal")]
    for trainer in trainers:
        trainer.loader._data.present = {"quiet": torch.zeros(140, dtype=torch.bool)}
    found, plain = (step_gradients(trainer) for trainer in trainers)
    quiet = [name for name in found if "encoders.quiet." in name]
    assert all(torch.equal(found[name], plain[name]) for name in quiet)
    assert trainers[0].method.joint_weights[1] == 1
    loud = next(name for name in found if "encoders.loud." in name)
    assert not torch.equal(found[loud], plain[loud])


def test_one_step_makes_one_forward_pass_and_two_backward_passes() -> None:
    trainer = trainer_of("mmpareto", 3)
    calls = {"forward": 0, "backward": 0}
    encoder = trainer.method.model.encoders["loud"].layer
    encoder.register_forward_hook(lambda *_: calls.update(forward=calls["forward"] + 1))
    encoder.weight.register_hook(lambda _: calls.update(backward=calls["backward"] + 1))
    trainer.train_step(next(iter(trainer.loader.train_batches(0))))
    assert calls == {"forward": 1, "backward": 2}
