"""AGM: each equation against a naive loop, each ruling, and where the method is joint training."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from stepping import assert_equal_runs, assert_same_state, step_gradients, trainer_of
from torch import Tensor

from mmcore.batch import Batch
from mmcore.errors import ConfigError
from mmcore.methods.agm import (
    discrepancies,
    gradient_coefficients,
    label_costs,
    pass_weights,
    shapley_shares,
    subsets,
)
from mmcore.seeding import generator
from mmcore.training.trainer import Trainer

NAMES = ("loud", "quiet", "faint", "silent")
BATCH_NORM = {f"model__encoders__{name}__batch_norm": True for name in NAMES[:2]}


def first_batch(trainer: Trainer) -> Batch:
    return trainer.transforms(next(iter(trainer.loader.train_batches(0))), training=True)


def random_logits(names: tuple[str, ...]) -> dict[frozenset[str], Tensor]:
    draw = generator(0, "agm")
    return {subset: torch.randn(5, 3, generator=draw, dtype=torch.float64) for subset in subsets(names)}


def naive_shares(logits: dict[frozenset[str], Tensor], names: tuple[str, ...]) -> list[Tensor]:
    """The mean over all orders of what a modality adds to those before it."""
    shares = [torch.zeros(5, 3, dtype=torch.float64) for _ in names]
    orders = list(itertools.permutations(names))
    for order in orders:
        for place, name in enumerate(order):
            before = logits.get(frozenset(order[:place]), torch.zeros(5, 3, dtype=torch.float64))
            shares[names.index(name)] += (logits[frozenset(order[: place + 1])] - before) / len(orders)
    return shares


# Equations


@pytest.mark.parametrize("count", [2, 3, 4])
def test_shares_are_the_mean_over_all_orders_and_sum_to_the_joint_logits(count: int) -> None:
    names = NAMES[:count]
    logits = random_logits(names)
    found = shapley_shares(logits, names)
    for share, expected in zip(found, naive_shares(logits, names), strict=True):
        torch.testing.assert_close(share, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.sum(dim=0), logits[frozenset(names)], rtol=1e-12, atol=1e-12)


def test_for_two_modalities_the_share_is_half_of_three_terms() -> None:
    logits = random_logits(("a", "b"))
    both, a, b = (logits[frozenset(names)] for names in ("ab", "a", "b"))
    torch.testing.assert_close(shapley_shares(logits, ("a", "b"))[0], (both - b + a) / 2, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_weights_of_the_passes_multiply_each_shares_gradient_by_k(count: int) -> None:
    names = NAMES[:count]
    logits = {subset: values.requires_grad_() for subset, values in random_logits(names).items()}
    k = torch.rand(count, generator=generator(0, "k"), dtype=torch.float64) * 2
    g = torch.randn(5, 3, generator=generator(0, "g"), dtype=torch.float64)
    total = sum(k[index] * (g * share).sum() for index, share in enumerate(shapley_shares(logits, names)))
    expected = torch.autograd.grad(total, list(logits.values()))
    for subset, gradient in zip(logits, expected, strict=True):
        torch.testing.assert_close(pass_weights(k, names)[subset] * g, gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_equal_coefficients_leave_the_whole_pass_alone_exactly(count: int) -> None:
    weights = pass_weights(torch.ones(count), NAMES[:count])
    assert [value.item() for value in weights.values()] == [0.0] * (2**count - 2) + [1.0]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_discrepancies_and_coefficients_are_those_of_the_equations(count: int) -> None:
    costs, reference = [0.3, 1.7, 0.9, 2.4][:count], [0.9, 1.2, 1.0, 3.0][:count]
    mean = sum(costs) / count
    r = [math.exp(count / (count - 1) * (mean - cost)) for cost in costs]
    assert discrepancies(torch.tensor(costs, dtype=torch.float64)).tolist() == pytest.approx(r, rel=1e-12)
    if count == 2:
        assert r == pytest.approx([math.exp(1.7 - 0.3), math.exp(0.3 - 1.7)])
    tau, current = (torch.tensor(values, dtype=torch.float64) for values in (reference, r))
    k = [math.exp(1.5 * min(t - value, 0.5)) for t, value in zip(reference, r, strict=True)]
    assert gradient_coefficients(tau, current, 1.5, 0.5).tolist() == pytest.approx(k, rel=1e-12)
    assert max(k) == pytest.approx(math.exp(0.75))  # the cap acts
    assert min(k) < 1


def test_a_samples_cost_is_bounded_by_the_floor_of_probabilities() -> None:
    share = torch.tensor([[0.0, 90.0], [0.0, 1.0]], dtype=torch.float64)
    expected = [-math.log(1e-8), -math.log(1 / (1 + math.e))]
    assert label_costs(share, torch.tensor([0, 0])).tolist() == pytest.approx(expected)


def test_swapping_modalities_swaps_the_coefficients() -> None:
    costs = torch.tensor([0.3, 1.7, 0.9], dtype=torch.float64)
    k = gradient_coefficients(torch.ones(3), discrepancies(costs), 1.5, 10)
    swapped = gradient_coefficients(torch.ones(3), discrepancies(costs[[1, 0, 2]]), 1.5, 10)
    torch.testing.assert_close(swapped, k[[1, 0, 2]])
    assert k[0] < 1 < k[1]  # the one that costs less is damped


# The class


def naive_gradients(trainer: Trainer, coefficients: Tensor) -> dict[str, Tensor]:
    """Of the shares' scaled sum, each pass made for itself, with its inputs at zero."""
    method, batch = trainer.method, first_batch(trainer)
    names = method.context.modalities
    whole = method.fusion(method.model.encode(batch))
    logits = {}
    method.model.eval()
    for subset in subsets(names)[:-1]:
        inputs = {name: x if name in subset else torch.zeros_like(x) for name, x in batch.inputs.items()}
        logits[subset] = method.fusion(method.model.encode(batch.with_inputs(inputs)))
    method.model.train()
    logits[frozenset(names)] = whole
    (g,) = torch.autograd.grad(F.cross_entropy(whole, batch.labels), whole, retain_graph=True)
    shares = shapley_shares(logits, names)
    total = sum(k * (g.detach() * share).sum() for k, share in zip(coefficients, shares, strict=True))
    parameters = dict(method.named_parameters())
    return dict(zip(parameters, torch.autograd.grad(total, list(parameters.values())), strict=True))


@pytest.mark.parametrize(("count", "fusion"), [(2, "concat"), (3, "concat"), (4, "sum"), (2, "gated"), (3, "weight")])
def test_a_step_is_that_of_as_many_passes_as_there_are_subsets(count: int, fusion: str) -> None:
    trainer, twin = (trainer_of("agm", count, method__fusion=fusion) for _ in range(2))
    found = step_gradients(trainer)
    k = trainer.method.coefficients
    assert (k < 1).any()
    assert (k > 1).any()
    for name, expected in naive_gradients(twin, k).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-12)


def test_coefficients_come_from_the_steps_own_costs_and_the_means_of_those_before() -> None:
    trainer = trainer_of("agm", 3, method__end_epoch=100)
    history: list[list[float]] = []
    for raw in itertools.islice(trainer.loader.train_batches(0), 4):
        batch = trainer.transforms(raw, training=True)
        shares = trainer.method.predict(batch)
        costs = []
        for name in NAMES[:3]:
            rows = [row[label].item() for row, label in zip(shares[name].softmax(1), batch.labels, strict=True)]
            costs.append(-sum(math.log(max(p, 1e-8)) for p in rows) / len(rows))
        means = [sum(old[index] for old in history) / len(history) if history else 0.0 for index in range(3)]
        trainer.train_step(raw)
        for index in range(3):
            r, tau = (math.exp(1.5 * (sum(values) / 3 - values[index])) for values in (costs, means))
            expected = math.exp(1.5 * min(tau - r, 10))
            assert trainer.method.coefficients[index].item() == pytest.approx(expected, rel=1e-5)
        history.append(costs)
    assert trainer.method.cost_steps == 4


@pytest.mark.parametrize("fusion", ["concat", "film"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_without_strength_it_is_joint_bit_for_bit(count: int, fusion: str) -> None:
    values = {"method__fusion": fusion, "trainer__precision": "float32"}
    own = trainer_of("agm", count, method__alpha=0.0, method__end_epoch=100, **values)
    assert_equal_runs(own, trainer_of("joint", count, **values))


def test_outside_the_window_steps_are_joints() -> None:
    own = trainer_of("agm", 2, method__start_epoch=100, method__end_epoch=100, trainer__max_epochs=3)
    joint = trainer_of("joint", 2, trainer__max_epochs=3)
    for trainer in (own, joint):
        trainer.fit(until=2)
    assert_same_state(own, joint)
    assert own.method.coefficients.tolist() == [1, 1]


def test_the_loss_that_is_told_is_joints() -> None:
    trainer = trainer_of("agm", 3)
    batch = first_batch(trainer)
    term = trainer.method.losses(batch, "joint", trainer.engine)["fused"]
    torch.testing.assert_close(term, F.cross_entropy(trainer.method.predict(batch)["fused"], batch.labels))
    assert (trainer.method.coefficients != 1).all()


# Rulings


@pytest.mark.parametrize(
    ("start", "stop", "epochs", "expected"),
    [(1, 20, 100, (0, 19)), (1, 20, 10, (0, 1)), (21, 40, 10, (2, 3)), (1, 20, 2, (0, 0))],
)
def test_the_window_counts_from_1_scales_and_has_an_epoch_at_least(
    start: int, stop: int, epochs: int, expected: tuple[int, int]
) -> None:
    values = {"method__start_epoch": start, "method__end_epoch": stop, "trainer__max_epochs": epochs}
    assert trainer_of("agm", 2, **values).method.window == expected


def coefficients_by_epoch(trainer: Trainer) -> list[float]:
    seen: list[float] = []
    train_epoch = trainer.train_epoch

    def recording() -> None:
        train_epoch()
        seen.append(trainer.method.coefficients[0].item())

    trainer.train_epoch = recording
    trainer.fit()
    return seen


def test_after_the_window_gradients_are_joints_or_keep_the_last_coefficients() -> None:
    values = {"method__end_epoch": 50, "trainer__max_epochs": 4}
    off, last = trainer_of("agm", 2, **values), trainer_of("agm", 2, method__after_window="last", **values)
    weights = {}
    for trainer in (off, last):
        trainer.fit(until=2)
        trainer.progress.epoch = 2
    assert_same_state(off, last)
    joint = trainer_of("joint", 2, trainer__max_epochs=4)
    joint.method.load_state_dict(off.method.state_dict(), strict=False)
    for name, trainer in {"off": off, "last": last, "joint": joint}.items():
        weights[name] = step_gradients(trainer)
    assert all(torch.equal(value, weights["off"][name]) for name, value in weights["joint"].items())
    assert not torch.equal(weights["last"]["fusion.head.weight"], weights["joint"]["fusion.head.weight"])
    seen = coefficients_by_epoch(trainer_of("agm", 2, method__after_window="last", **values))
    assert seen[0] != seen[1] == seen[2] == seen[3]


@pytest.mark.parametrize("stopped_after", [1, 2, 3])
def test_a_run_resumed_in_and_after_the_window_equals_the_uninterrupted_one(stopped_after: int, tmp_path: Path) -> None:
    values = {"method__end_epoch": 50, "trainer__max_epochs": 4, "trainer__checkpoint_every_steps": 2}
    whole = trainer_of("agm", 3, tmp_path / "whole", **values)
    whole.fit()
    trainer_of("agm", 3, tmp_path / "cut", **values).fit(until=stopped_after)
    resumed = trainer_of("agm", 3, tmp_path / "cut", **values)
    assert resumed.resume()
    assert resumed.progress.epoch == stopped_after
    resumed.fit()
    assert_same_state(whole, resumed)
    assert whole.method.cost_steps == 10  # two epochs of five steps


def test_passes_with_inputs_left_out_leave_batch_norms_and_probes_alone() -> None:
    own, joint = (trainer_of(method, 2, **BATCH_NORM) for method in ("agm", "joint"))
    heard = []
    own.method.model.listener = lambda features, batch: heard.append(features)
    for trainer in (own, joint):
        trainer.train_step(next(iter(trainer.loader.train_batches(0))))
    statistics = dict(joint.method.model.named_buffers())
    assert len(statistics) == 6
    for name, value in own.method.model.named_buffers():
        assert torch.equal(value, statistics[name]), name
    assert len(heard) == 1
    assert own.method.model.encoders["loud"].norm.training


def test_passes_use_the_running_statistics() -> None:
    trainer, twin = (trainer_of("agm", 2, **BATCH_NORM) for _ in range(2))
    for each in (trainer, twin):
        for name in NAMES[:2]:
            each.method.model.encoders[name].norm.running_mean.fill_(0.3)
    found = step_gradients(trainer)
    for name, expected in naive_gradients(twin, trainer.method.coefficients).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-12)


def test_an_encoder_runs_three_times_a_step_and_once_of_one_sample() -> None:
    trainer = trainer_of("agm", 3)
    sizes: list[int] = []
    trainer.method.model.encoders["loud"].register_forward_hook(
        lambda module, inputs, output: sizes.append(len(output))
    )
    trainer.train_step(next(iter(trainer.loader.train_batches(0))))
    assert sorted(sizes) == [1, 16, 16]


def test_of_zeros_with_lengths_every_sample_is_encoded() -> None:
    trainer = trainer_of("agm", 2)
    batch = first_batch(trainer)
    batch.lengths = {"loud": torch.arange(16) % 4}
    encoder = trainer.method.model.encoders["loud"]
    encoder.forward = lambda x, lengths=None: encoder.layer(x) + (0 if lengths is None else lengths[:, None])
    found = trainer.method._features_of_zeros(batch)
    torch.testing.assert_close(
        found["loud"] - encoder.layer.bias, batch.lengths["loud"][:, None].expand(16, 6).double()
    )


def test_costs_are_of_complete_samples_and_a_step_without_any_changes_nothing() -> None:
    trainer = trainer_of("agm", 2)
    batch = first_batch(trainer)
    whole = torch.arange(16) % 2 == 0
    batch.present = {"loud": torch.ones_like(whole), "quiet": whole}
    trainer.method.losses(batch, "joint", trainer.engine)
    found, plain = trainer.method.coefficients.clone(), trainer_of("agm", 2)
    rows = Batch({name: x[whole] for name, x in batch.inputs.items()}, batch.labels[whole])
    plain.method.losses(rows, "joint", plain.engine)
    torch.testing.assert_close(found, plain.method.coefficients)
    trainer.method.train_step(batch, trainer.engine)
    before = trainer.method.cost_means.clone()
    assert trainer.method.cost_steps == 1
    batch.present["quiet"] = torch.zeros_like(whole)
    trainer.method.train_step(batch, trainer.engine)
    assert trainer.method.coefficients.tolist() == [1, 1]
    assert trainer.method.cost_steps == 1
    assert torch.equal(trainer.method.cost_means, before)


def test_in_micro_batches_the_means_are_of_whole_steps() -> None:
    whole, parts = trainer_of("agm", 3), trainer_of("agm", 3, trainer__accumulate=3)
    for trainer in (whole, parts):
        trainer.train_step(next(iter(trainer.loader.train_batches(0))))
    torch.testing.assert_close(parts.method.cost_means, whole.method.cost_means)
    assert parts.method.cost_steps == 1


def test_the_released_variant_clips_each_modality_and_keeps_the_last_coefficients() -> None:
    variant = trainer_of("agm").method.variants(NAMES)["released"]
    assert variant == {"method.after_window": "last", "optimizer.clip_norm": 1.0}


def test_own_logits_are_the_shares() -> None:
    trainer = trainer_of("agm", 3)
    trainer.fit()
    trainer.method.eval()
    batch = first_batch(trainer)
    logits = trainer.method.predict(batch)
    torch.testing.assert_close(sum(logits[name] for name in NAMES[:3]), logits["fused"])
    alone = {name: torch.zeros_like(x) for name, x in batch.inputs.items()}
    head, encode = trainer.method.fusion, trainer.method.model.encode
    zeros = encode(batch.with_inputs(alone))
    # A concatenating head adds up, so a share is what the features change, and an equal part of the rest.
    changed = {**zeros, "loud": encode(batch)["loud"]}
    expected = head(changed) - head(zeros) + head(zeros) / 3
    torch.testing.assert_close(logits["loud"], expected)


def test_more_than_four_modalities_are_refused_with_the_reason() -> None:
    trainer = trainer_of("agm", 4)
    context = type(trainer.method.context)((*NAMES, "fifth"), 3, 4)
    with pytest.raises(ConfigError, match=r"each of the 2\^M subsets.*at most 4, got 5 \(loud, .*, fifth\)"):
        type(trainer.method)(trainer.method.model, trainer.method.config, context)


def test_a_window_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"method\.end_epoch must be at least method\.start_epoch \(60\), got 20"):
        trainer_of("agm", method__start_epoch=60)
