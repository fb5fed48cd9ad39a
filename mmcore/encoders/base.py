"""What an encoder is: one modality's samples in, one feature vector per sample out.

Shape legend: B samples, T frames, C channels, D features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmcore.config.sections import Section, parse_section
from mmcore.data.spec import Kind, Modality
from mmcore.errors import ConfigError, UsageError
from mmcore.layers.precision import guard_convolutions
from mmcore.registry import Registry


class Encoder(nn.Module, ABC):
    """Maps one modality, as `mmcore.transforms.batch_transforms` hands it over, to features.

    Class attributes:
        Config: Settings, validated.
        kinds: Kinds of modality it takes.
        features_are: What its features are, in words; kept with features that are stored.
        weights_from: Which pretrained weights it can load and where they come from, for the encoders' page.

    Attributes:
        num_features: D; set by `__init__`.
    """

    Config: ClassVar[type[Section]]
    kinds: ClassVar[frozenset[Kind]]
    features_are: ClassVar[str] = "last layer"
    weights_from: ClassVar[str] = "none, it is trained from random initial values"
    num_features: int

    @abstractmethod
    def __init__(self, config: Any, modality: Modality):
        """Builds the network with random initial values from torch's global generator.

        Args:
            config: An instance of `Config`.
            modality: What it will encode, as stored; `input_channels` tells C after the transforms.
        """
        super().__init__()

    @classmethod
    def check_files(cls, config: Any) -> None:
        """Raises a UsageError if a file, or a published model, that `config` names is not there; reads none.

        Args:
            config: An instance of `Config`.
        """

    @abstractmethod
    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns features (B, D).

        Args:
            x: (B, ...), transformed.
            lengths: (B,) int64 valid lengths of `x`, where they vary.
        """

    @classmethod
    def gives_steps(cls, modality: Modality) -> bool:
        """Whether `encode_steps` gives features of each frame of this modality."""
        return False

    def encode_steps(self, x: Tensor) -> Tensor:
        """Returns features (B, T, D) of each step of `x`, (B, T, ...), padding too; where `gives_steps` says so."""
        raise NotImplementedError(f"{type(self).__name__} gives features of whole samples alone")


ENCODERS: Registry[Encoder] = Registry("encoder", "equipoise.encoders", "mmcore.encoders")


class ImageEncoder(Encoder):
    """Base of encoders of pictures (B, C, H, W), spectrograms among them, and of frames (B, T, C, H, W).

    Every frame is encoded alone and the features are averaged over the valid frames. The network runs in
    channels-last memory, which is faster for convolutions on CPUs and GPUs alike.
    """

    kinds = frozenset({"image", "audio"})

    @abstractmethod
    def encode_images(self, x: Tensor) -> Tensor:
        """Returns features (N, D) of pictures (N, C, H, W) in channels-last memory."""

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns features (B, D) of `x`, (B, C, H, W) or (B, T, C, H, W).

        `lengths` counts valid frames where there is a T, and is not used otherwise: what follows a short
        clip in its spectrogram was made neutral by the transform.
        """
        if x.dim() == 4:
            return self.encode_images(x.contiguous(memory_format=torch.channels_last))
        return mean_over_frames(self.encode_steps(x), lengths)

    @classmethod
    def gives_steps(cls, modality: Modality) -> bool:
        """Whether these are frames (T, C, H, W)."""
        return modality.kind == "image" and len(modality.shape) == 4

    def encode_steps(self, x: Tensor) -> Tensor:
        """Returns features (B, T, D) of frames (B, T, C, H, W)."""
        pictures = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return torch.unflatten(self.encode_images(pictures), 0, x.shape[:2])


def mean_over_frames(features: Tensor, lengths: Tensor | None) -> Tensor:
    """Returns the mean (B, D) of `features` (B, T, D) over each sample's first `lengths` frames (at least one)."""
    if lengths is None:
        return features.mean(dim=1)
    counts = lengths.clamp(min=1)
    valid = torch.arange(features.shape[1], device=features.device) < counts[:, None]
    # where, not a product: a frame of padding may be encoded to anything, infinity included.
    total = torch.where(valid[:, :, None], features, 0).sum(dim=1)
    return total / counts[:, None].to(features.dtype)


def input_channels(modality: Modality) -> int:
    """Returns the channels C of a modality after its transform: 1 for audio, which becomes a spectrogram."""
    if modality.kind == "image":
        return modality.shape[-3]
    return modality.shape[-1] if modality.kind == "features" else 1


def missing_files(section: Mapping[str, Any], path: str) -> list[str]:
    """Returns what is to be said of the files that an encoder's section names and that are not there.

    Args:
        section: As `build_encoder` takes it; one that is wrong is left to that.
        path: Path of the section in the configuration.
    """
    try:
        encoder = ENCODERS.get(section.get("name", ""))
        settings = {key: value for key, value in section.items() if key != "name"}
        config = parse_section(encoder.Config, settings, path)
    except (UsageError, ConfigError):
        return []
    try:
        encoder.check_files(config)
    except UsageError as error:
        return [f"{path}.weights: {error} (--set {path}.weights=…)"]
    return []


def build_encoder(section: Mapping[str, Any], modality: Modality, where: str = "model.encoders") -> Encoder:
    """Builds the encoder a configuration section names.

    Args:
        section: `{"name": "small_conv", ...}`, the other keys being those of the encoder's `Config`.
        modality: What it will encode.
        where: Path of the sections in the configuration, for messages.

    Raises:
        UsageError: Unknown name, or an encoder of other kinds of modality.
        ConfigError: Lists every problem of the settings.
    """
    encoder, path = encoder_of(section, modality, where), f"{where}.{modality.name}"
    settings = {key: value for key, value in section.items() if key != "name"}
    network = encoder(parse_section(encoder.Config, settings, path), modality)
    guard_convolutions(network)
    return network


def encoder_of(section: Mapping[str, Any], modality: Modality, where: str = "model.encoders") -> type[Encoder]:
    """Returns the encoder a configuration section names, not built yet.

    Args:
        section: As `build_encoder` takes it.
        modality: What it will encode.
        where: Path of the sections in the configuration, for messages.

    Raises:
        ConfigError: The section names none.
        UsageError: Unknown name, or an encoder of other kinds of modality.
    """
    if not isinstance(section.get("name"), str):
        path = f"{where}.{modality.name}"
        raise ConfigError([f"{path} must be a mapping with a key 'name' (an encoder), got {dict(section)!r}"])
    encoder = ENCODERS.get(section["name"])
    if modality.kind not in encoder.kinds:
        raise UsageError(
            f"'{section['name']}' encodes {' and '.join(sorted(encoder.kinds))}, "
            f"but '{modality.name}' is of kind {modality.kind}; choose another encoder"
        )
    return encoder
