"""What must not be computed in half precision under autocast."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def full_precision(values: Tensor) -> Tensor:
    """Returns half-precision values as float32, others as they are.

    For what autocast leaves in half precision though its rounding shows: norms, angles, logarithms, probabilities,
    sums of logits that are compared.
    """
    return values.float() if values.dtype in {torch.float16, torch.bfloat16} else values


def guard_convolutions(network: nn.Module) -> None:
    """Makes every 2-D convolution of `network` compute in float32 where bfloat16 on CPUs is wrong.

    Where strides leave a picture of one column, gradients (torch 2.14, AVX-512 and AMX) hold whatever was in memory
    before, often NaN, and so may the output: the last layer of a small network on small pictures.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = _GuardedConv2d  # the same object, which parents and optimizers may hold already


class _GuardedConv2d(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        leaves_one_column = 1 < self.stride[-1] >= input.shape[-1]
        if not leaves_one_column or not _is_bfloat16_on_cpu(input):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float())


def _is_bfloat16_on_cpu(input: Tensor) -> bool:
    return (
        input.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )
