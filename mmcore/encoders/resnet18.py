"""torchvision's ResNet18, the backbone of most papers of this field, trained from random initial values."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mmcore.config import Section
from mmcore.data.spec import Modality
from mmcore.encoders.base import ENCODERS, ImageEncoder, input_channels


class ResNet18Config(Section):
    """ResNet18 has no sizes to choose."""

    weights: Literal["none"] = Field(default="none", description="initial values; none: torchvision's random ones")


@ENCODERS.register("resnet18")
class ResNet18(ImageEncoder):
    """ResNet18 up to its global average pooling: D = 512 features, all at least 0; any number of channels."""

    Config = ResNet18Config
    num_features = 512

    def __init__(self, config: ResNet18Config, modality: Modality):
        # Imported here: it takes longer than everything else a run with another encoder imports after torch.
        from torchvision.models.resnet import resnet18

        super().__init__(config, modality)
        network = resnet18(weights=None)
        channels = input_channels(modality)
        if channels != 3:
            network.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
            # As torchvision initialises its own first convolution.
            nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.fc = nn.Identity()
        self.network = network.to(memory_format=torch.channels_last)

    def encode_images(self, x: Tensor) -> Tensor:
        """Returns features (N, 512) of pictures (N, C, H, W)."""
        return self.network(x)
