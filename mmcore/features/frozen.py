"""Frozen encoders: run once over stored samples, so that training needs their features alone.

The weights are those a section names; random ones are seeded by `SEED`, so that they can be had again. Everything
runs as in evaluation: no dropout, no statistics of the batch. On GPUs under autocast to float16, in which features are
stored.

Shape legend: B samples, T frames, D features, K views.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmcore.batch import NUM_UNIFORMS, Batch
from mmcore.config.schema import DatasetConfig
from mmcore.config.sections import parse_section
from mmcore.data.spec import DATASETS, DatasetSpec, Modality
from mmcore.encoders.base import ENCODERS, Encoder, build_encoder, encoder_of, mean_over_frames
from mmcore.errors import ConfigError, DataError, suggest
from mmcore.seeding import derive_seed
from mmcore.transforms.batch_transforms import BatchTransforms, build_transforms

SEED = 0
"""Seed of the initial values of frozen encoders without pretrained weights."""
DTYPE = "float16"
NUM_PICTURES = {"cuda": 256, "cpu": 64}
"""Pictures, sounds or texts encoded at once; a sample of several frames counts as so many."""


@dataclass(frozen=True)
class Recipe:
    """What decides stored features, apart from the weights' content; small, and picklable.

    Attributes:
        spec: The samples before they are encoded.
        sections: Modality -> its frozen encoder's section, every default filled in.
        transforms: Modality -> settings of the transform before it, every default filled in.
        views: Modality -> augmented views stored behind the plain one.
    """

    spec: DatasetSpec
    sections: Mapping[str, Mapping[str, Any]]
    transforms: Mapping[str, Mapping[str, Any]]
    views: Mapping[str, int]

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Those to be encoded, as they are stored before."""
        return tuple(modality for modality in self.spec.modalities if modality.name in self.sections)

    def keeps_steps(self, modality: Modality) -> bool:
        """Whether features of each frame are stored, not their mean; of views only the mean is."""
        return not self.views[modality.name] and ENCODERS.get(self._name(modality)).gives_steps(modality)

    def key(self) -> str:
        """Returns 8 hexadecimal digits that are equal exactly for recipes that ask for the same features."""
        content = [SEED, DTYPE, self.sections, self.transforms, self.views]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]

    def default_encoders(self) -> dict[str, dict[str, Any]]:
        """Returns modality -> section of what is trained on its features: `mlp`, or `temporal` on those of frames."""
        return {
            modality.name: {"name": "temporal" if self.keeps_steps(modality) else "mlp"} for modality in self.modalities
        }

    def pooling(self, modality: Modality) -> str:
        """Returns in words what became of several frames."""
        if not ENCODERS.get(self._name(modality)).gives_steps(modality):
            return "by the encoder"
        return "none: features of each frame" if self.keeps_steps(modality) else "mean over the valid frames"

    def _name(self, modality: Modality) -> str:
        return str(self.sections[modality.name]["name"])


def recipe_of(dataset: DatasetConfig, spec: DatasetSpec) -> Recipe:
    """Returns what a checked `dataset` section asks to be encoded.

    Args:
        dataset: With `encode`, and the `transforms` and `views` that concern it.
        spec: The samples before they are encoded.

    Raises:
        ConfigError: A modality the data set does not have, a transform that does not fit, or views of nothing that is
            augmented.
        UsageError: An encoder of other kinds of modality.
    """
    unknown = [name for name in dataset.encode if name not in spec.modality_names]
    if unknown:
        raise ConfigError(
            [f"unknown modality 'dataset.encode.{name}'{suggest(name, spec.modality_names)}" for name in unknown]
        )
    chosen = replace(spec, modalities=tuple(m for m in spec.modalities if m.name in dataset.encode))
    for modality in chosen.modalities:
        encoder_of(dataset.encode[modality.name], modality, "dataset.encode")
    source = DATASETS.get(dataset.name)
    defaults = source(parse_section(source.Config, dataset.options, "dataset.options")).default_transforms()
    transforms = build_transforms(chosen, _of(chosen, defaults), _of(chosen, dataset.transforms))
    views = {name: dataset.views if transforms.augments(name) else 0 for name in chosen.modality_names}
    if dataset.views and not any(views.values()):
        raise ConfigError(
            [
                f"dataset.views must be 0, got {dataset.views}: nothing augments {', '.join(views) or 'anything'}; set "
                "dataset.transforms.<modality>.flip or crop_scale"
            ]
        )
    settings = {name: section.model_dump(mode="json") for name, section in transforms.settings.items()}
    return Recipe(spec, {name: dict(dataset.encode[name]) for name in chosen.modality_names}, settings, views)


class FrozenEncoders:
    """The frozen encoders of a recipe, ready to run.

    Args:
        recipe: What they are.
        device: Where they compute.

    Attributes:
        spec: The samples after they were encoded.
        checksums: Modality -> sha256 of its encoder's weights.
        batch_size: Samples encoded at once.

    Raises:
        UsageError: An encoder that does not take the modality, or weights that cannot be read.
        CheckpointError: Damaged weights.
    """

    def __init__(self, recipe: Recipe, device: torch.device | str = "cpu"):
        self._recipe, self._device = recipe, torch.device(device)
        self._transforms = _transforms_of(recipe).to(self._device)
        self._encoders = {modality.name: _frozen(recipe, modality) for modality in recipe.modalities}
        self.checksums = {name: weights_sha256(encoder) for name, encoder in self._encoders.items()}
        for encoder in self._encoders.values():
            encoder.to(self._device)
        stored = tuple(self._stored(modality) for modality in recipe.spec.modalities)
        self.spec = replace(recipe.spec, modalities=stored)
        frames = [modality.shape[0] for modality in recipe.modalities if len(modality.shape) == 4]
        self.batch_size = max(1, NUM_PICTURES[self._device.type] // max(frames, default=1))

    @torch.no_grad()
    def __call__(self, batch: Batch, *, plain_only: bool = False) -> Batch:
        """Returns samples with features in the place of what was encoded, on the device; the rest stays where it was.

        Args:
            batch: As `Recipe.spec` says, in memory of the CPU.
            plain_only: Leave out the augmented views, of which evaluation sees none: their axis has length 1 then.
        """
        own = replace(batch, inputs={name: batch.inputs[name] for name in self._encoders})
        own = (own.pin_memory() if self._device.type == "cuda" else own).to(self._device, non_blocking=True)
        features = self._features(own, 0)
        viewed = [name for name, number in self._recipe.views.items() if number]
        if viewed:
            number = 0 if plain_only else max(self._recipe.views.values())
            own = own.with_inputs({name: own.inputs[name] for name in viewed})
            views = [self._features(own, view) for view in range(1, 1 + number)]
            features |= {name: torch.stack([features[name], *(view[name] for view in views)], 1) for name in viewed}
        lengths = {m.name: batch.lengths[m.name] for m in self.spec.modalities if m.variable_length}
        return replace(batch, inputs={**batch.inputs, **features}, lengths=lengths)

    def describe(self) -> dict[str, dict[str, Any]]:
        """Returns modality -> what dataset.json tells of its features."""
        recipe = self._recipe
        return {
            modality.name: {
                "encoder": dict(recipe.sections[modality.name]),
                "weights_sha256": self.checksums[modality.name],
                "seed": SEED,
                "layer": self._encoders[modality.name].features_are,
                "pooling": recipe.pooling(modality),
                "transform": dict(recipe.transforms[modality.name]),
                "views": recipe.views[modality.name],
            }
            for modality in recipe.modalities
        }

    def check(self, encoded: Batch) -> None:
        """Looks whether every feature is a number; waits for the device.

        Raises:
            DataError: One is not; the message names the first such sample.
        """
        for name in self._encoders:
            check_finite(encoded.inputs[name].cpu().numpy(), encoded.sample_ids, name, self._recipe.sections[name])

    def _features(self, batch: Batch, view: int) -> dict[str, Tensor]:
        """Returns modality -> (B, D) or (B, T, D) float16 of one view; of 0 as evaluation sees the samples."""
        if view:
            batch = replace(batch, uniforms=view_uniforms(batch.sample_ids, view).to(self._device))
        batch = self._transforms(batch, training=view > 0)
        with torch.autocast(self._device.type, dtype=torch.float16, enabled=self._device.type == "cuda"):
            return {name: self._encode(batch, name).to(torch.float16) for name in batch.inputs}

    def _encode(self, batch: Batch, name: str) -> Tensor:
        """Returns features of one modality: zeros behind the last valid frame, and of samples that lack it."""
        encoder, x = self._encoders[name], batch.inputs[name]
        present, lengths = batch.has(name), batch.lengths.get(name)
        if present is not None:
            x = torch.where(present.view(-1, *[1] * (x.dim() - 1)), x, 0)
        if encoder.gives_steps(self._modality(name)):
            features = encoder.encode_steps(x)
            if self._recipe.views[name]:
                features = mean_over_frames(features, lengths)
            elif lengths is not None:
                valid = torch.arange(features.shape[1], device=x.device) < lengths.clamp(min=1)[:, None]
                features = torch.where(valid[:, :, None], features, 0)
        else:
            features = encoder(x, lengths)
        if present is None:
            return features
        return torch.where(present.view(-1, *[1] * (features.dim() - 1)), features, 0)

    def _modality(self, name: str) -> Modality:
        return next(modality for modality in self._recipe.modalities if modality.name == name)

    def _stored(self, modality: Modality) -> Modality:
        if modality.name not in self._encoders:
            return modality
        views, has_steps = self._recipe.views[modality.name], self._recipe.keeps_steps(modality)
        axes = (1 + views,) if views else (modality.shape[0],) if has_steps else ()
        return Modality(
            modality.name,
            "features",
            (*axes, self._encoders[modality.name].num_features),
            DTYPE,
            variable_length=modality.variable_length and has_steps,
            may_be_missing=modality.may_be_missing,
            views=views,
        )


def view_uniforms(sample_ids: Sequence[str], view: int) -> Tensor:
    """Returns `Batch.uniforms` of an augmented view, (B, NUM_UNIFORMS) float32, a function of (sample, view) alone."""
    rows = [
        np.random.default_rng(derive_seed(SEED, "view", view, sample_id)).random(NUM_UNIFORMS, dtype=np.float32)
        for sample_id in sample_ids
    ]
    return torch.from_numpy(np.stack(rows))


def weights_sha256(network: nn.Module) -> str:
    """Returns the checksum of a network's parameters and buffers: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_finite(features: np.ndarray, sample_ids: Sequence[str], name: str, section: Mapping[str, Any]) -> None:
    """Raises a DataError that names the first sample with a feature that is no number, or too large for float16."""
    whole = np.isfinite(features).reshape(len(features), -1).all(axis=1)
    if whole.all():
        return
    row = int(whole.argmin())
    what = "are NaN" if np.isnan(features[row]).any() else "are larger than float16 holds (65504)"
    raise DataError(
        f"sample {sample_ids[row]}: features of '{name}' by '{section['name']}' {what}, in {(~whole).sum()} of "
        f"{len(whole)} samples looked at; check the weights and the transform's mean and std"
    )


def differing_weights(recorded: Mapping[str, str], found: Mapping[str, str]) -> str:
    """Returns in words which encoders' weights are not those recorded; "" where all are."""
    return ", ".join(
        f"{name} (sha256 {recorded[name][:12]} then, {found[name][:12]} now)"
        for name in found
        if name in recorded and recorded[name] != found[name]
    )


def _frozen(recipe: Recipe, modality: Modality) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(SEED, "encoder", modality.name))
        encoder = build_encoder(recipe.sections[modality.name], modality, "dataset.encode")
    return encoder.eval().requires_grad_(requires_grad=False)


def _transforms_of(recipe: Recipe) -> BatchTransforms:
    return build_transforms(replace(recipe.spec, modalities=recipe.modalities), {}, recipe.transforms)


def _of(spec: DatasetSpec, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {name: section for name, section in settings.items() if name in spec.modality_names}
