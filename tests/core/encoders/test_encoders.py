from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import resnet18

from mmcore.data.spec import Kind, Modality
from mmcore.encoders import build_encoder
from mmcore.encoders.base import mean_over_frames
from mmcore.errors import ConfigError, UsageError


def _image(channels: int = 3, height: int = 28, width: int = 28, frames: int | None = None) -> Modality:
    shape = (channels, height, width) if frames is None else (frames, channels, height, width)
    return Modality("image", "image", shape, "uint8")


def _encoder(name: str, modality: Modality, **settings: Any) -> Any:
    torch.manual_seed(0)
    return build_encoder({"name": name, **settings}, modality)


@pytest.mark.parametrize(
    ("name", "channels", "height", "width"),
    [("small_conv", 1, 7, 7), ("small_conv", 3, 32, 20), ("small_conv", 4, 8, 8), ("resnet18", 4, 7, 9)],
)
def test_pictures_of_any_size_and_channels(name: str, channels: int, height: int, width: int) -> None:
    encoder = _encoder(name, _image(channels, height, width))
    features = encoder(torch.randn(3, channels, height, width))
    assert features.shape == (3, encoder.num_features)
    assert features.min() >= 0
    features.square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


@pytest.mark.parametrize("name", ["small_conv", "resnet18"])
def test_a_waveform_arrives_as_one_channel(name: str) -> None:
    encoder = _encoder(name, Modality("audio", "audio", (2000,), "int16", 8000))
    assert encoder(torch.randn(2, 1, 16, 24)).shape == (2, encoder.num_features)


@pytest.mark.parametrize("name", ["small_conv", "resnet18"])
@pytest.mark.parametrize("training", [True, False])
def test_on_the_meta_device(name: str, training: bool) -> None:
    encoder = _encoder(name, _image(2)).to("meta").train(training)
    for shape in ((4, 2, 28, 28), (4, 3, 2, 28, 28)):
        lengths = torch.ones(4, dtype=torch.int64, device="meta")
        features = encoder(torch.empty(shape, device="meta"), lengths)
        assert features.shape == (4, encoder.num_features)
        assert features.device.type == "meta"


@pytest.mark.parametrize("name", ["small_conv", "resnet18"])
def test_memory_is_channels_last_and_does_not_change_the_result(name: str) -> None:
    encoder = _encoder(name, _image()).double().eval()
    weights = [parameter for parameter in encoder.parameters() if parameter.dim() == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    seen: list[Tensor] = []
    first = next(module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d))
    first.register_forward_hook(lambda module, args, y: seen.append(y))
    x = torch.randn(2, 3, 28, 28, dtype=torch.float64)
    features = encoder(x)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    plain = copy.deepcopy(encoder).to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(plain.encode_images(x), features, rtol=0, atol=1e-12)


def test_frames_are_encoded_alone_and_averaged() -> None:
    encoder = _encoder("small_conv", _image(frames=3)).double().eval()
    x = torch.randn(4, 3, 3, 28, 28, dtype=torch.float64)
    lengths = torch.tensor([3, 1, 2, 0])
    each = torch.stack([encoder(x[:, frame]) for frame in range(3)])
    torch.testing.assert_close(encoder(x), each.mean(dim=0))
    features = encoder(x, lengths)
    for row, length in enumerate([3, 1, 2, 1]):  # a sample of no frames keeps its padding, not NaN
        torch.testing.assert_close(features[row], sum(each[frame, row] for frame in range(length)) / length)


def test_padding_frames_may_be_anything() -> None:
    features = torch.tensor([[[1.0], [torch.inf]], [[2.0], [4.0]]], requires_grad=True)
    mean = mean_over_frames(features, torch.tensor([1, 2]))
    assert mean.tolist() == [[1], [3]]
    mean.sum().backward()
    assert features.grad is not None
    assert features.grad.flatten().tolist() == [1, 0, 0.5, 0.5]


def test_resnet18_is_torchvisions() -> None:
    encoder = _encoder("resnet18", _image()).eval()
    torch.manual_seed(0)
    theirs = resnet18(weights=None).eval()
    theirs.fc = nn.Identity()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(encoder(x), theirs(x), rtol=1e-4, atol=1e-5)
    assert encoder.num_features == 512
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 11_176_512


def test_resnet18_initialises_other_channels_as_torchvision_does() -> None:
    weight = _encoder("resnet18", _image(channels=1)).network.conv1.weight
    assert weight.shape == (64, 1, 7, 7)
    assert weight.std().item() == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("settings", "channels", "num_features"),
    [({}, [1, 16, 32, 64, 64], 64), ({"width": 40, "features": 50, "depth": 4}, [1, 40, 50, 50, 50], 50),
     ({"width": 99, "features": 8, "depth": 1}, [1, 8], 8)],
)  # fmt: skip
def test_small_conv_widths(settings: dict[str, int], channels: list[int], num_features: int) -> None:
    encoder = _encoder("small_conv", _image(channels=1), **settings)
    convolutions = [module for module in encoder.modules() if isinstance(module, nn.Conv2d)]
    assert [module.in_channels for module in convolutions] == channels[:-1]
    assert [module.out_channels for module in convolutions] == channels[1:]
    depth = len(convolutions)
    assert encoder.blocks(torch.randn(2, 1, 9, 31)).shape[2:] == (-(-9 // 2**depth), -(-31 // 2**depth))
    assert encoder.num_features == num_features


def test_same_seed_same_values() -> None:
    for name in ("resnet18", "small_conv"):
        one, other = _encoder(name, _image(1)), _encoder(name, _image(1))
        torch.testing.assert_close(dict(one.state_dict()), dict(other.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["tokens", "features"])
def test_kinds_an_encoder_does_not_take(kind: Kind) -> None:
    with pytest.raises(UsageError) as caught:
        build_encoder({"name": "resnet18"}, Modality("text", kind, (12,), "int32"))
    assert str(caught.value) == (
        f"'resnet18' encodes audio and image, but 'text' is of kind {kind}; choose another encoder"
    )


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError) as caught:
        _encoder("small_conv", _image(), width=0, dept=2)
    assert caught.value.problems == [
        "model.encoders.image.width must be in [1, 65536], got 0",
        "unknown key 'model.encoders.image.dept': did you mean 'depth'? known: depth, features, width",
    ]
    with pytest.raises(ConfigError, match=r"^model.encoders.image must be a mapping with a key 'name'"):
        build_encoder({"width": 3}, _image())
    with pytest.raises(UsageError, match=r"^unknown encoder 'small_con': did you mean 'small_conv'\?"):
        _encoder("small_con", _image())
