"""Fills stored numbers that are NaN, as a description's `fill:` asks: by the mean or median of the training samples.

What is filled in is fitted on the rows a run trains on, under its own protocol and fold, and on no others; it is a
buffer of the model, so that a checkpoint carries it to evaluation, to a restart and to new rows.

Shape legend: B samples, N numbers of a sample.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mmcore.data.spec import Fill


class Filling(nn.Module):
    """Puts a number of its own where one of (B, N) is NaN; as long as it is not fitted, NaN stays.

    Args:
        rule: What is fitted.
        num: N.
    """

    values: Tensor

    def __init__(self, rule: Fill, num: int):
        super().__init__()
        self.rule = rule
        self.register_buffer("values", torch.full((num,), torch.nan))

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` (B, N), filled."""
        return torch.where(x.isnan(), self.values.to(x.dtype), x)

    def fit(self, rows: np.ndarray) -> None:
        """Takes mean or median of each column of (B, N), over what is not NaN; no column may hold nothing else."""
        found = (np.nanmean if self.rule == "mean" else np.nanmedian)(rows.astype(np.float64), axis=0)
        self.values.copy_(torch.from_numpy(found))
