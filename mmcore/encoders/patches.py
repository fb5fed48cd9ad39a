"""What the masked autoencoders' encoders share: fixed position embeddings, and layers as vision transformers have them.

Shape legend: P patches (rows times columns), D features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def sine_positions(positions: Tensor, num_features: int) -> Tensor:
    """Returns sin and then cos of each position times 10000^(-2i / D), (P, D), for positions (P,).

    Source: Vaswani et al. 2017, section 3.5, with all sines before all cosines as in MAE (He et al. 2022).
    """
    half = num_features // 2
    rates = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=positions.device) / half)
    angles = positions.to(torch.float64)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(torch.get_default_dtype())


def grid_positions(rows: int, columns: int, num_features: int, device: torch.device | None = None) -> Tensor:
    """Returns position embeddings (rows * columns, D), row by row: half tells the column, half the row, as in MAE."""
    places = torch.arange(rows, device=device), torch.arange(columns, device=device)
    row, column = torch.meshgrid(*places, indexing="ij")
    half = num_features // 2
    return torch.cat([sine_positions(column.flatten(), half), sine_positions(row.flatten(), half)], dim=1)


def transformer_layer(
    num_features: int, num_heads: int, epsilon: float, activation: Callable[[Tensor], Tensor]
) -> nn.TransformerEncoderLayer:
    """Returns a layer that normalises before attention and before its MLP (four times as wide), without dropout."""
    layer = nn.TransformerEncoderLayer(
        num_features,
        num_heads,
        dim_feedforward=4 * num_features,
        dropout=0.0,
        activation=activation,
        layer_norm_eps=epsilon,
        batch_first=True,
        norm_first=True,
    )
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    return layer
