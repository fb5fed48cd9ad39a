"""torchvision's ResNet18, the backbone of most papers of this field, trained from random initial values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mmcore.config.sections import Section
from mmcore.data.spec import Modality
from mmcore.encoders.base import ENCODERS, ImageEncoder, input_channels

if TYPE_CHECKING:
    from torchvision.models.resnet import ResNet


class ResNet18Config(Section):
    """Initial values and size."""

    weights: Literal["none"] = Field(default="none", description="initial values; none: torchvision's random ones")
    size: Literal["18", "tiny"] = Field(default="18", description="tiny: two stages of one block; for demos")


@ENCODERS.register("resnet18")
class ResNet18(ImageEncoder):
    """ResNet18 up to its global average pooling: D = 512 (tiny: 128) features, all at least 0; any channels."""

    Config = ResNet18Config
    features_are = "global average pooling"

    def __init__(self, config: ResNet18Config, modality: Modality):
        # Imported here: it takes longer than everything else a run with another encoder imports after torch.
        from torchvision.models.resnet import BasicBlock, ResNet

        super().__init__(config, modality)
        network = ResNet(BasicBlock, [2, 2, 2, 2] if config.size == "18" else [1, 1, 1, 1])
        self.num_features = 512
        if config.size == "tiny":
            without_last_stages(network)
            self.num_features = 128
        channels = input_channels(modality)
        if channels != 3:
            network.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
            # As torchvision initialises its own first convolution.
            nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.fc = nn.Identity()
        self.network = network.to(memory_format=torch.channels_last)

    def encode_images(self, x: Tensor) -> Tensor:
        """Returns features (N, D) of pictures (N, C, H, W)."""
        features: Tensor = self.network(x)
        return features


def without_last_stages(network: ResNet) -> None:
    """Leaves out a residual network's last two stages of four, which hold nearly all of its parameters."""
    network.layer3 = nn.Identity()
    network.layer4 = nn.Identity()
