"""What a step is given: the samples of one shard as tensors.

Shape legend: B samples in this shard; the rest of a modality's shape is its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

NUM_UNIFORMS = 8
"""Uniform random numbers a sample carries for its augmentation; see `Batch.uniforms`."""


@dataclass
class Batch:
    """Samples of one shard, all modalities.

    Attributes:
        inputs: Modality -> (B, ...), as stored (uint8 frames, int16 waveform, ...) or, after the
            transforms, as the encoders take it.
        labels: (B,) int64 class indices.
        lengths: Modality -> (B,) int64 valid lengths along the first axis of a sample, for modalities whose
            length varies (the rest is zero padding).
        present: Modality -> (B,) bool, for modalities that may be missing.
        sample_ids: B identifiers, unique within the data set.
        uniforms: (B, NUM_UNIFORMS) float32 in [0, 1), drawn with the sample's place in the epoch, so that
            augmentation is the same however the batch is cut among workers; None in evaluation.
        rows: (B,) int64, each sample's place in its split, from 0, as `Loader.rows` counts them: the same in every
            epoch and on every rank; None where no loader gave the batch.
        is_placeholder: True for the stand-in of an empty shard: the rank takes part in every collective
            call, with weight 0.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    lengths: dict[str, Tensor] = field(default_factory=dict)
    present: dict[str, Tensor] = field(default_factory=dict)
    sample_ids: list[str] = field(default_factory=list)
    uniforms: Tensor | None = None
    rows: Tensor | None = None
    is_placeholder: bool = False

    @property
    def num_samples(self) -> int:
        """Samples that count: B, or 0 for a placeholder."""
        return 0 if self.is_placeholder else len(self.labels)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Returns this batch with every tensor on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Returns this batch in page-locked memory, from which copies to a GPU do not block."""
        return self._map(Tensor.pin_memory)

    def select(self, start: int, stop: int) -> Batch:
        """Returns the samples from `start` up to, not including, `stop` (views, no copy)."""
        part = self._map(lambda tensor: tensor[start:stop])
        part.sample_ids = self.sample_ids[start:stop]
        return part

    def with_inputs(self, inputs: dict[str, Tensor]) -> Batch:
        """Returns this batch with other inputs (same samples)."""
        return replace(self, inputs=inputs)

    def without(self, dropped: Mapping[str, Tensor]) -> Batch:
        """Returns this batch with some samples lacking modalities: modality -> (B,) bool, those that lose it."""
        present = dict(self.present)
        for name, mask in dropped.items():
            present[name] = present[name] & ~mask if name in present else ~mask
        return replace(self, present=present)

    def has(self, *modalities: str) -> Tensor | None:
        """Returns which samples have every one of `modalities`, (B,) bool; None where none of them is ever missing."""
        masks = [self.present[name] for name in modalities if name in self.present]
        return functools.reduce(torch.logical_and, masks) if masks else None

    def has_any(self, *modalities: str) -> Tensor | None:
        """Returns which samples have at least one of `modalities`, (B,) bool; None where one is never missing."""
        if not all(name in self.present for name in modalities):
            return None
        return functools.reduce(torch.logical_or, [self.present[name] for name in modalities])

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            inputs={name: function(tensor) for name, tensor in self.inputs.items()},
            labels=function(self.labels),
            lengths={name: function(tensor) for name, tensor in self.lengths.items()},
            present={name: function(tensor) for name, tensor in self.present.items()},
            uniforms=None if self.uniforms is None else function(self.uniforms),
            rows=None if self.rows is None else function(self.rows),
        )
