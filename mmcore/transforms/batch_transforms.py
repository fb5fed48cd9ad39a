"""Cheap or random transforms, applied to a batch on its own device: crop, flip, normalise, log-spectrogram.

Everything is a pure function of the batch: the random numbers of a sample travel with it (`Batch.uniforms`), so
augmentation does not depend on how a batch is cut among workers, nor on the device. The constants (mean, window,
mel filters) are non-persistent buffers: they move with the module and set the floating type of its output, and
no checkpoint holds them. Nothing here waits for the device.

Shape legend: B samples, T samples of a waveform, V frames of its spectrogram, F frequency bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, BeforeValidator, Field
from torch import Tensor, nn

from mmcore.batch import Batch
from mmcore.config.sections import Section, parse_section
from mmcore.data.spec import DatasetSpec, Modality
from mmcore.errors import ConfigError, suggest
from mmcore.transforms.augmentation import (
    consecutive_frames,
    crop_and_resize,
    crop_boxes,
    draw_views,
    flip_some,
    middle_boxes,
    resize,
)
from mmcore.transforms.spectrogram import (
    LOG_FLOOR,
    frame_mask,
    kaldi_filterbank,
    kaldi_filters,
    log_spectrogram,
    mel_filters,
    resample_frames,
    standardise,
    tile,
)


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, int | float) else value


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("a pair (low, high) with low <= high")
    return pair


Size = Annotated[int, Ge(1), Le(10**8)]
Fraction = Annotated[float, Gt(0), Le(1)]
Positive = Annotated[float, Gt(0)]


class ImageTransform(Section):
    """uint8 pictures (C, H, W), or frames of them (T, C, H, W), to floating numbers; others are taken as they are."""

    mean: Annotated[tuple[float, ...], BeforeValidator(_one_or_more)] = Field(
        default=(0.0,), description="subtracted, for pixels in [0, 1]; one number or one per channel"
    )
    std: Annotated[tuple[Positive, ...], BeforeValidator(_one_or_more)] = Field(
        default=(1.0,), description="divided by; one number or one per channel"
    )
    crop_scale: Annotated[tuple[Fraction, Fraction], AfterValidator(_ascending)] | None = Field(
        default=None, description="training: a random part, of this share of the picture's area, is cut out and resized"
    )
    crop_ratio: Annotated[tuple[Positive, Positive], AfterValidator(_ascending)] = Field(
        default=(3 / 4, 4 / 3), description="width to height of that part, in pixels, as far as it fits"
    )
    middle_scale: Fraction | None = Field(
        default=None,
        description="evaluation: the middle, of this share of the picture's area, is cut out and resized; none: all",
    )
    train_frames: Size | None = Field(
        default=None,
        description="training: as many consecutive frames, from a random one on; evaluation, or none: all",
    )
    flip: bool = Field(default=False, description="training: half of the samples are mirrored left to right")
    size: tuple[Size, Size] | None = Field(default=None, description="height and width to hand over; none: as stored")

    @property
    def augments(self) -> bool:
        """Whether training differs from evaluation."""
        return self.flip or self.crop_scale is not None or self.train_frames is not None


class SpectrogramTransform(Section):
    """int16 waveforms (T,), or floating ones in [-1, 1], to log-spectrograms (1, F, V)."""

    tile_to: Size | None = Field(
        default=None,
        description="samples of the waveform a clip is repeated (or cut) to; none: as stored",
    )
    n_fft: Annotated[int, Ge(2), Le(65_536)] = Field(default=512, description="samples of one window (periodic Hann)")
    hop_length: Size = Field(default=128, description="samples from one window to the next")
    n_mels: Size | None = Field(
        default=None, description="mel filters on the power spectrum; none: the magnitude, F = n_fft / 2 + 1"
    )
    frames: Size | None = Field(default=None, description="V, to which the valid part is resampled; none: all")
    kaldi: bool = Field(
        default=False,
        description="Kaldi's filterbank of n_mels filters instead, as AST and CAV-MAE take it: see kaldi_filterbank",
    )
    standardise: bool = Field(default=True, description="mean 0 and deviation 1 over each clip's valid frames")
    mean: float = Field(default=0.0, description="subtracted from the logarithm, where `standardise` is off")
    std: Positive = Field(default=1.0, description="and divided by")


class NoTransform(Section):
    """Features and tokens have no settings: features become floating numbers, tokens stay as they are."""


class BatchTransforms(nn.Module):
    """The transforms of all modalities. Build it with `build_transforms`.

    Args:
        spec: The data set.
        settings: Modality -> its validated settings.

    Raises:
        ConfigError: Lists the settings that do not fit the stored shapes.
    """

    def __init__(self, spec: DatasetSpec, settings: Mapping[str, Section]):
        super().__init__()
        self.settings = dict(settings)
        self.transforms = nn.ModuleDict()
        problems: list[str] = []
        for modality in spec.modalities:
            try:
                self.transforms[modality.name] = _TRANSFORMS[modality.kind](modality, settings[modality.name])
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)
        self._augments = any(modality.views for modality in spec.modalities) or any(
            isinstance(section, ImageTransform) and section.augments for section in settings.values()
        )

    def augments(self, modality: str) -> bool:
        """Tells whether training changes this modality's samples."""
        section = self.settings[modality]
        return isinstance(section, ImageTransform) and section.augments

    @torch.no_grad()
    def forward(self, batch: Batch, *, training: bool) -> Batch:
        """Returns the batch as encoders take it.

        Args:
            batch: As stored, on the device of this module. It is not changed. It may lack modalities.
            training: Whether pictures are cropped and flipped, and which of the stored views is taken.

        Returns:
            The same samples. Lengths of audio become valid frames of the spectrogram (its last axis), and
            are left out where every clip was resampled to the same number of frames.

        Raises:
            ValueError: Training augments, and the batch carries no random numbers (`uniforms`).
        """
        if training and self._augments and batch.uniforms is None:
            raise ValueError("a training batch needs uniforms: crop, flip and views draw nothing themselves")
        uniforms = batch.uniforms if training else None
        inputs: dict[str, Tensor] = {}
        lengths: dict[str, Tensor] = {}
        for name, x in batch.inputs.items():
            inputs[name], length = self.transforms[name](x, batch.lengths.get(name), uniforms)
            if length is not None:
                lengths[name] = length
        transformed = batch.with_inputs(inputs)
        transformed.lengths = lengths
        return transformed


def build_transforms(
    spec: DatasetSpec,
    defaults: Mapping[str, Mapping[str, Any]],
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> BatchTransforms:
    """Builds the transforms of a data set.

    Args:
        spec: The data set.
        defaults: Modality -> settings the data set chose (`DatasetSource.default_transforms`).
        overrides: Modality -> settings of the run (`dataset.transforms`), which replace those, key by key.

    Raises:
        ConfigError: Lists every problem: unknown modalities and keys with the nearest name, values out of
            range, settings that do not fit the stored shapes.
    """
    overrides = overrides or {}
    problems = [
        f"unknown modality 'dataset.transforms.{name}'{suggest(name, spec.modality_names)}"
        for name in dict.fromkeys([*defaults, *overrides])
        if name not in spec.modality_names
    ]
    settings: dict[str, Section] = {}
    for modality in spec.modalities:
        values = {**defaults.get(modality.name, {}), **overrides.get(modality.name, {})}
        try:
            path = f"dataset.transforms.{modality.name}"
            settings[modality.name] = parse_section(_SETTINGS[modality.kind], values, path)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return BatchTransforms(spec, settings)


class _Transform(nn.Module):
    """Takes (x, lengths or None, uniforms or None in evaluation), returns (x, lengths or None)."""

    def add_constant(self, name: str, value: Tensor | None) -> None:
        self.register_buffer(name, None if value is None else value.to(torch.get_default_dtype()), persistent=False)


class _Image(_Transform):
    """(x / 255 - mean) / std, as one product and sum; stored bytes alone are divided by 255."""

    factor: Tensor
    offset: Tensor

    def __init__(self, modality: Modality, settings: ImageTransform):
        super().__init__()
        self.settings = settings
        channels = modality.shape[-3]
        problems = []
        constants = []
        for name in ("mean", "std"):
            values = getattr(settings, name)
            if len(values) not in (1, channels):
                problems.append(f"{_path(modality)}.{name} must have 1 or {channels} values, got {values!r}")
            constants.append(torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1))
        most = modality.shape[0] if len(modality.shape) == 4 else 1
        if (settings.train_frames or 0) > most:
            problems.append(f"{_path(modality)}.train_frames must be at most {most}, got {settings.train_frames}")
        if problems:
            raise ConfigError(problems)
        mean, std = constants
        self.add_constant("factor", 1 / (std * (255 if modality.dtype == "uint8" else 1)))
        self.add_constant("offset", -mean / std)

    def forward(self, x: Tensor, lengths: Tensor | None, uniforms: Tensor | None) -> tuple[Tensor, Tensor | None]:
        settings = self.settings
        if settings.train_frames and uniforms is not None:
            x, lengths = consecutive_frames(x, lengths, settings.train_frames, uniforms)
        if settings.flip and uniforms is not None:
            x = flip_some(x, uniforms)
        x = x.to(self.factor.dtype)
        size = settings.size or (x.shape[-2], x.shape[-1])
        if settings.crop_scale and uniforms is not None:
            height_to_width = x.shape[-2] / x.shape[-1]
            boxes = crop_boxes(uniforms.to(x.dtype), height_to_width, settings.crop_scale, settings.crop_ratio)
            x = crop_and_resize(x, boxes, size)
        elif settings.middle_scale and uniforms is None:
            x = crop_and_resize(x, middle_boxes(x, settings.middle_scale), size)
        elif size != x.shape[-2:]:
            x = resize(x, size)
        x = torch.addcmul(self.offset, x, self.factor)
        return (x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x), lengths


class _Spectrogram(_Transform):
    window: Tensor
    filters: Tensor | None

    def __init__(self, modality: Modality, settings: SpectrogramTransform):
        super().__init__()
        self.settings = settings
        _check_spectrogram(modality, settings)
        window = torch.hann_window(settings.n_fft, periodic=not settings.kaldi)
        # Stored integers are scaled to [-1, 1] by the window: a power of two, so nothing is rounded.
        self.add_constant("window", window / (32768 if modality.dtype == "int16" else 1))
        self.add_constant("filters", None if settings.n_mels is None else _filters(modality, settings))

    def forward(self, x: Tensor, lengths: Tensor | None, uniforms: Tensor | None) -> tuple[Tensor, Tensor | None]:
        settings = self.settings
        if settings.tile_to is not None:
            x, lengths = tile(x, lengths, settings.tile_to), None
        has_lengths = lengths is not None
        spectrogram, num_frames = (self._kaldi if settings.kaldi else self._stft)(x.to(self.window.dtype), lengths)
        valid = None if num_frames is None else frame_mask(num_frames, spectrogram.shape[-1])
        if settings.standardise:
            spectrogram = standardise(spectrogram, valid)
        else:
            if valid is not None:
                silence = 0.0 if settings.kaldi else math.log(LOG_FLOOR)
                spectrogram = torch.where(valid[:, None], spectrogram, silence)
            if (settings.mean, settings.std) != (0, 1):
                spectrogram = (spectrogram - settings.mean) / settings.std
        if settings.frames is not None:
            spectrogram = resample_frames(spectrogram, num_frames, settings.frames)
            num_frames = None
        return spectrogram[:, None], num_frames if has_lengths else None

    def _stft(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        hop = self.settings.hop_length
        return log_spectrogram(x, self.window, hop, self.filters), None if lengths is None else 1 + lengths // hop

    def _kaldi(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns T // hop_length frames, of which those that would end behind the clip do not count.

        The published code fills up with zeros behind the last frame to as many, 1,024 for 10.24 s.
        """
        hop, size = self.settings.hop_length, len(self.window)
        spectrogram = kaldi_filterbank(x, self.window, hop, cast(Tensor, self.filters))
        spectrogram = F.pad(spectrogram, (0, x.shape[1] // hop - spectrogram.shape[-1]))
        if lengths is None:
            lengths = torch.full_like(x[:, 0], x.shape[1], dtype=torch.int64)
        return spectrogram, 1 + (lengths - size).clamp(min=0) // hop


class _Features(_Transform):
    """Floating numbers; of stored views, one of the augmented in training and the plain one in evaluation."""

    one: Tensor

    def __init__(self, modality: Modality, settings: NoTransform):
        super().__init__()
        self.views = modality.views
        self.add_constant("one", torch.ones(()))

    def forward(self, x: Tensor, lengths: Tensor | None, uniforms: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.views:
            x = x[:, 0] if uniforms is None else draw_views(x, uniforms)
        return x.to(self.one.dtype), lengths


class _Tokens(_Transform):
    def __init__(self, modality: Modality, settings: NoTransform):
        super().__init__()

    def forward(self, x: Tensor, lengths: Tensor | None, uniforms: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return x, lengths


_SETTINGS: dict[str, type[Section]] = {
    "image": ImageTransform, "audio": SpectrogramTransform, "features": NoTransform, "tokens": NoTransform,
}  # fmt: skip
_TRANSFORMS: dict[str, Any] = {"image": _Image, "audio": _Spectrogram, "features": _Features, "tokens": _Tokens}


def _path(modality: Modality) -> str:
    return f"dataset.transforms.{modality.name}"


def _check_spectrogram(modality: Modality, settings: SpectrogramTransform) -> None:
    problems = []
    path = _path(modality)
    if len(modality.shape) != 1:
        problems.append(f"{path}: a spectrogram is made of a waveform (T,), got {modality.shape}")
    if settings.n_mels is not None and modality.sample_rate_hz is None:
        problems.append(f"{path}.n_mels must be none: the data set states no sample rate")
    if settings.kaldi and settings.n_mels is None:
        problems.append(f"{path}.n_mels must be given where kaldi is true")
    length = settings.tile_to or modality.shape[-1]
    if settings.kaldi and max(settings.n_fft, settings.hop_length) > length:
        problems.append(f"{path}: where kaldi is true, n_fft and hop_length must be at most {length}, a clip's samples")
    if settings.standardise and (settings.mean, settings.std) != (0, 1):
        problems.append(f"{path}.standardise must be false where mean or std is given")
    if problems:
        raise ConfigError(problems)


def _filters(modality: Modality, settings: SpectrogramTransform) -> Tensor:
    num_filters, rate_hz = cast(int, settings.n_mels), cast(int, modality.sample_rate_hz)
    if settings.kaldi:
        return kaldi_filters(num_filters, 2 ** math.ceil(math.log2(settings.n_fft)), rate_hz)
    filters = mel_filters(num_filters, settings.n_fft, rate_hz)
    num_empty = int((filters.sum(dim=1) == 0).sum())
    if num_empty:
        problem = f"{num_empty} of {settings.n_mels} filters hold none of the {filters.shape[1]} frequencies"
        raise ConfigError([f"{_path(modality)}.n_mels must be smaller, or n_fft larger: {problem}"])
    return filters
