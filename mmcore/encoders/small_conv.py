"""A small convolutional network for small pictures and spectrograms; a laptop trains it in seconds."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Le
from pydantic import Field
from torch import Tensor, nn

from mmcore.config import Section
from mmcore.data.spec import Modality
from mmcore.encoders.base import ENCODERS, ImageEncoder, input_channels


class SmallConvConfig(Section):
    """Sizes of the network."""

    width: Annotated[int, Ge(1)] = Field(
        default=16, description="channels of the first block; each further one doubles them, up to `features`"
    )
    features: Annotated[int, Ge(1)] = Field(default=64, description="D, the channels of the last block")
    depth: Annotated[int, Ge(1), Le(6)] = Field(
        default=3, description="blocks; each but the first halves height and width"
    )


@ENCODERS.register("small_conv")
class SmallConv(ImageEncoder):
    """`depth` blocks of convolution 3x3, batch norm and ReLU, then the mean over height and width."""

    Config = SmallConvConfig

    def __init__(self, config: SmallConvConfig, modality: Modality):
        super().__init__(config, modality)
        widths = [min(config.width * 2**block, config.features) for block in range(config.depth - 1)]
        channels = [input_channels(modality), *widths, config.features]
        blocks = [
            conv_block(channels[block], channels[block + 1], stride=1 if block == 0 else 2)
            for block in range(config.depth)
        ]
        self.blocks = nn.Sequential(*blocks).to(memory_format=torch.channels_last)
        self.num_features = config.features

    def encode_images(self, x: Tensor) -> Tensor:
        """Returns features (N, D), all at least 0, of pictures (N, C, H, W)."""
        return self.blocks(x).mean(dim=(2, 3))


def conv_block(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Returns convolution 3x3, batch norm, ReLU: (N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride))."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
