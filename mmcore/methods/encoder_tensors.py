"""Which of an encoder's tensors a rule on gradients touches: all, or the kernels of its convolutions as released."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.conv import _ConvNd

from mmcore.errors import ConfigError


def convolution_kernels(encoder: nn.Module) -> list[nn.Parameter]:
    """Returns the kernels of an encoder's convolutions."""
    kernels = [module.weight for module in encoder.modules() if isinstance(module, _ConvNd)]
    return [kernel for kernel in kernels if isinstance(kernel, nn.Parameter)]


def require_convolutions(encoders: nn.ModuleDict, modalities: Sequence[str]) -> None:
    """Raises a ConfigError that names the modalities whose encoder has no convolution."""
    if without := [name for name in modalities if not convolution_kernels(encoders[name])]:
        raise ConfigError([f"method.parameters must be all, got 'convolutions': the encoder of "
                           f"{', '.join(without)} has none"])  # fmt: skip
