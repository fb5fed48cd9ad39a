"""LFM: each equation against a naive loop, the learned weight against a difference quotient, each ruling."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from stepping import step_gradients, trainer_of
from torch import Tensor

from mmcore.batch import Batch
from mmcore.errors import ConfigError
from mmcore.methods import FUSED
from mmcore.methods.lfm import divergence, fitted_weight, weight_derivative, weight_rate
from mmcore.methods.step import Place
from mmcore.seeding import generator
from mmcore.training.trainer import Trainer

HALF = {"method__start": 0.5}


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(0, "lfm", *shape), dtype=torch.float64)


def naive_divergence(first: list[float], second: list[float], kind: str) -> float:
    def softmax(row: list[float]) -> list[float]:
        total = sum(math.exp(value) for value in row)
        return [math.exp(value) / total for value in row]

    def kl(p: list[float], q: list[float]) -> float:
        return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))

    own = [softmax(first), softmax(second)]
    middle = [(a + b) / 2 for a, b in zip(*own, strict=True)]
    return sum(kl(p, middle) if kind == "js" else kl(middle, p) for p in own) / 2


@pytest.mark.parametrize("kind", ["js", "released"])
def test_the_divergence_is_that_of_a_loop_and_does_not_depend_on_the_order(kind: str) -> None:
    first, second = 2 * drawn(6, 4), drawn(6, 4) - 1
    found = divergence(first, second, kind)
    expected = [naive_divergence(a, b, kind) for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-10)
    torch.testing.assert_close(divergence(second, first, kind), found)


def test_equal_answers_are_not_apart_and_none_are_further_than_ln_2() -> None:
    logits = drawn(3, 4)
    torch.testing.assert_close(divergence(logits, logits + 5, "js"), torch.zeros(3, dtype=torch.float64))
    far = divergence(torch.tensor([[500.0, 0]]), torch.tensor([[0, 500.0]]), "js")
    assert far.item() == pytest.approx(math.log(2))
    assert torch.isfinite(divergence(torch.tensor([[500.0, 0]]), torch.tensor([[0, 500.0]]), "released")).all()
    sure = torch.tensor([[500.0, 0]], requires_grad=True)
    divergence(sure, torch.tensor([[0, 500.0]]), "js").sum().backward()
    assert torch.isfinite(sure.grad).all()


def test_the_fitted_weight_is_the_polynomials() -> None:
    assert fitted_weight(0) == pytest.approx(1 - 0.204623704)
    assert fitted_weight(100) == pytest.approx(1 - 0.539, abs=5e-4)
    assert fitted_weight(180) == pytest.approx(1 - 1.008, abs=5e-4)


def test_the_weights_rate_halves_every_twenty_epochs() -> None:
    assert [weight_rate(0.4, epoch) for epoch in (0, 19, 20, 39, 40, 100)] == pytest.approx(
        [0.4, 0.4, 0.2, 0.2, 0.1, 0.4 / 32]
    )


def test_the_derivative_is_minus_the_rate_times_the_products() -> None:
    lists = [[drawn(2, 3), drawn(4)] for _ in range(3)]
    for index, tensors in enumerate(lists):
        for tensor in tensors:
            tensor.mul_(index + 1).add_(index)
    expected = 0.0
    for tensors in zip(*lists, strict=True):
        for v, c, a in zip(*[tensor.flatten().tolist() for tensor in tensors], strict=True):
            expected -= 0.1 * v * 2 * (a - c)
    assert weight_derivative(*lists, 0.1).item() == pytest.approx(expected, rel=1e-10)


# The learned weight


def pass_of(trainer: Trainer, split: str) -> Batch:
    (batch,) = trainer.engine.passes(split, 0)
    return batch


def loss_of(method: torch.nn.Module, batch: Batch, weight: float | None) -> Tensor:
    """L at α_1 = weight; None: CE alone. Written out."""
    logits = {name: method.heads[name](x) for name, x in method.model.encode(batch).items()}
    classify = F.cross_entropy(sum(logits.values()) / len(logits), batch.labels)
    if weight is None:
        return classify
    names = list(logits)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    apart = [divergence(logits[a], logits[b], "js").mean() for a, b in pairs]
    return 2 * ((1 - weight) * classify + weight * sum(apart) / len(pairs))


def validation_after_a_step(trainer: Trainer, weight: float) -> float:
    method = copy.deepcopy(trainer.method)
    loss = loss_of(method, pass_of(trainer, "train"), weight)
    parameters = list(method.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.data -= trainer.engine.learning_rate * gradient
    return loss_of(method, pass_of(trainer, "val"), None).item()


@pytest.mark.parametrize("count", [2, 3])
def test_the_learned_weight_moves_by_the_derivative_of_validations_loss(count: int) -> None:
    trainer = trainer_of("lfm", count, optimizer__lr=0.3, method__alpha_rate=0.5, **HALF)
    trainer.method.eval()
    small = 1e-5
    ends = [validation_after_a_step(trainer, 0.5 + sign * small) for sign in (1, -1)]
    expected = (ends[0] - ends[1]) / (2 * small)
    assert abs(expected) > 1e-3
    before = {name: value.clone() for name, value in trainer.method.named_parameters()}
    trainer._begin_epoch()
    assert trainer.method.alignment_weight.item() == pytest.approx(0.5 - 0.5 * expected, rel=1e-6)
    assert all(torch.equal(before[name], value) for name, value in trainer.method.named_parameters())
    assert all(parameter.grad is None for parameter in trainer.method.parameters())


@pytest.mark.parametrize(("rate", "expected"), [(1e9, {0.05, 0.95}), (0.0, {0.5})])
def test_the_learned_weight_stays_within_its_bounds(rate: float, expected: set[float]) -> None:
    trainer = trainer_of("lfm", method__alpha_rate=rate, **HALF)
    trainer._begin_epoch()
    assert round(trainer.method.alignment_weight.item(), 9) in expected


def test_the_weight_at_the_authors_rate_stays_about_where_it_began() -> None:
    trainer = trainer_of("lfm")
    trainer.fit()
    assert trainer.method.alignment_weight.item() == pytest.approx(0.95, abs=1e-4)
    assert trainer.reporter.rows[-1]["method/alignment_weight"] == trainer.method.alignment_weight.item()


def test_the_fitted_weight_is_in_the_authors_epochs_and_within_the_bounds() -> None:
    trainer = trainer_of("lfm", method__schedule="fitted", method__start=0.95, trainer__max_epochs=90)
    for epoch, expected in ((0, fitted_weight(0)), (45, fitted_weight(90)), (89, 0.05)):
        trainer.engine.place = Place(epoch, 0, 5)
        trainer.method.begin_epoch(trainer.engine)
        assert trainer.method.alignment_weight.item() == pytest.approx(expected)


# Losses


@pytest.mark.parametrize("weight", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_loss_is_that_of_the_rule(count: int, weight: float) -> None:
    trainer = trainer_of("lfm", count, method__start=weight, method__schedule="fixed")
    batch = trainer.transforms(next(iter(trainer.loader.train_batches(0))), training=True)
    terms = trainer.method.losses(batch, "joint", trainer.engine)
    assert list(terms) == [FUSED, "alignment"]
    expected = loss_of(trainer.method, batch, trainer.method.alignment_weight.item())
    torch.testing.assert_close(sum(terms.values()), expected)


def test_added_pairs_are_as_many_times_the_mean() -> None:
    mean, added = (trainer_of("lfm", 3, method__pairs=pairs) for pairs in ("mean", "sum"))
    batch = mean.transforms(next(iter(mean.loader.train_batches(0))), training=True)
    found = [trainer.method.losses(batch, "joint", trainer.engine)["alignment"] for trainer in (mean, added)]
    torch.testing.assert_close(found[1], 3 * found[0])


def test_without_alignment_it_is_an_ensemble_trained_on_its_mean_logits_at_twice_the_rate() -> None:
    trainer = trainer_of("lfm", 3, method__schedule="fixed", method__start=0.0, method__low=0.0)
    twin = trainer_of("ensemble", 3)
    batch = twin.transforms(next(iter(twin.loader.train_batches(0))), training=True)
    loss = F.cross_entropy(twin.method.predict(batch)[FUSED], batch.labels)
    names = [name for name, _ in twin.method.named_parameters()]
    expected = dict(zip(names, torch.autograd.grad(loss, list(twin.method.parameters())), strict=True))
    for name, gradient in step_gradients(trainer).items():
        torch.testing.assert_close(gradient, 2 * expected[name], rtol=1e-12, atol=1e-14)


def test_agreement_is_of_the_samples_that_have_both() -> None:
    trainer = trainer_of("lfm", 2)
    batch = trainer.transforms(next(iter(trainer.loader.train_batches(0))), training=True)
    has = torch.arange(16) % 3 > 0
    whole = Batch({name: x[has] for name, x in batch.inputs.items()}, batch.labels[has])
    batch.present = {"quiet": has}
    found = trainer.method.losses(batch, "joint", trainer.engine)["alignment"]
    torch.testing.assert_close(found, trainer.method.losses(whole, "joint", trainer.engine)["alignment"])


def test_a_start_outside_the_bounds_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"method.start must be from method.low to method.high \(0.2 to 0.9\), got 0"):
        trainer_of("lfm", method__start=0.1, method__low=0.2, method__high=0.9)
