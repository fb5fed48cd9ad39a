"""A small convolutional network for small pictures and spectrograms; a laptop trains it in seconds."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Ge, Le
from pydantic import Field
from torch import Tensor, nn

from mmcore.config.sections import Section
from mmcore.data.spec import Modality
from mmcore.encoders.base import ENCODERS, ImageEncoder, input_channels


class SmallConvConfig(Section):
    """Sizes of the network."""

    width: Annotated[int, Ge(1), Le(65_536)] = Field(
        default=16, description="channels of the first block; each further one doubles them, up to `features`"
    )
    features: Annotated[int, Ge(1), Le(65_536)] = Field(default=64, description="D, the channels of the last block")
    depth: Annotated[int, Ge(1), Le(6)] = Field(
        default=4, description="blocks; each halves height and width, rounding up"
    )


@ENCODERS.register("small_conv")
class SmallConv(ImageEncoder):
    """`depth` blocks of convolution 3x3, batch norm and ReLU, then the mean over height and width."""

    Config = SmallConvConfig
    features_are = "mean over height and width of the last block"

    def __init__(self, config: SmallConvConfig, modality: Modality):
        super().__init__(config, modality)
        widths = [min(config.width * 2**block, config.features) for block in range(config.depth - 1)]
        channels = [input_channels(modality), *widths, config.features]
        # Halving from the first block on: a small picture is seen as a whole, at a third of the cost.
        blocks = [conv_block(before, after) for before, after in pairwise(channels)]
        self.blocks = nn.Sequential(*blocks).to(memory_format=torch.channels_last)
        self.num_features = config.features

    def encode_images(self, x: Tensor) -> Tensor:
        """Returns features (N, D), all at least 0, of pictures (N, C, H, W)."""
        maps: Tensor = self.blocks(x)
        return maps.mean(dim=(2, 3))


def conv_block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Returns convolution 3x3, batch norm, ReLU: (N, in, H, W) -> (N, out, ceil(H / 2), ceil(W / 2))."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
