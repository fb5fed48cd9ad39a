"""Batch normalisation over the samples of all ranks, on CPU too, and over batches that have no statistics.

torch's own SyncBatchNorm refuses CPU tensors, and counts the stand-in of an empty shard.

Shape legend: B samples of this rank's shard, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmcore.distributed import all_gather, is_distributed


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
        samples, mean, variance = _statistics(values.detach(), counted=self.counted)
        is_alone = samples <= 1
        self._update_running(mean, variance, samples * _positions(x), is_alone)
        if self.running_mean is not None and self.running_var is not None:  # see `without_statistics`
            mean = torch.where(is_alone, self.running_mean.to(mean.dtype), mean)
            variance = torch.where(is_alone, self.running_var.to(mean.dtype), variance)
        share = self.counted * ~is_alone / samples
        normalised = _Normalise.apply(values, self.weight, self.bias, mean, variance, share, self.eps)
        return cast(Tensor, normalised).to(x.dtype)

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
def without_statistics(model: nn.Module, *, counted: bool) -> Iterator[None]:
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


class _Normalise(torch.autograd.Function):
    """Normalises by statistics that all ranks' samples share, and follows what depends on them back to each sample."""

    @staticmethod
    def forward(  # noqa: PLR0917  # `apply` hands them over by position
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        share: Tensor,
        eps: float,
    ) -> Tensor:
        """Returns x normalised.

        Args:
            ctx: Torch's context of the forward pass.
            x: (B, C, ...).
            weight: (C,).
            bias: (C,).
            mean: (C,) of all ranks' samples.
            variance: (C,) of all ranks' samples.
            share: (): of the statistics, what a sample of this rank weighs; 0 if they do not depend on it.
            eps: Added to the variance.
        """
        ctx.save_for_backward(x, weight, mean, variance, share)
        ctx.eps = eps
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, share = ctx.saved_tensors
        gradient = gradients[0]
        # Sums over this rank's samples: of the gradient times the normalised x, and of the gradient.
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, train=False, eps=ctx.eps, output_mask=[False, True, True]
        )
        of_x = None
        if ctx.needs_input_grad[0]:
            sums = torch.stack([of_weight, of_bias])
            dist.all_reduce(sums)
            scale = (variance + ctx.eps).rsqrt()
            means = sums * (share / _positions(x))
            slope = -means[0] * scale
            offset = -means[1] - slope * mean
            of_x = (gradient + _over_channels(offset, x)).addcmul_(x, _over_channels(slope, x))
            of_x.mul_(_over_channels(scale if weight is None else scale * weight, x))
        if weight is None:
            of_weight = of_bias = None
        return of_x, of_weight, of_bias, None, None, None, None


def _over_channels(values: Tensor, x: Tensor) -> Tensor:
    """Returns values (C,) in the shape that goes with x (B, C, ...)."""
    return values.view(1, -1, *[1] * (x.dim() - 2))


def _positions(x: Tensor) -> int:
    """Returns the values of a channel in one sample."""
    return math.prod(x.shape[2:])


def _statistics(x: Tensor, *, counted: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Returns of all ranks' samples their number (), mean (C,) and variance (C,).

    From each rank's own, in one message: differences of squares would lose all digits of a large mean.

    Args:
        x: (B, C, ...) of this rank.
        counted: Whether these are among the samples.
    """
    dims = [0, *range(2, x.dim())]
    mean = x.mean(dims)
    variance = (x - _over_channels(mean, x)).square_().mean(dims)  # var_mean takes several times as long on a CPU
    # full, not tensor, which would wait for the device.
    own = torch.cat([mean, variance, x.new_full((1,), float(counted * len(x)))])
    means, variances, numbers = all_gather(own).split_with_sizes([len(mean), len(mean), 1], dim=1)
    samples = numbers.sum()
    weights = numbers / samples
    mean = (weights * means).sum(0)
    return samples, mean, (weights * (variances + (means - mean).square())).sum(0)
