"""A data set for tests of encoding: frames that may be missing, a picture, a sound; and an encoder that goes wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from mmcore.config.sections import Section
from mmcore.data.prepared import writer
from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.store import PreparedDataset
from mmcore.data.spec import DATASETS, DatasetSource, DatasetSpec, Modality, Sample
from mmcore.encoders.base import ENCODERS, Encoder

SIDE, FRAMES = 6, 3
CONV = {"name": "small_conv", "width": 4, "features": 5, "depth": 2}


class ScenesConfig(Section):
    num_samples: Annotated[int, Ge(1)] = 20
    shift: int = 0


class Scenes(DatasetSource):
    """Sample i has 1 + i % 3 frames (none where i % 4 = 1), a picture and a sound, all drawn from i."""

    Config = ScenesConfig
    needs_raw = False
    options: ScenesConfig

    def spec(self) -> DatasetSpec:
        clip = Modality("clip", "image", (FRAMES, 1, SIDE, SIDE), "uint8", variable_length=True, may_be_missing=True)
        picture = Modality("picture", "image", (1, SIDE, SIDE), "uint8")
        sound = Modality("sound", "audio", (64,), "int16", sample_rate_hz=8000, variable_length=True)
        return DatasetSpec("scenes", ("a", "b"), (clip, picture, sound))

    def samples(self, raw_dir: Path | None) -> Iterator[tuple[str, Sample]]:
        for number in range(self.options.num_samples):
            yield "test" if number % 5 == 4 else "val" if number % 5 == 3 else "train", self.sample(number)

    def sample(self, number: int) -> Sample:
        generator = np.random.default_rng(number + self.options.shift)
        is_there, frames = number % 4 != 1, 1 + number % FRAMES
        clip = generator.integers(0, 256, (FRAMES, 1, SIDE, SIDE), dtype=np.uint8)
        clip[frames if is_there else 0 :] = 0
        return Sample(
            sample_id=f"scene-{number:02d}",
            label=number % 2,
            group=f"scene-{number:02d}",
            source=f"scene-{number:02d}",
            arrays={
                "clip": clip,
                "picture": generator.integers(0, 256, (1, SIDE, SIDE), dtype=np.uint8),
                "sound": generator.integers(-9999, 9999, 64, dtype=np.int16),
            },
            lengths={"clip": frames if is_there else 0, "sound": 64},
            present={"clip": is_there},
        )

    def card(self) -> str:
        return "Scenes."

    def default_transforms(self) -> dict[str, dict[str, Any]]:
        picture = {"mean": 0.5, "std": 0.25}
        return {"clip": picture, "picture": picture, "sound": {"n_fft": 16, "hop_length": 8}}

    def default_encoders(self) -> dict[str, dict[str, Any]]:
        return {name: dict(CONV) for name in ("clip", "picture", "sound")}


class ScaledConfig(Section):
    scale: float = 1.0


class Scaled(Encoder):
    """The sum of a picture's values and 0, times `scale`; NaN where that is negative and `scale` is."""

    Config = ScaledConfig
    kinds = frozenset({"image"})

    def __init__(self, config: ScaledConfig, modality: Modality):
        super().__init__(config, modality)
        self.register_buffer("factor", torch.rand(2))
        self._scale, self.num_features = config.scale, 2

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        total = x.flatten(1).sum(dim=1, keepdim=True) * self.factor
        return torch.where((total < 0) & (self._scale < 0), math.nan, total * abs(self._scale))


def register() -> None:
    """Enters both; may be called again."""
    DATASETS.register("scenes")(Scenes)
    ENCODERS.register("scaled")(Scaled)


def prepare_scenes(
    monkeypatch: Any, data_dir: Path, rows_per_file: int = 100, groups_per_file: int = 1, **options: Any
) -> PreparedDataset:
    """Returns the data set in files of `rows_per_file` rows, in row groups (the last may have fewer)."""
    register()
    sample_bytes = sum(modality.num_bytes for modality in Scenes(ScenesConfig()).spec().modalities)
    monkeypatch.setattr(writer, "ROW_GROUP_BYTES", rows_per_file // groups_per_file * sample_bytes)
    monkeypatch.setattr(writer, "PART_BYTES", rows_per_file * sample_bytes)
    return prepare("scenes", options, None, data_dir)
