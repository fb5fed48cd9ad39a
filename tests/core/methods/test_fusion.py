"""Each fusion head against a loop over samples and features, for two and three modalities."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from mmcore.methods.base import Need
from mmcore.methods.fusion import FUSIONS, build_fusion, feature_attention, fusion_needs
from mmcore.seeding import generator

NUM_CLASSES = 3
SIZES = {"audio": 4, "video": 5, "text": 6}

Vector = list[float]


def linear(layer: nn.Linear, x: Vector) -> Vector:
    weight, bias = layer.weight.tolist(), layer.bias.tolist()
    return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def naive(name: str, head: nn.Module, features: dict[str, Vector]) -> Vector:
    """Logits of one sample."""
    values = list(features.values())
    if name == "concat":
        return linear(head.head, list(itertools.chain(*values)))
    if name == "sum":
        each = [linear(head.heads[modality], vector) for modality, vector in features.items()]
        return [sum(column) for column in zip(*each, strict=True)]
    if name == "weight":
        attention = [[math.exp(v) / sum(map(math.exp, vector)) for v in vector] for vector in values]
        total = [sum(column) for column in zip(*attention, strict=True)]
        mixed = [
            sum(a[d] / total[d] * vector[d] for a, vector in zip(attention, values, strict=True))
            for d in range(len(total))
        ]
        return linear(head.head, mixed)
    *conditions, last = values
    if name == "film":
        both = linear(head.condition, list(itertools.chain(*conditions)))
        scale, shift = both[: len(last)], both[len(last) :]
        return linear(head.head, [s * v + t for s, v, t in zip(scale, last, shift, strict=True)])
    projected = [linear(head.projections[modality], vector) for modality, vector in features.items()]
    hidden = projected[-1]
    for gate in projected[:-1]:
        hidden = [sigmoid(g) * h for g, h in zip(gate, hidden, strict=True)]
    return linear(head.head, hidden)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", FUSIONS)
def test_fusion_equals_a_loop(name: str, count: int) -> None:
    names = list(SIZES)[:count]
    equal = Need.EQUAL_FEATURES in fusion_needs(name)
    sizes = {modality: 5 if equal else SIZES[modality] for modality in names}
    torch.manual_seed(0)
    head = build_fusion(name, sizes, NUM_CLASSES).double()
    features = {m: torch.randn(4, size, dtype=torch.float64, generator=generator(0, m)) for m, size in sizes.items()}
    expected = [naive(name, head, {m: values[i].tolist() for m, values in features.items()}) for i in range(4)]
    torch.testing.assert_close(head(features), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_only_weight_needs_equal_features() -> None:
    assert [name for name in FUSIONS if fusion_needs(name)] == ["weight"]


def test_attention_sums_to_one_over_the_modalities_and_survives_large_features() -> None:
    features: Tensor = 300 * torch.rand(3, 8, 16, generator=generator(0, "large"))
    features.requires_grad_()
    attention = feature_attention(features)
    torch.testing.assert_close(attention.sum(dim=0), torch.ones(8, 16))
    assert torch.isfinite(torch.autograd.grad(attention.square().sum(), features)[0]).all()
