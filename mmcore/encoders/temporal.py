"""Encoders of features another network made: taken as they are, or through a small transformer over time.

Shape legend: B samples, T steps (frames, tokens), C features of a step, D features.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from pydantic import Field
from torch import Tensor, nn

from mmcore.config.sections import Section
from mmcore.data.spec import Modality
from mmcore.encoders.base import ENCODERS, Encoder, mean_over_frames
from mmcore.encoders.patches import sine_positions, transformer_layer
from mmcore.errors import ConfigError, UsageError

Size = Annotated[int, Ge(1), Le(65_536)]
EPSILON = 1e-5


class IdentityConfig(Section):
    """There is nothing to set."""


@ENCODERS.register("identity")
class Identity(Encoder):
    """Features (B, D) as they are, or the mean over the valid steps of features (B, T, D); nothing is trained."""

    Config = IdentityConfig
    features_are = "as they come, or their mean over the steps"
    weights_from = "none, there is nothing to train"
    kinds = frozenset({"features"})

    def __init__(self, config: IdentityConfig, modality: Modality):
        super().__init__(config, modality)
        _check_axes(modality, "identity", (1, 2))
        self.num_features = modality.shape[-1]

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns features (B, D) of `x`, (B, D) or (B, T, D)."""
        return x if x.dim() == 2 else mean_over_frames(x, lengths)


class TemporalConfig(Section):
    """Sizes of the transformer."""

    features: Size = Field(default=128, description="D, the width of every layer")
    layers: Annotated[int, Ge(1), Le(12)] = Field(default=2, description="layers")
    heads: Size = Field(default=4, description="attention heads; they share the features out evenly")


@ENCODERS.register("temporal")
class Temporal(Encoder):
    """Features (B, T, C) of steps to features (B, D): a transformer over the valid steps, then their mean.

    Each step is normalised, brought to the width and told its place by sines (Vaswani et al. 2017, section 3.5).
    """

    Config = TemporalConfig
    kinds = frozenset({"features"})

    def __init__(self, config: TemporalConfig, modality: Modality):
        super().__init__(config, modality)
        _check_axes(modality, "temporal", (2,))
        if config.features % (2 * config.heads):
            raise ConfigError(
                [
                    f"model.encoders.{modality.name}.features must be a multiple of {2 * config.heads} (twice the "
                    f"heads), got {config.features}"
                ]
            )
        self.num_features = config.features
        self.input = nn.Sequential(
            nn.LayerNorm(modality.shape[1], eps=EPSILON), nn.Linear(modality.shape[1], config.features)
        )
        layers = (transformer_layer(config.features, config.heads, EPSILON, F.gelu) for _ in range(config.layers))
        self.layers = nn.ModuleList(layers)
        self.output = nn.LayerNorm(config.features, eps=EPSILON)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns features (B, D) of `x`, (B, T, C); what stands behind a sample's `lengths` does not matter."""
        steps = torch.arange(x.shape[1], device=x.device)
        padding = None if lengths is None else steps >= lengths.clamp(min=1)[:, None]
        if padding is not None:  # attention gives padding no weight, but 0 times infinity is NaN
            x = x.masked_fill(padding[:, :, None], 0)
        hidden = self.input(x)
        hidden = hidden + sine_positions(steps, self.num_features).to(hidden.dtype)
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=padding)
        return mean_over_frames(self.output(hidden), lengths)


def _check_axes(modality: Modality, name: str, numbers: tuple[int, ...]) -> None:
    if len(modality.shape) not in numbers:
        wanted = " or ".join({1: "(D,)", 2: "(T, D)"}[number] for number in numbers)
        raise UsageError(
            f"'{name}' takes features {wanted}, '{modality.name}' is {modality.shape}; choose another encoder"
        )
