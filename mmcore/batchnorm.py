"""Batch normalisation over the samples of all ranks, on CPU too, and over batches that have no statistics.

torch's own SyncBatchNorm refuses CPU tensors, and counts the stand-in of an empty shard.

Shape legend: B samples of this rank's shard, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmcore.distributed import is_distributed


class SynchronisedBatchNorm(_BatchNorm):
    """Batch norm of (B, C, ...) whose mean and variance in training are those of all ranks' samples together.

    With k ranks on B/k samples each, output, gradients (of a loss summed over ranks) and running statistics
    equal those of one process on B samples. In one process, and in evaluation, it is torch's batch norm. A single
    sample over all ranks is normalised by the running statistics, as one process does (`without_statistics`).

    Attributes:
        counted: False while this rank's samples are a stand-in that must not enter the statistics.
    """

    counted = True

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected (B, C, ...), got {tuple(input.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` normalised, of the same shape, type and memory format."""
        return self._over_all_ranks(x) if self.training and is_distributed() else super().forward(x)

    def _over_all_ranks(self, x: Tensor) -> Tensor:
        # As torch's: statistics and arithmetic in at least float32 whatever the type of x.
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        dims = [0, *range(2, x.dim())]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        weight = float(self.counted)
        # full, not tensor, which would wait for the device.
        own_samples = values.new_full((1,), weight * len(x))
        sums = _sum_over_ranks(torch.cat([values.sum(dims) * weight, own_samples]))
        is_alone = sums[-1].detach() <= 1
        count = sums[-1].detach() * (x.numel() // (x.shape[0] * x.shape[1]))
        mean = self._unless(is_alone, sums[:-1] / count, self.running_mean)
        centred = values - mean.view(shape)
        # Around the common mean, in a second message: the difference of squares would lose all digits of a large mean.
        variance = _sum_over_ranks(centred.square().sum(dims) * weight) / count
        variance = self._unless(is_alone, variance, self.running_var)
        self._update_running(mean.detach(), variance.detach(), count, is_alone)
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            return (centred * (scale * self.weight).view(shape) + self.bias.view(shape)).to(x.dtype)
        return (centred * scale.view(shape)).to(x.dtype)

    def _unless(self, is_alone: Tensor, statistic: Tensor, running: Tensor | None) -> Tensor:
        """Returns the batch's statistic, or the running one for a single sample (see `without_statistics`)."""
        return statistic if running is None else torch.where(is_alone, running.to(statistic.dtype), statistic)

    def _update_running(self, mean: Tensor, variance: Tensor, count: Tensor, is_alone: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(~is_alone)
        factor = 1 / self.num_batches_tracked.clamp(min=1).double() if self.momentum is None else self.momentum
        factor = factor * (~is_alone).to(mean.dtype)
        unbiased = variance * (count / (count - 1).clamp(min=1))
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.add_((new.to(running.dtype) - running) * factor)


class Standardisation(SynchronisedBatchNorm):
    """Standardises inputs (B, C, ...); its running statistics are the average of all batches so far.

    Inputs do not change while a model learns. With torch's momentum the variance of small ones would stay near the 1 it
    begins with for dozens of steps, and evaluation would see them unscaled. torch's own average of all batches waits
    for the device at every step; this one does not.
    """

    def __init__(self, num_channels: int):
        super().__init__(num_channels, momentum=None, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` standardised, of the same shape, type and memory format."""
        return self._over_all_ranks(x) if self.training else super().forward(x)


def convert(model: nn.Module) -> nn.Module:
    """Replaces every batch norm in `model` by a synchronised one with the same parameters and buffers.

    Returns:
        `model`, or its replacement if it is a batch norm itself.
    """
    for name, child in list(model.named_children()):
        setattr(model, name, convert(child))
    if not isinstance(model, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        return model
    synchronised = SynchronisedBatchNorm(
        model.num_features, model.eps, model.momentum, model.affine, model.track_running_stats
    )
    # The same tensors, not copies: an optimizer may hold them already.
    for name, parameter in model.named_parameters():
        setattr(synchronised, name, parameter)
    for name, buffer in model.named_buffers():
        setattr(synchronised, name, buffer)
    synchronised.train(model.training)
    return synchronised


@contextmanager
def without_statistics(model: nn.Module, counted: bool) -> Iterator[None]:
    """While samples pass that have no batch statistics of their own: one sample alone, or a stand-in.

    Batch norms of this worker alone normalise by their running statistics, which stay as they are. (One value
    per channel has no variance: torch raises an error, which would strike the last batch of an epoch.)
    Synchronised ones take part as ever, with weight 0 unless `counted`, and do the same where the sample is the only
    one of all ranks.

    Args:
        model: In training.
        counted: Whether the samples are real ones.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    synchronised = [module for module in norms if isinstance(module, SynchronisedBatchNorm) and is_distributed()]
    alone = [module for module in norms if not isinstance(module, SynchronisedBatchNorm) or not is_distributed()]
    try:
        for norm in synchronised:
            norm.counted = counted
        for module in alone:
            module.training = False
        yield
    finally:
        for norm in synchronised:
            norm.counted = True
        for module in alone:
            module.training = True


class _SumOverRanks(torch.autograd.Function):
    """The sum of all ranks' tensors; the gradient is the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _SumOverRanks.forward(ctx, gradients[0].contiguous())


def _sum_over_ranks(x: Tensor) -> Tensor:
    return cast(Tensor, _SumOverRanks.apply(x)) if is_distributed() else x
