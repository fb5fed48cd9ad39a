"""AMSS: each equation against a naive loop, each ruling, and where the method is joint training."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from stepping import assert_equal_runs, step_gradients, trainer_of
from synthetic import Tiny, TinyConfig
from torch import Tensor, nn

from mmcore.data.spec import Modality
from mmcore.encoders import ENCODERS
from mmcore.errors import ConfigError
from mmcore.methods.amss import (
    STAGE_CONVOLUTION,
    feature_entropy,
    first_rows,
    label_entropy,
    learning_shares,
    row_factors,
)
from mmcore.seeding import generator
from mmcore.training.trainer import Trainer

ALL: dict[str, Any] = {"method__low": 1.0, "method__high": 1.0}


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# The equations


def test_the_entropy_of_labels_is_that_of_their_frequencies() -> None:
    expected = -sum(count / 8 * math.log(count / 8) for count in (5, 1, 2))
    assert label_entropy(doubles(5, 0, 1, 2), "entropy").item() == pytest.approx(expected, rel=1e-12)
    assert label_entropy(doubles(0, 0), "entropy").item() == 0


def test_as_released_frequencies_are_taken_for_logits() -> None:
    shares = [5 / 8, 0, 1 / 8, 2 / 8]
    total = math.log(sum(math.exp(share) for share in shares))
    expected = sum(share * (total - share) for share in shares)
    found = label_entropy(doubles(5, 0, 1, 2), "released").item()
    assert found == pytest.approx(expected, rel=1e-12)
    assert abs(found - math.log(4)) < abs(label_entropy(doubles(5, 0, 1, 2), "entropy").item() - math.log(4))


def test_the_entropy_of_features_is_that_of_their_softmax() -> None:
    features = torch.randn(4, 5, generator=generator(0, "f"), dtype=torch.float64)
    for row, found in zip(features.tolist(), feature_entropy(features).tolist(), strict=True):
        total = sum(map(math.exp, row))
        expected = -sum(math.exp(value) / total * math.log(math.exp(value) / total) for value in row)
        assert found == pytest.approx(expected, rel=1e-12)
    assert feature_entropy(features.bfloat16()).dtype == torch.float32


def naive_shares(labels: float, costs: list[float], entropies: list[float], temperature: float) -> list[float]:
    known = [labels + 0.5 - cost for cost in costs]
    if min(known) <= 0:
        return [0.5] * len(costs)
    utilities = [value / entropy for value, entropy in zip(known, entropies, strict=True)]
    if len(costs) == 2:  # the paper's: the other one's
        utilities = [-utility for utility in utilities[::-1]]
        parts = [math.exp(-value / temperature) for value in utilities]
    else:
        parts = [math.exp(-value / temperature) for value in utilities]
    return [len(costs) / 2 * part / sum(parts) for part in parts]


@pytest.mark.parametrize("costs", [[0.4, 0.9], [0.9, 0.4], [0.4, 1.7], [1.6, 0.3], [0.2, 0.9, 0.5], [0.2, 1.6, 0.5]])
def test_the_modality_that_does_worse_has_the_larger_share(costs: list[float]) -> None:
    entropies = [1.3, 1.7, 1.5][: len(costs)]
    found = learning_shares(doubles(1.1)[0], doubles(*costs), doubles(*entropies), 0.3).tolist()
    assert found == pytest.approx(naive_shares(1.1, costs, entropies, 0.3), rel=1e-9)
    same = learning_shares(doubles(1.1)[0], doubles(*costs), doubles(*[1.5] * len(costs)), 0.3).tolist()
    if max(costs) < 1.6:
        assert sorted(same) == [share for _, share in sorted(zip(costs, same, strict=True))]
        assert sum(same) == pytest.approx(len(costs) / 2)
    else:
        assert same == [0.5] * len(costs)


def test_shares_stay_finite_where_features_have_no_entropy() -> None:
    found = learning_shares(doubles(1.1)[0], doubles(0.4, 0.5), doubles(0, 0), 0.2)
    assert found.tolist() == [0, 1]


def test_as_many_rows_of_each_tensor_as_its_number_says_and_those_with_the_smallest_keys() -> None:
    sizes, numbers = [4, 1, 6], [2, 1, 5]
    keys = torch.rand(11, generator=generator(0, "keys"))
    tensors = [index for index, size in enumerate(sizes) for _ in range(size)]
    places = [place for size in sizes for place in range(size)]
    found = first_rows(keys, torch.tensor(tensors), torch.tensor(places), doubles(*numbers)).tolist()
    start = 0
    for size, number in zip(sizes, numbers, strict=True):
        own = keys[start : start + size].tolist()
        smallest = sorted(range(size), key=lambda row, own=own: own[row])[:number]
        assert [row for row in range(size) if found[start + row]] == sorted(smallest)
        start += size


@pytest.mark.parametrize("plus", [False, True])
def test_rows_are_kept_or_not_and_with_plus_divided(plus: bool) -> None:
    importance, kept = [0.5, 0.0, 2.0, 1.5], [True, True, False, True]
    found = row_factors(doubles(*importance), torch.tensor(kept), plus=plus).tolist()
    for row, factor in enumerate(found):
        expected = 1 / (importance[row] / 4 + 1 / 4) if plus else 1.0
        assert factor == pytest.approx(expected if kept[row] else 0, rel=1e-12)
    assert torch.isfinite(row_factors(doubles(0, 0), torch.tensor([True, False]), plus=plus)).all()


def test_plus_is_not_unbiased() -> None:
    importance = doubles(0.5, 0.1, 2.0, 1.5)
    factors = row_factors(importance, torch.ones(4, dtype=torch.bool), plus=True)
    assert (factors < importance.sum() / importance).all()


# Where it is joint training


@pytest.mark.parametrize("fusion", ["concat", "sum"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_where_all_rows_learn_it_is_joint_bit_for_bit(count: int, fusion: str) -> None:
    values = {"method__fusion": fusion, "trainer__precision": "float32", "trainer__max_epochs": 2}
    assert_equal_runs(trainer_of("amss", count, **ALL, **values), trainer_of("joint", count, **values))


def test_a_step_without_a_complete_sample_is_joints() -> None:
    trainer, joint = trainer_of("amss", method__plus=True), trainer_of("joint")
    for each in (trainer, joint):
        loud = torch.arange(140) % 2 == 0
        each.loader._data.present = {"loud": loud, "quiet": ~loud}
    found, expected = step_gradients(trainer), step_gradients(joint)
    assert trainer.method.shares.tolist() == [1, 1]
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


# A step


def naive_measures(trainer: Trainer, kept: list[int]) -> list[float]:
    """ρ of the first step, from its own forward pass."""
    batch = trainer.transforms(next(iter(trainer.loader.train_batches(0))), training=True)
    head, features = trainer.method.fusion.head, trainer.method.model.encode(batch)
    labels = batch.labels[kept].tolist()
    shares = [labels.count(k) / len(kept) for k in range(3)]
    costs, entropies = [], []
    for index, values in enumerate(features.values()):
        logits = values @ head.weight[:, 6 * index : 6 * index + 6].T + head.bias / len(features)
        costs.append(F.cross_entropy(logits[kept], batch.labels[kept]).item())
        entropies.append(torch.distributions.Categorical(logits=values[kept]).entropy().mean().item())
    found = naive_shares(-sum(p * math.log(p) for p in shares if p), costs, entropies, 0.2)
    return [min(max(share, 0.1), 0.9) for share in found]


@pytest.mark.parametrize("mode", ["sample", "top"])
@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("count", [2, 3])
def test_gradients_of_the_rows_that_learn_are_joints_and_the_others_0(count: int, plus: bool, mode: str) -> None:
    trainer, joint = trainer_of("amss", count, method__plus=plus, method__mode=mode), trainer_of("joint", count)
    expected = naive_measures(trainer, list(range(16)))
    assert len(set(expected)) > 1
    found, plain = step_gradients(trainer), step_gradients(joint)
    assert trainer.method.shares.tolist() == pytest.approx(expected, rel=1e-5)
    shares = dict(zip(trainer.method.context.modalities, expected, strict=True))
    for name, gradient in plain.items():
        owner = next((share for modality, share in shares.items() if f"encoders.{modality}." in name), None)
        if owner is None or gradient.dim() < 2:
            assert torch.equal(found[name], gradient), name
            continue
        importance = gradient.square().sum(dim=1)
        learnt = [row for row in range(6) if found[name][row].any()]
        assert len(learnt) == math.ceil(owner * 6)
        if mode == "top":
            assert set(learnt) == set(importance.argsort(descending=True)[: len(learnt)].tolist())
        for row in learnt:
            factor = 1 / (importance[row] / importance.sum() + 1 / 6) if plus else 1
            torch.testing.assert_close(found[name][row], factor * gradient[row], rtol=1e-9, atol=0)


def test_rows_are_drawn_without_replacement_by_their_squared_length() -> None:
    trainer = trainer_of("amss")
    chances = [0.4, 0.3, 0.15, 0.1, 0.05, 0.0]
    expected = dict.fromkeys(itertools.combinations(range(6), 2), 0.0)
    for first, second in itertools.permutations(range(6), 2):
        expected[tuple(sorted((first, second)))] += chances[first] * chances[second] / (1 - chances[first])
    importance = 7 * torch.tensor(chances)
    draws: dict[tuple[int, ...], int] = dict.fromkeys(expected, 0)
    for _ in range(3000):
        keys = trainer.method._keys(importance, trainer.engine)
        kept = first_rows(keys, torch.zeros(6, dtype=torch.int64), torch.arange(6), torch.tensor([2.0]))
        draws[tuple(kept.nonzero()[:, 0].tolist())] += 1
    for pair, chance in expected.items():
        assert draws[pair] / 3000 == pytest.approx(chance, abs=0.03), pair
    assert not any(number for pair, number in draws.items() if 5 in pair)


def test_rows_without_a_gradient_come_last_so_that_fewer_than_asked_for_are_all_kept() -> None:
    for mode in ("sample", "top"):
        trainer = trainer_of("amss", method__mode=mode)
        keys = trainer.method._keys(torch.tensor([0.0, 2.0, 0.0, 1e-6]), trainer.engine)
        kept = first_rows(keys, torch.zeros(4, dtype=torch.int64), torch.arange(4), torch.tensor([3.0]))
        assert kept[1]
        assert kept[3]


def test_in_micro_batches_shares_are_of_the_whole_step() -> None:
    whole, parts = (trainer_of("amss", 3, trainer__accumulate=parts, method__mode="top") for parts in (1, 3))
    expected, found = step_gradients(whole), step_gradients(parts)
    torch.testing.assert_close(whole.method.shares, parts.method.shares)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


def test_samples_that_lack_a_modality_are_not_measured() -> None:
    trainer = trainer_of("amss")
    has = torch.arange(140) % 3 > 0
    trainer.loader._data.present = {"quiet": has}
    batch = next(iter(trainer.loader.train_batches(0)))
    complete = batch.present["quiet"].nonzero()[:, 0].tolist()
    expected = naive_measures(trainer, complete)
    assert 0 < len(complete) < 16
    trainer.train_step(batch)
    assert trainer.method.shares.tolist() == pytest.approx(expected, rel=1e-5)


# What is masked, and what is refused


def test_of_a_residual_network_the_stages_convolutions_are_masked_as_released() -> None:
    encoder_class = ENCODERS.get("resnet18")
    encoder = encoder_class(encoder_class.Config(size="tiny"), Modality("image", "image", (3, 32, 32), "uint8"))
    trainer = trainer_of("amss")
    trainer.method.model.encoders["loud"] = encoder
    object.__setattr__(trainer.method.config, "parameters", "convolutions")
    names = {id(parameter): name for name, parameter in encoder.named_parameters()}
    assert [names[id(weight)] for weight in trainer.method._weights("loud")] == [
        f"network.layer{stage}.0.conv{index}.weight" for stage in (1, 2) for index in (1, 2)
    ]  # fmt: skip
    assert "network.layer2.0.downsample.0.weight" in names.values()
    object.__setattr__(trainer.method.config, "parameters", "all")
    everything = [names[id(weight)] for weight in trainer.method._weights("loud")]
    assert {"network.conv1.weight", "network.layer2.0.downsample.0.weight"} < set(everything)
    assert not any("bn" in name for name in everything)


@pytest.mark.parametrize(
    "path", ["conv1.weight", "layer2.0.downsample.0.weight", "layer1.0.bn1.weight", "layer.weight"]
)
def test_other_tensors_of_a_residual_network_are_not_its_stages_convolutions(path: str) -> None:
    assert not STAGE_CONVOLUTION.search(path)
    assert STAGE_CONVOLUTION.search("layer4.1.conv2.weight")


class Staged(Tiny):
    """Its one layer goes by the name of a residual stage's convolution, and another of a shortcut's."""

    def __init__(self, config: TinyConfig, modality: Modality):
        super().__init__(config, modality)
        size = config.features
        parts = {"conv1": nn.Linear(size, size), "downsample": nn.Linear(size, size)}
        self.layer1 = nn.ModuleDict(parts)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        features = super().forward(x, lengths)
        return self.layer1["conv1"](features) + self.layer1["downsample"](features)


def test_as_released_other_tensors_gradients_are_joints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS._entries, "tiny", Staged)
    trainer = trainer_of("amss", method__parameters="convolutions", method__label_entropy="released")
    found, plain = step_gradients(trainer), step_gradients(trainer_of("joint"))
    different = {name for name in plain if not torch.equal(found[name], plain[name])}
    assert different == {f"model.encoders.{name}.layer1.conv1.weight" for name in ("loud", "quiet")}


def test_convolutions_are_refused_where_an_encoder_has_none() -> None:
    expected = r"method\.parameters must be all, got 'convolutions': the encoder of loud, quiet has no residual stages"
    with pytest.raises(ConfigError, match=expected):
        trainer_of("amss", method__parameters="convolutions")


def test_bounds_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"method\.high must be at least method\.low \(0\.6\), got 0\.4"):
        trainer_of("amss", method__low=0.6, method__high=0.4)


@pytest.mark.parametrize("fusion", ["film", "gated", "weight"])
def test_a_fusion_that_cannot_be_taken_apart_is_refused(fusion: str) -> None:
    with pytest.raises(ConfigError, match=r"method\.fusion must be .*concat.*sum"):
        trainer_of("amss", method__fusion=fusion)
