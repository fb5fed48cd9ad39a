"""torchvision's ResNet50, the image encoder of the image-text papers, pretrained or from random initial values."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mmcore.config.sections import Section
from mmcore.data.spec import Modality
from mmcore.encoders.base import ENCODERS, ImageEncoder, input_channels
from mmcore.encoders.resnet18 import without_last_stages
from mmcore.encoders.weights import RANDOM, check_size, check_torchvision, load_all, torchvision_state

SIZES: dict[str, dict[str, Any]] = {
    "50": {"layers": [3, 4, 6, 3], "width_per_group": 64},
    "tiny": {"layers": [1, 1, 1, 1], "width_per_group": 8},
}


class ResNet50Config(Section):
    """Initial values and size."""

    weights: str = Field(
        default=RANDOM, description="random, a name of torchvision's (IMAGENET1K_V1; downloaded once), or a file"
    )
    size: Literal["50", "tiny"] = Field(
        default="50", description="tiny: two stages of one block, an eighth as wide inside; for demos, random only"
    )


@ENCODERS.register("resnet50")
class ResNet50(ImageEncoder):
    """ResNet50 up to its global average pooling: D = 2048 (tiny: 512) features, all at least 0; any channels.

    Pretrained weights on other than three channels: the first convolution is the mean of its kernels over colour,
    for each channel, times 3 / channels, so that a grey picture gives what it gave.
    """

    Config = ResNet50Config
    features_are = "global average pooling"
    weights_from = "torchvision's, by their name (`IMAGENET1K_V1`, `IMAGENET1K_V2`; downloaded once), or as a file"

    @classmethod
    def check_files(cls, config: ResNet50Config) -> None:
        """Raises a UsageError if the weights are not there."""
        check_torchvision("resnet50", config.weights)

    def __init__(self, config: ResNet50Config, modality: Modality):
        from torchvision.models.resnet import Bottleneck, ResNet

        super().__init__(config, modality)
        network = ResNet(Bottleneck, **SIZES[config.size])
        network.fc = nn.Identity()
        self.num_features = 2048
        if config.size == "tiny":
            without_last_stages(network)
            self.num_features = 512
        if config.weights != RANDOM:
            check_size(config.size, config.weights, "50")
            load_all(network, torchvision_state("resnet50", config.weights), config.weights, ignored=["fc."])
        channels = input_channels(modality)
        if channels != 3:
            network.conv1 = _stem(network.conv1, channels, keep=config.weights != RANDOM)
        self.network = network.to(memory_format=torch.channels_last)

    def encode_images(self, x: Tensor) -> Tensor:
        """Returns features (N, D) of pictures (N, C, H, W)."""
        features: Tensor = self.network(x)
        return features


def _stem(first: nn.Conv2d, channels: int, *, keep: bool) -> nn.Conv2d:
    """Returns a first convolution of other channels, from `first`'s kernels or as torchvision starts it."""
    stem = nn.Conv2d(channels, first.out_channels, kernel_size=7, stride=2, padding=3, bias=False)
    if not keep:
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        return stem
    with torch.no_grad():
        stem.weight.copy_(first.weight.mean(dim=1, keepdim=True).expand_as(stem.weight) * (3 / channels))
    return stem
