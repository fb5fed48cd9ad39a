"""Diagnosing & Re-learning: encoders that learnt what does not hold beyond training are set back part of the way.

In short: A few times in a run, each modality's features are clustered, once for training and once for validation. The
further the two clusterings differ in how well they find the classes, the more of the encoder's initial weights is mixed
into it, so that it learns anew.

Paper: "Diagnosing and Re-learning for Balanced Multimodal Learning", ECCV 2024.

Step by step: trained as `joint`. After epoch e > 0 that `every_epochs` divides, `times` times at most: each modality's
features of train and of validation, in evaluation, each dimension scaled to [-1, 1] over its set; K-means with as many
clusters as classes; purity P is the share of samples in the most frequent class of their cluster. a_m = tanh(strength
|P_train - P_val|), and θ_m <- a_m θ_m⁰ + (1 - a_m) θ_m for all parameters of the encoder, with θ_m⁰ its initial ones.

Cost: a step is that of `joint`; each diagnosis is a pass over up to 5,000 samples of train and of validation, and four
or more clusterings on the CPU. A copy of the encoders' weights is kept.

Rulings and deviations (each with a test in tests/core/methods/test_relearning.py):
  1. Heads, batch norms' statistics and the optimizer's state stay as they are (released). A pretrained encoder's
     initial weights are the pretrained ones. A projection belongs to its encoder.
  2. The released code runs 50 epochs, in which two diagnoses happen, after epochs 20 and 40 from 0. Epochs are scaled
     with the run's length. One that would fall after the last epoch is left out: nothing would learn anew.
  3. Validation is that of the protocol, never test.
  4. At most 5,000 samples of a split are clustered, drawn with the run's seed. K-means starts from a fixed seed, ten
     times, by k-means++.
  5. The released code keeps its learning rate: variant `released`.
  6. A missing modality: samples that lack it are not clustered. One that no sample of a split has is left alone.

Shape legend: B samples, N clustered samples, D features, K classes, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from mmcore import seeding
from mmcore.layers.precision import full_precision
from mmcore.methods.base import METHODS, Context
from mmcore.methods.joint import Joint, JointConfig
from mmcore.methods.k_means import k_means, purity

if TYPE_CHECKING:
    from mmcore.methods.step import Step
    from mmcore.model import MultimodalModel

MOST_SAMPLES = 5000
SPLITS = ("train", "val")


class RelearningConfig(JointConfig):
    """Settings of Diagnosing & Re-learning; defaults are the authors'.

    Attributes:
        every_epochs: Epochs from one diagnosis to the next, in epochs of `schedule_epochs`.
        times: Most diagnoses of a run.
        strength: How much a gap of the purities sets back; 0: nothing.
        schedule_epochs: Length of the authors' run, to which `every_epochs` belongs.
    """

    every_epochs: Annotated[int, Ge(1), Le(10**6)] = 20
    times: Annotated[int, Ge(0), Le(10**6)] = 3
    strength: Annotated[float, Ge(0)] = 3.0
    schedule_epochs: Annotated[int, Ge(1), Le(10**6)] = 50


def diagnosis_epochs(every_epochs: int, times: int, schedule_epochs: int, max_epochs: int) -> frozenset[int]:
    """Returns the epochs of this run, from 0, before which it is diagnosed: each follows one of the rule's epochs."""
    scale = max_epochs / schedule_epochs
    most = min(times, max_epochs)
    found = (max(1, round(number * every_epochs * scale)) + 1 for number in range(1, most + 1))
    return frozenset(epoch for epoch in found if epoch < max_epochs)


def scaled(features: Tensor) -> Tensor:
    """Returns features (N, D) with each dimension's least value at -1 and its greatest at 1; one that is constant: -1.

    Args:
        features: (N, D), N at least 1.
    """
    low, high = features.aminmax(dim=0)
    width = high - low
    return 2 * (features - low) / torch.where(width > 0, width, 1) - 1


def cluster_purity(features: Tensor, labels: Tensor, num_classes: int) -> float:
    """Returns how well clusters of features find the classes, in (0, 1]; 0 without samples.

    Args:
        features: (N, D) on the CPU.
        labels: (N,) on the CPU.
        num_classes: K, the number of clusters.
    """
    if not len(labels):
        return 0.0
    return purity(k_means(scaled(features), num_classes, seeding.generator(0, "k-means")), labels)


def set_back(purities: Tensor, strength: float) -> Tensor:
    """Returns a = tanh(strength |P_train - P_val|), (M,) in [0, 1); 0 where a purity is 0, which no sample gives.

    Args:
        purities: (2, M), of train and of validation.
        strength: Not negative.
    """
    shares = torch.tanh(strength * (purities[0] - purities[1]).abs())
    return torch.where((purities > 0).all(dim=0), shares, 0)


@METHODS.register("relearning")
class Relearning(Joint):
    """Trains the fused cross-entropy, over all samples. A missing modality is features of zero to the fusion head.

    State (buffers): the encoders' initial weights, and of the newest diagnosis the purities and what was set back.
    """

    Config = RelearningConfig

    def __init__(self, model: MultimodalModel, config: RelearningConfig, context: Context):
        super().__init__(model, config, context)
        self.epochs = diagnosis_epochs(config.every_epochs, config.times, config.schedule_epochs, context.max_epochs)
        for name in context.modalities:
            weights = [parameter.detach().flatten() for parameter in self._encoder(name)]
            self.register_buffer(f"initial_{name}", torch.cat([torch.zeros(0), *weights]))
        self.purities: Tensor
        self.register_buffer("purities", torch.zeros(len(SPLITS), len(context.modalities)))
        self.shares: Tensor
        self.register_buffer("shares", torch.zeros(len(context.modalities)))

    @classmethod
    def variants(cls, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns the released code's learning rate, which stays."""
        return {"released": {"schedule.name": "constant"}}

    @torch.no_grad()
    def begin_epoch(self, engine: Step) -> None:
        """Diagnoses the encoders, where it is due, and sets them back."""
        if engine.place.epoch not in self.epochs:
            return
        found = self.purities.new_tensor([self._measured(split, engine) for split in SPLITS])
        # Each rank clusters the same samples; the mean keeps ranks equal where their processors round differently.
        self.purities.copy_(engine.sum(found) / engine.sum(torch.ones_like(found)))
        self.shares.copy_(set_back(self.purities, self.config.strength))
        for name, share in self._by_name(self.shares):
            self._set_back(name, share)

    def diagnostics(self) -> dict[str, Tensor]:
        """Returns the purities of the newest diagnosis and the shares set back; 0 before the first."""
        values = {f"set_back/{name}": share for name, share in self._by_name(self.shares)}
        for split, purities in zip(SPLITS, self.purities, strict=True):
            values |= {f"purity_{split}/{name}": value for name, value in self._by_name(purities)}
        return values

    def _measured(self, split: str, engine: Step) -> list[float]:
        """Returns the purity of each modality's clusters in a split, over all ranks' samples."""
        features: dict[str, list[Tensor]] = {name: [] for name in self.context.modalities}
        labels: dict[str, list[Tensor]] = {name: [] for name in self.context.modalities}
        for batch in engine.passes(split, most=MOST_SAMPLES):
            with engine.autocast():
                encoded = self.model.encode(batch)
            targets, _ = engine.gather(batch.labels)
            for name, values in encoded.items():
                present = batch.has(name)
                mask = torch.ones_like(batch.labels) if present is None else present.to(batch.labels.dtype)
                found, is_sample = engine.gather(full_precision(values))
                counted = is_sample & (engine.gather(mask)[0] > 0)
                features[name].append(found[counted].cpu())
                labels[name].append(targets[counted].cpu())
        return [
            cluster_purity(torch.cat(features[name]), torch.cat(labels[name]), self.context.num_classes)
            for name in self.context.modalities
        ]

    def _set_back(self, name: str, share: Tensor) -> None:
        """Moves a share, (), of the way from an encoder's weights to its initial ones."""
        parameters = self._encoder(name)
        initial = self.get_buffer(f"initial_{name}").split_with_sizes([p.numel() for p in parameters])
        for parameter, start in zip(parameters, initial, strict=True):
            if parameter.requires_grad:
                parameter.lerp_(start.view_as(parameter), share.to(parameter.dtype))

    def _encoder(self, name: str) -> list[nn.Parameter]:
        return self.model.parameter_groups()[f"encoder/{name}"]

    def _by_name(self, values: Tensor) -> list[tuple[str, Tensor]]:
        return list(zip(self.context.modalities, values.unbind(), strict=True))
