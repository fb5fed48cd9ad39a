"""Encoders and projections of all modalities. Heads and fusion belong to the method (mmcore.methods).

Shape legend: B samples, D_m features of modality m.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mmcore.batch import Batch
from mmcore.data.spec import DatasetSpec, Modality
from mmcore.encoders.base import Encoder, build_encoder
from mmcore.errors import ConfigError, UsageError, unknown_name
from mmcore.layers.batchnorm import without_statistics
from mmcore.layers.filling import Filling


class MultimodalModel(nn.Module):
    """One encoder per modality, each followed by a projection where the method needs equal feature sizes.

    Args:
        encoders: Modality -> encoder, in the data set's order.
        projections: Modality -> linear layer (D of its encoder -> common D), for all modalities or none.
        fillings: Modality -> what replaces NaN in what its encoder is given, for those where NaN is stored.

    Attributes:
        num_features: Modality -> D_m, after the projection.
        listener: Called with (modality -> features, batch) after every `encode`; the probes listen here.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        projections: Mapping[str, nn.Linear] | None = None,
        fillings: Mapping[str, Filling] | None = None,
    ):
        super().__init__()
        self.listener: Callable[[dict[str, Tensor], Batch], None] | None = None
        self.encoders = nn.ModuleDict(encoders)
        self.projections = nn.ModuleDict(projections or {})
        self.fillings = nn.ModuleDict(fillings or {})
        self.num_features = {name: encoder.num_features for name, encoder in encoders.items()}
        self.num_features |= {name: layer.out_features for name, layer in (projections or {}).items()}

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities encoded, in the data set's order."""
        return tuple(self.encoders)

    def encode(self, batch: Batch, modalities: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Returns modality -> features (B, D_m); zeros where `batch.present` says a sample lacks the modality.

        What is stored for it is never seen: the encoder is given zeros, which in training enter the statistics of its
        batch norms. In training, a single sample or a placeholder leaves no trace there (`without_statistics`).

        Args:
            batch: Transformed samples.
            modalities: Which to encode; all by default.
        """
        is_alone = self.training and (batch.is_placeholder or len(batch.labels) == 1)
        with without_statistics(self, counted=not batch.is_placeholder) if is_alone else nullcontext():
            features = {name: self._encode_one(batch, name) for name in modalities or self.modalities}
        if self.listener is not None:
            self.listener(features, batch)
        return features

    def encode_as_evaluated(self, batch: Batch, modalities: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Returns what `encode` does in evaluation, with gradients, also while the model trains.

        Batch norms use their running statistics and keep them, nothing is dropped, and the listener hears nothing.
        """
        training = [module for module in self.modules() if module.training]
        try:
            for module in training:
                module.training = False
            return {name: self._encode_one(batch, name) for name in modalities or self.modalities}
        finally:
            for module in training:
                module.training = True

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """A context in which the listener hears nothing."""
        listener, self.listener = self.listener, None
        try:
            yield
        finally:
            self.listener = listener

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Returns "encoder/<modality>" -> parameters of its encoder and projection."""
        groups = {f"encoder/{name}": list(encoder.parameters()) for name, encoder in self.encoders.items()}
        for name, layer in self.projections.items():
            groups[f"encoder/{name}"] += layer.parameters()
        return groups

    def _encode_one(self, batch: Batch, name: str) -> Tensor:
        inputs, present = batch.inputs[name], batch.has(name)
        if name in self.fillings:
            inputs = self.fillings[name](inputs)
        if present is not None:
            inputs = torch.where(present.view(-1, *[1] * (inputs.dim() - 1)), inputs, 0)
        features = self.encoders[name](inputs, batch.lengths.get(name))
        if name in self.projections:
            features = self.projections[name](features)
        return features if present is None else torch.where(present[:, None], features, 0)


def build_model(
    spec: DatasetSpec,
    encoder_sections: Mapping[str, Mapping[str, Any]],
    *,
    equal_features: bool,
    projection_dim: int | None = None,
    modalities: Sequence[str] | None = None,
) -> MultimodalModel:
    """Builds the encoders a configuration names, and projections where they are needed.

    Args:
        spec: The data set.
        encoder_sections: Modality -> section with the encoder's name and settings.
        equal_features: Whether the method needs one D for all modalities.
        projection_dim: The common D; None: no projection where the encoders already agree or need not, else
            the smallest of theirs.
        modalities: Those the model takes; all by default.

    Raises:
        UsageError: A modality without an encoder, or unknown to the data set.
        ConfigError: Lists the problems of all encoders' settings.
    """
    chosen = _chosen_modalities(spec, encoder_sections, modalities)
    encoders = _build_encoders(chosen, encoder_sections)
    sizes = [encoder.num_features for encoder in encoders.values()]
    if projection_dim is None and equal_features and len(set(sizes)) > 1:
        projection_dim = min(sizes)
    fillings = {modality.name: Filling(modality.fill, modality.shape[0]) for modality in chosen if modality.fill}
    if projection_dim is None:
        return MultimodalModel(encoders, fillings=fillings)
    projections = {name: nn.Linear(encoder.num_features, projection_dim) for name, encoder in encoders.items()}
    return MultimodalModel(encoders, projections, fillings)


def _chosen_modalities(
    spec: DatasetSpec, sections: Mapping[str, Any], modalities: Sequence[str] | None
) -> list[Modality]:
    for name in [*sections, *(modalities or [])]:
        if name not in spec.modality_names:
            raise unknown_name("modality", name, spec.modality_names)
    chosen = [modality for modality in spec.modalities if modalities is None or modality.name in modalities]
    missing = [modality.name for modality in chosen if modality.name not in sections]
    if missing:
        raise UsageError(f"no encoder for {', '.join(missing)}; name one in model.encoders.{missing[0]}")
    return chosen


def _build_encoders(chosen: list[Modality], sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Encoder]:
    encoders: dict[str, Encoder] = {}
    problems: list[str] = []
    for modality in chosen:
        try:
            encoders[modality.name] = build_encoder(sections[modality.name], modality.one_view)
        except ConfigError as error:
            problems += error.problems
        except UsageError as error:
            problems.append(f"model.encoders.{modality.name}.name: {error}")
    if problems:
        raise ConfigError(problems)
    return encoders
