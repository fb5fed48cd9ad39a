"""OPM: each equation against a naive loop, each ruling, and where the method is joint training."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from stepping import assert_equal_runs, step_gradients, trainer_of
from torch import Tensor

from mmcore.batch import Batch
from mmcore.errors import ConfigError
from mmcore.methods.opm import drop_rates, mean_rate, rate_slopes, thin
from mmcore.seeding import generator
from mmcore.training.trainer import Trainer

ALWAYS: dict[str, Any] = {"method__probability": 1.0, "method__warmup_epochs": 0}


def first_batch(trainer: Trainer) -> Batch:
    batch = trainer.transforms(next(iter(trainer.loader.train_batches(0))), training=True)
    next(trainer.engine.micro_batches(batch))
    return batch


def with_draws(monkeypatch: pytest.MonkeyPatch, draws: list[list[float]]) -> None:
    monkeypatch.setattr("mmcore.methods.opm.row_uniforms", lambda *_: torch.tensor(draws))


# The equations


def test_the_rates_are_those_of_the_equation_and_jump_at_1() -> None:
    ratios = [0.3, 1.0, 1.0000001, 1.6, 40.0]
    found = drop_rates(torch.tensor(ratios, dtype=torch.float64), 0.5, 0.7).tolist()
    expected = [min(1, 0.5 * (1 + 0.7 * math.tanh(ratio - 1))) if ratio > 1 else 0.0 for ratio in ratios]
    assert found == pytest.approx(expected, rel=1e-12)
    assert found[1] == 0
    assert found[2] == pytest.approx(0.5, rel=1e-6)
    assert drop_rates(torch.tensor([9.0]), 0.9, 0.5).item() == 1


def test_the_mean_rate_counts_features() -> None:
    rates, sizes = [0.5, 0.0, 0.25], [3, 2, 4]
    expected = sum(rate * size for rate, size in zip(rates, sizes, strict=True)) / 9
    assert mean_rate(torch.tensor(rates, dtype=torch.float64), sizes).item() == pytest.approx(expected, rel=1e-12)


def test_features_are_kept_or_left_out_over_one_minus_the_mean_rate() -> None:
    sizes = {"a": 3, "b": 2}
    draw = generator(0, "features")
    features = {m: torch.randn(4, size, generator=draw, dtype=torch.float64) for m, size in sizes.items()}
    kept = torch.tensor([[True, False, False, True], [True, True, False, True]])
    found = thin(features, kept, torch.tensor(0.3, dtype=torch.float64))
    for row, name in enumerate(sizes):
        for i, d in itertools.product(range(4), range(sizes[name])):
            expected = features[name][i, d].item() / 0.7 if kept[row, i] else 0.0
            assert found[name][i, d].item() == pytest.approx(expected, rel=1e-12)


def test_of_modalities_of_one_size_as_much_is_left_on_average_as_there_was() -> None:
    rates = [0.6, 0.0, 0.25]
    features = {str(index): torch.ones(1, 5, dtype=torch.float64) for index in range(3)}
    rate = mean_rate(torch.tensor(rates, dtype=torch.float64), [5, 5, 5])
    mean = 0.0
    for kept in itertools.product([True, False], repeat=3):
        chance = math.prod(1 - q if keeps else q for q, keeps in zip(rates, kept, strict=True))
        left = thin(features, torch.tensor(kept)[:, None], rate)
        mean += chance * sum(values.sum().item() for values in left.values()) / 15
    assert mean == pytest.approx(1, rel=1e-12)


def test_where_nothing_can_be_kept_nothing_is_infinite() -> None:
    left = thin({"a": torch.ones(2, 3)}, torch.zeros(1, 2, dtype=torch.bool), torch.tensor(1.0))
    assert torch.equal(left["a"], torch.zeros(2, 3))


@pytest.mark.parametrize("scores", [[6.0, 3.0], [6.0, 3.0, 5.0], [0.0, 0.0], [4.0, 0.0]])
def test_the_slopes_of_half_the_squared_mean_rate_are_those_of_small_steps(scores: list[float]) -> None:
    sizes, count, step = [3, 2, 4][: len(scores)], 8.0, 1e-6

    def half_square(values: list[float]) -> float:
        rates = []
        for score in values:
            others = (sum(values) - score) / (len(values) - 1)
            ratio = score / max(others, 1e-8)
            rates.append(0.5 * (1 + 0.5 * math.tanh(ratio - 1)) if ratio > 1 else 0.0)
        return (sum(q * size for q, size in zip(rates, sizes, strict=True)) / sum(sizes)) ** 2 / 2

    found = rate_slopes(torch.tensor([*scores, count], dtype=torch.float64), sizes, 0.5, 0.5).tolist()
    for index, slope in enumerate(found):
        up, down = ([s / count + sign * step * (i == index) for i, s in enumerate(scores)] for sign in (1, -1))
        expected = (half_square(up) - half_square(down)) / (2 * step) if 0 not in scores else 0.0
        assert slope == pytest.approx(expected, rel=1e-6, abs=1e-12)


# Where it is joint training


@pytest.mark.parametrize("fusion", ["concat", "sum"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_without_masks_it_is_joint_bit_for_bit(count: int, fusion: str) -> None:
    values = {"method__fusion": fusion, "trainer__precision": "float32"}
    own = trainer_of("opm", count, method__probability=0.0, **values)
    assert_equal_runs(own, trainer_of("joint", count, **values))


def test_the_warm_up_is_joint_and_scaled_with_the_run() -> None:
    own = trainer_of("opm", method__probability=1.0, method__warmup_epochs=50, trainer__max_epochs=4)
    assert own.method.first_epoch == 2
    own.fit()
    masked = [row["method/rate/loud"] > 0 for row in own.reporter.rows]
    assert masked == [False, False, True, True]
    assert trainer_of("opm", trainer__max_epochs=100).method.first_epoch == 6
    whole = trainer_of("opm", method__warmup_epochs=100, trainer__max_epochs=3)
    assert_equal_runs(whole, trainer_of("joint", trainer__max_epochs=3))


# A masked step


def naive_scores(trainer: Trainer, batch: Batch, kept: list[int]) -> list[float]:
    """The mean probability of the label in each modality's part of the concat head."""
    head, features = trainer.method.fusion.head, trainer.method.model.encode(batch)
    scores = []
    for index, values in enumerate(features.values()):
        logits = values @ head.weight[:, 6 * index : 6 * index + 6].T + head.bias / len(features)
        scores.append(sum(logits[i].softmax(0)[batch.labels[i]].item() for i in kept) / len(kept))
    return scores


def naive_rates(scores: list[float], base: float = 0.5) -> list[float]:
    rates = []
    for score in scores:
        ratio = score / ((sum(scores) - score) / (len(scores) - 1))
        rates.append(base * (1 + 0.5 * math.tanh(ratio - 1)) if ratio > 1 else 0.0)
    return rates


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("is_missing", [False, True])
def test_a_masked_loss_is_that_of_a_loop_over_the_samples(
    count: int, is_missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of("opm", count, **ALWAYS)
    batch = first_batch(trainer)
    names = list(batch.inputs)
    if is_missing:
        batch.present = {"loud": torch.arange(16) % 3 > 0, "quiet": torch.arange(16) % 5 > 0}
    has = {name: batch.present.get(name, torch.ones(16)).tolist() for name in names}
    complete = [i for i in range(16) if all(has[name][i] for name in names)]
    draws = torch.rand(count, 16, generator=generator(1, "draws")).tolist()
    with_draws(monkeypatch, draws)
    features = trainer.method.model.encode(batch)
    rates = naive_rates(naive_scores(trainer, batch, complete))
    rate = sum(rates) / count
    total, number = 0.0, 0
    for i in range(16):
        kept = [name for m, name in enumerate(names) if draws[m][i] >= rates[m]]
        if not any(has[name][i] for name in kept):
            continue
        row = {name: features[name][i : i + 1] * (name in kept) / (1 - rate) for name in names}
        total += F.cross_entropy(trainer.method.fusion(row), batch.labels[i : i + 1]).item()
        number += 1
    found = trainer.method.losses(batch, "joint", trainer.engine)
    assert list(found) == ["fused"]
    assert found["fused"].item() == pytest.approx(total / number, rel=1e-9)
    assert trainer.method.rates.tolist() == pytest.approx(rates, rel=1e-6)
    assert 0 < sum(q > 0 for q in rates) < count
    assert (number < 16) == is_missing  # one modality is never left out, so that only a missing one leaves nothing


def test_rates_have_no_gradient_and_the_head_learns_of_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of("opm", **ALWAYS)
    with_draws(monkeypatch, torch.rand(2, 16, generator=generator(1, "draws")).tolist())
    batch = first_batch(trainer)
    rates = torch.tensor(naive_rates(naive_scores(trainer, batch, list(range(16)))))
    kept = torch.rand(2, 16, generator=generator(1, "draws")) >= rates[:, None]
    left = thin(trainer.method.model.encode(batch), kept, rates.double().mean())
    loss = F.cross_entropy(trainer.method.fusion(left), batch.labels)
    names, parameters = zip(*trainer.method.named_parameters(), strict=True)
    expected = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    for name, gradient in step_gradients(trainer).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_as_released_the_encoders_alone_descend_half_the_squared_mean_rate_too(
    fusion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_draws(monkeypatch, torch.rand(2, 16, generator=generator(1, "draws")).tolist())
    values = {**ALWAYS, "method__fusion": fusion}
    released, plain = (trainer_of("opm", method__rate_gradient=flag, **values) for flag in (True, False))
    batch, method = first_batch(released), released.method
    features = method.model.encode(batch)
    scores = []
    for index, (name, values_of) in enumerate(features.items()):
        if fusion == "sum":
            logits = method.fusion.heads[name](values_of)
        else:
            head = method.fusion.head
            logits = values_of @ head.weight[:, 6 * index : 6 * index + 6].T + head.bias / 2
        scores.append(logits.softmax(dim=1).gather(1, batch.labels[:, None]).mean())
    ratios = torch.stack([scores[0] / scores[1], scores[1] / scores[0]])
    rate = torch.where(ratios > 1, 0.5 * (1 + 0.5 * torch.tanh(ratios - 1)), 0).mean()
    encoders = {n: p for n, p in method.named_parameters() if "encoders." in n}
    more = dict(zip(encoders, torch.autograd.grad(rate.square() / 2, list(encoders.values())), strict=True))
    terms = method.losses(batch, "joint", released.engine)
    assert terms["rate"].item() == pytest.approx(rate.item() ** 2 / 2, rel=1e-6)
    found, expected = step_gradients(released), step_gradients(plain)
    assert max(gradient.abs().max() for gradient in more.values()) > 1e-4
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name] - gradient, more.get(name, torch.zeros_like(gradient)), rtol=1e-6, atol=1e-9
        )


def test_where_no_sample_has_anything_left_the_loss_is_0(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of("opm", **ALWAYS)
    with_draws(monkeypatch, [[-1.0] * 16] * 2)
    batch = first_batch(trainer)
    terms = trainer.method.losses(batch, "joint", trainer.engine)
    assert terms["fused"].item() == 0
    gradients = torch.autograd.grad(terms["fused"], list(trainer.method.parameters()))
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients)


def test_a_step_without_a_complete_sample_is_joints() -> None:
    trainer, joint = trainer_of("opm", **ALWAYS), trainer_of("joint")
    for each in (trainer, joint):
        loud = torch.arange(140) % 2 == 0
        each.loader._data.present = {"loud": loud, "quiet": ~loud}
    found, expected = step_gradients(trainer), step_gradients(joint)
    assert trainer.method.rates.tolist() == [0, 0]
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


def test_one_draw_decides_for_the_step_with_its_probability() -> None:
    trainer = trainer_of("opm", method__probability=0.3, method__warmup_epochs=0, trainer__accumulate=4)
    batch, seen = first_batch(trainer), []
    for _ in range(400):
        parts = []
        for part in trainer.engine.micro_batches(batch):
            trainer.method.losses(part, "joint", trainer.engine)
            parts.append(trainer.method._seed)
        assert len(set(parts)) == 1
        seen.append(parts[0])
    masked = [seed for seed in seen if seed is not None]
    assert len(masked) / 400 == pytest.approx(0.3, abs=0.07)
    assert len(set(masked)) == len(masked)


def test_a_sample_keeps_its_modality_as_often_as_the_rate_says() -> None:
    trainer = trainer_of("opm", **ALWAYS)
    batch = first_batch(trainer)
    expected = naive_rates(naive_scores(trainer, batch, list(range(16))))
    zeros = torch.zeros(2)

    def counting(_: object, inputs: tuple[dict[str, Tensor]]) -> None:
        zeros.add_(torch.tensor([(values == 0).all(dim=1).float().mean() for values in inputs[0].values()]))

    trainer.method.fusion.register_forward_pre_hook(counting)
    for _ in range(300):
        trainer.method.losses(batch, "joint", trainer.engine)
    assert (zeros / 300).tolist() == pytest.approx(expected, abs=0.03)


def test_the_answer_in_evaluation_is_that_of_all_features() -> None:
    trainer = trainer_of("opm", **ALWAYS)
    trainer.fit()
    trainer.method.eval()
    batch = first_batch(trainer)
    expected = trainer.method.fusion(trainer.method.model.encode(batch))
    assert torch.equal(trainer.method.predict(batch)["fused"], expected)


# What is refused


@pytest.mark.parametrize("fusion", ["film", "gated", "weight"])
def test_a_fusion_that_cannot_be_taken_apart_is_refused(fusion: str) -> None:
    with pytest.raises(ConfigError, match=r"method\.fusion must be .*concat.*sum"):
        trainer_of("opm", method__fusion=fusion)
