"""Encoders of plain numbers: a perceptron for table cells, convolutions over time for series.

Shape legend: B samples, N cells, T steps, C channels, D features.
"""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Le
from pydantic import Field
from torch import Tensor, nn

from mmcore.config.sections import Section
from mmcore.data.spec import Modality
from mmcore.encoders.base import ENCODERS, Encoder
from mmcore.errors import UsageError
from mmcore.layers.batchnorm import Standardisation

Size = Annotated[int, Ge(1), Le(65_536)]


class MLPConfig(Section):
    """Sizes of the perceptron."""

    features: Size = Field(default=64, description="D, and the width of every layer")
    depth: Annotated[int, Ge(1), Le(8)] = Field(default=2, description="layers")


@ENCODERS.register("mlp")
class MLP(Encoder):
    """Cells (B, N) to features (B, D), all at least 0; the cells are standardised by running statistics first."""

    Config = MLPConfig
    kinds = frozenset({"features"})

    def __init__(self, config: MLPConfig, modality: Modality):
        super().__init__(config, modality)
        _check_axes(modality, 1, "mlp")
        self.num_features = config.features
        sizes = [modality.shape[0], *[config.features] * config.depth]
        layers = [nn.Sequential(nn.Linear(sizes[i], sizes[i + 1]), nn.ReLU()) for i in range(config.depth)]
        self.network = nn.Sequential(Standardisation(sizes[0]), *layers)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns features (B, D) of cells (B, N)."""
        features: Tensor = self.network(x)
        return features


class SeriesConfig(Section):
    """Sizes of the convolutions."""

    width: Size = Field(default=32, description="channels of the first block; each further one doubles them")
    features: Size = Field(default=64, description="D, the channels of the last block")
    depth: Annotated[int, Ge(1), Le(8)] = Field(default=3, description="blocks; each halves the steps, rounding up")


@ENCODERS.register("series")
class Series(Encoder):
    """Series (B, T, C) to features (B, D): convolutions over time, then the mean over the valid steps."""

    Config = SeriesConfig
    kinds = frozenset({"features"})

    def __init__(self, config: SeriesConfig, modality: Modality):
        super().__init__(config, modality)
        _check_axes(modality, 2, "series")
        self.num_features = config.features
        widths = [min(config.width * 2**block, config.features) for block in range(config.depth - 1)]
        sizes = [modality.shape[1], *widths, config.features]
        self.scale = Standardisation(sizes[0])
        self.blocks = nn.ModuleList(_block(sizes[i], sizes[i + 1]) for i in range(config.depth))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns features (B, D) of series (B, T, C); what follows a series in its padding does not matter."""
        counts = torch.full_like(x[:, 0, 0], x.shape[1], dtype=torch.int64) if lengths is None else lengths.clamp(min=1)
        x = _masked(self.scale(x.transpose(1, 2)), counts)
        for block in self.blocks:
            counts = (counts + 1) // 2
            x = _masked(block(x), counts)
        return x.sum(dim=2) / counts[:, None].to(x.dtype)


def _block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Returns convolution of 5 steps, batch norm, ReLU: (B, in, T) -> (B, out, ceil(T / 2))."""
    return nn.Sequential(
        nn.Conv1d(in_channels, out_channels, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm1d(out_channels),
        nn.ReLU(),
    )


def _masked(x: Tensor, counts: Tensor) -> Tensor:
    """Returns `x` (B, C, T) with zeros behind the first `counts` (B,) steps."""
    valid = torch.arange(x.shape[2], device=x.device) < counts[:, None]
    return torch.where(valid[:, None], x, 0)


def _check_axes(modality: Modality, number: int, name: str) -> None:
    if len(modality.shape) != number:
        shape = "(N,)" if number == 1 else "(T, C)"
        raise UsageError(
            f"'{name}' takes features {shape}, '{modality.name}' is {modality.shape}; choose another encoder"
        )
