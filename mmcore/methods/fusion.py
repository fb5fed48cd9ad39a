"""Fusion heads: features of all modalities to one set of logits.

Rules (M = 2 as in the released code of OGM-GE, CVPR 2022, and, for `weight`, CMML as in AMSS, TPAMI 2024); for more
modalities the natural extension, stated in each class.

Shape legend: B samples, K classes, D_m features of modality m.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from mmcore.layers.precision import full_precision
from mmcore.methods.base import Need

FusionName = Literal["concat", "sum", "weight", "film", "gated"]

Features = Mapping[str, Tensor]
Sizes = Mapping[str, int]


class Concat(nn.Module):
    """z = W [f_1; ...; f_M] + b."""

    def __init__(self, sizes: Sizes, num_classes: int):
        super().__init__()
        self.head = nn.Linear(sum(sizes.values()), num_classes)

    def forward(self, features: Features) -> Tensor:
        """Returns logits (B, K)."""
        logits: Tensor = self.head(torch.cat(list(features.values()), dim=1))
        return logits


class Sum(nn.Module):
    """z = Σ_m (W_m f_m + b_m)."""

    def __init__(self, sizes: Sizes, num_classes: int):
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(size, num_classes) for name, size in sizes.items()})

    def forward(self, features: Features) -> Tensor:
        """Returns logits (B, K)."""
        return torch.stack([self.heads[name](values) for name, values in features.items()]).sum(dim=0)


def feature_attention(features: Tensor) -> Tensor:
    """Returns CMML's attention: softmax over the feature axis, then divided by its sum over the modalities.

    Args:
        features: (M, B, D).

    Returns:
        (M, B, D); sums to 1 over M.
    """
    # In logarithms: a quotient of underflown values would be 0 / 0.
    return full_precision(features).log_softmax(dim=2).softmax(dim=0)


class Weight(nn.Module):
    """z = W (Σ_m att_m ∘ f_m) + b with `feature_attention`; needs equal D."""

    def __init__(self, sizes: Sizes, num_classes: int):
        super().__init__()
        self.head = nn.Linear(next(iter(sizes.values())), num_classes)

    def forward(self, features: Features) -> Tensor:
        """Returns logits (B, K)."""
        stacked = torch.stack(list(features.values()))
        logits: Tensor = self.head((feature_attention(stacked) * stacked).sum(dim=0))
        return logits


class Film(nn.Module):
    """z = W (γ ∘ f_M + β) + b with (γ, β) = V [f_1; ...; f_{M-1}] + c: the first modalities condition the last."""

    def __init__(self, sizes: Sizes, num_classes: int):
        super().__init__()
        *conditions, last = sizes.values()
        self.condition = nn.Linear(sum(conditions), 2 * last)
        self.head = nn.Linear(last, num_classes)

    def forward(self, features: Features) -> Tensor:
        """Returns logits (B, K)."""
        *conditions, last = features.values()
        scale, shift = self.condition(torch.cat(conditions, dim=1)).chunk(2, dim=1)
        logits: Tensor = self.head(scale * last + shift)
        return logits


class Gated(nn.Module):
    """z = W (Π_{m<M} σ(V_m f_m) ∘ V_M f_M) + b: the first modalities gate the last, in a hidden size of its D."""

    def __init__(self, sizes: Sizes, num_classes: int):
        super().__init__()
        hidden = list(sizes.values())[-1]
        self.projections = nn.ModuleDict({name: nn.Linear(size, hidden) for name, size in sizes.items()})
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, features: Features) -> Tensor:
        """Returns logits (B, K)."""
        *gates, last = [self.projections[name](values) for name, values in features.items()]
        for gate in gates:
            last = torch.sigmoid(gate) * last
        logits: Tensor = self.head(last)
        return logits


FUSIONS: dict[FusionName, type[nn.Module]] = {
    "concat": Concat,
    "sum": Sum,
    "weight": Weight,
    "film": Film,
    "gated": Gated,
}


def build_fusion(name: FusionName, sizes: Sizes, num_classes: int) -> nn.Module:
    """Returns a fusion head for modalities of the given feature sizes, in their order."""
    return FUSIONS[name](sizes, num_classes)


def fusion_needs(name: FusionName) -> frozenset[Need]:
    """Returns what a fusion head asks of the model."""
    return frozenset({Need.EQUAL_FEATURES}) if name == "weight" else frozenset()
