"""From a configuration to the objects a run needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mmcore import batchnorm
from mmcore.class_weights import check_class_weights
from mmcore.config import DatasetConfig, RunConfig, get_path, parse_dataset, parse_section
from mmcore.data.spec import DATASETS, DatasetSource, DatasetSpec
from mmcore.encoders.base import missing_files
from mmcore.encoding import recipe_of
from mmcore.errors import UsageError, unknown_name
from mmcore.methods.base import METHODS, Context, Method, Need
from mmcore.model import build_model
from mmcore.seeding import seed_process
from mmcore.transforms import BatchTransforms, build_transforms


def build_source(config: RunConfig) -> DatasetSource:
    """Returns the source of the configuration's data set, with its options."""
    return _source_of({"name": config.dataset.name, "options": config.dataset.options})


def complete_config(config: RunConfig) -> RunConfig:
    """Returns the configuration with the data set's own choices (encoders, transforms) written out.

    Raises:
        ConfigError: An encoder or transform of a modality the data set does not have, among others.
    """
    source, data = build_source(config), config.to_dict()
    encoders = default_encoders(source, config.dataset)
    data["model"]["encoders"] = {**encoders, **data["model"]["encoders"]}
    defaults, given = source.default_transforms(), data["dataset"]["transforms"]
    data["dataset"]["transforms"] = {
        name: {**defaults.get(name, {}), **given.get(name, {})} for name in dict.fromkeys([*defaults, *given])
    }
    completed = RunConfig.parse(data)
    build_transforms(source.spec(), {}, completed.dataset.transforms)
    return completed


def default_encoders(source: DatasetSource, dataset: DatasetConfig) -> dict[str, dict[str, Any]]:
    """Returns modality -> section of what is trained: the data set's own choice, on stored features a small one."""
    frozen = recipe_of(dataset, source.spec()).default_encoders() if dataset.encode else {}
    return {**source.default_encoders(), **frozen}


def with_named_encoders(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a mapping for `RunConfig.parse` in which an encoder's section without a name is the data set's own one.

    So `{"model": {"encoders": {"image": {"width": 8}}}}` changes one key and keeps the others. A frozen encoder
    (`dataset.encode`) of the name the data set itself has takes the data set's settings, too.
    """
    dataset = with_named_frozen(values["dataset"])
    given = get_path(values, "model.encoders")
    if not isinstance(given, Mapping) or not given:
        return {**values, "dataset": dataset}
    source = _source_of(dataset)
    is_needed = any(name in given and "name" not in given[name] for name in dataset.get("encode", {}))
    defaults = default_encoders(source, parse_dataset(dataset)) if is_needed else source.default_encoders()
    encoders = {
        name: section if "name" in section else {**defaults.get(name, {}), **section} for name, section in given.items()
    }
    return {**values, "dataset": dataset, "model": {**values["model"], "encoders": encoders}}


def with_named_frozen(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a `dataset` section whose frozen encoders have the data set's own settings where it has the same ones."""
    given = dataset.get("encode")
    if not isinstance(given, Mapping) or not given:
        return dict(dataset)
    own = _source_of(dataset).default_encoders()
    encode = {}
    for name, section in given.items():
        default = own.get(name, {})
        is_same = isinstance(section, Mapping) and section.get("name", default.get("name")) == default.get("name")
        encode[name] = {**default, **section} if is_same else section
    return {**dataset, "encode": encode}


def build_method(config: RunConfig, spec: DatasetSpec, device: torch.device | str = "cpu") -> Method:
    """Builds encoders, projections, heads and fusion; equal configurations give equal initial values.

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
    method = method_class(model, method_config, Context(modalities, spec.num_classes, config.trainer.max_epochs))
    dtype = torch.float64 if config.trainer.precision == "float64" else torch.float32
    return method.to(device=device, dtype=dtype)


def variant_settings(method: str, variant: str, modalities: Sequence[str]) -> dict[str, Any]:
    """Returns what a method's named variant sets: path of the configuration -> value.

    Raises:
        UsageError: The method has no variant of that name; lists those it has.
    """
    known = METHODS.get(method).variants(modalities)
    if variant not in known:
        raise unknown_name(f"variant of {method}", variant, list(known))
    return known[variant]


def variants_of(config: RunConfig, modalities: Sequence[str]) -> list[str]:
    """Returns the names of the method's variants whose every setting a configuration has."""
    values = config.to_dict()
    known = METHODS.get(config.method["name"]).variants(modalities)
    return [
        name
        for name, settings in known.items()
        if all(get_path(values, path) == value for path, value in settings.items())
    ]


def used_modalities(config: RunConfig, spec: DatasetSpec) -> tuple[str, ...]:
    """Returns the modalities the configuration's method predicts from.

    Raises:
        ConfigError: It names one the data set does not have.
    """
    method_class, method_config = _method_config(config)
    return method_class.used_modalities(method_config, spec.modality_names)


def missing_weights(config: RunConfig) -> list[str]:
    """Returns what is to be said of the weights that a complete configuration names, and that are not there.

    Only those of modalities its method uses, and of frozen encoders.
    """
    used = used_modalities(config, build_source(config).spec())
    trained = {f"model.encoders.{name}": config.model.encoders.get(name, {}) for name in used}
    problems = [problem for path, section in trained.items() for problem in missing_files(section, path)]
    return [*missing_frozen(config.dataset), *problems]


def missing_frozen(dataset: DatasetConfig) -> list[str]:
    """Returns what `missing_weights` says of the frozen encoders alone."""
    sections = {f"dataset.encode.{name}": section for name, section in dataset.encode.items()}
    return [problem for path, section in sections.items() for problem in missing_files(section, path)]


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


def _source_of(dataset: Mapping[str, Any]) -> DatasetSource:
    source = DATASETS.get(dataset["name"])
    return source(parse_section(source.Config, dataset.get("options", {}), "dataset.options"))


def _method_config(config: RunConfig) -> tuple[type[Method], Any]:
    method_class = METHODS.get(config.method["name"])
    settings = {key: value for key, value in config.method.items() if key != "name"}
    return method_class, parse_section(method_class.Config, settings, "method")
