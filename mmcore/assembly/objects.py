"""From a configuration to the objects a run needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mmcore.config.schema import RunConfig
from mmcore.config.sections import parse_section
from mmcore.data.spec import DatasetSpec
from mmcore.errors import UsageError
from mmcore.layers import batchnorm
from mmcore.methods.base import METHODS, Context, Method, Need
from mmcore.methods.step import Teacher
from mmcore.model import build_model
from mmcore.seeding import seed_process
from mmcore.training.class_weights import check_class_weights
from mmcore.transforms.batch_transforms import BatchTransforms, build_transforms


def build_method(
    config: RunConfig,
    spec: DatasetSpec,
    device: torch.device | str = "cpu",
    teachers: Mapping[str, Teacher] | None = None,
) -> Method:
    """Builds encoders, projections, heads and fusion; equal configurations give equal initial values.

    Args:
        config: The run.
        spec: Its data set.
        device: Where the method shall be.
        teachers: Modality -> teacher, for training a method that needs them (`needs_teachers`).

    Raises:
        ConfigError: A modality, encoder or setting that does not fit the data set.
    """
    method_class, method_config = _method_config(config)
    modalities = method_class.used_modalities(method_config, spec.modality_names)
    check_class_weights(config.trainer.class_weights, spec.num_classes)
    seed_process(config.seed, "model")
    model = build_model(
        spec,
        config.model.encoders,
        equal_features=Need.EQUAL_FEATURES in method_class.needs(method_config),
        projection_dim=config.model.projection_dim,
        modalities=modalities,
    )
    if config.model.batch_norm == "synchronised":
        batchnorm.convert(model)
    context = Context(modalities, spec.num_classes, config.trainer.max_epochs, dict(teachers or {}))
    method = method_class(model, method_config, context)
    dtype = torch.float64 if config.trainer.precision == "float64" else torch.float32
    return method.to(device=device, dtype=dtype)


def used_modalities(config: RunConfig, spec: DatasetSpec) -> tuple[str, ...]:
    """Returns the modalities the configuration's method predicts from.

    Raises:
        ConfigError: It names one the data set does not have.
    """
    return modalities_of(config, spec.modality_names)


def modalities_of(config: RunConfig, modalities: Sequence[str]) -> tuple[str, ...]:
    """As `used_modalities`, from the names of the data set's modalities."""
    method_class, method_config = _method_config(config)
    return method_class.used_modalities(method_config, modalities)


def needs_teachers(config: RunConfig) -> bool:
    """Returns whether a run's method learns from a frozen model of each modality."""
    method_class, method_config = _method_config(config)
    return Need.TEACHERS in method_class.needs(method_config)


def build_run_transforms(config: RunConfig, spec: DatasetSpec) -> BatchTransforms:
    """Builds the transforms that run on the device; those of encoded modalities ran before they were encoded."""
    transforms = {name: section for name, section in config.dataset.transforms.items()
                  if name not in config.dataset.encode}  # fmt: skip
    return build_transforms(spec, {}, transforms)


def resolve_device(name: str) -> torch.device:
    """Returns the device `auto`, `cpu` or `cuda` stands for on this process.

    Raises:
        UsageError: `cuda` where there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("trainer.device is cuda, but this process sees no GPU; use auto or cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _method_config(config: RunConfig) -> tuple[type[Method], Any]:
    method_class = METHODS.get(config.method["name"])
    settings = {key: value for key, value in config.method.items() if key != "name"}
    return method_class, parse_section(method_class.Config, settings, "method")
